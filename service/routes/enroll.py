"""POST /gallery: enroll crops, or embeddings made earlier."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from gallery.entry import Enrolled, NewEntry, Remember
from gallery.errors import AnswerErased, DuplicateKey, GalleryError, ModelMismatch
from service.errors import InvalidRequest, ServiceError, UndecodableImage, error_item, without_frames
from service.fields import LABEL_TEXTS
from service.intake import Intake, RawCrop, parse_object, read_intake, require_crops
from service.parts import Parts
from service.pipeline import Embedded, content_hash
from service.routes.bodies import ENROLMENTS, TEXTS, closed, crop_body
from service.routes.common import all_failed, failures, model_header, unless_gone, writes
from service.routes.documents import CHANGING, EMBEDDING, MODEL_HEADER, VECTORS, link, refusals, success
from service.routes.examples import ENROLLED
from service.schemas import MAX_ENTRIES, EnrollAnswer, EnrollQuery, EntryIn, Labels, parse_labels
from service.vectors import from_list, from_text

router = APIRouter(tags=["gallery"])

FIELDS = ("pid", "camid", "captured_at", "attributes")
MAX_KEY = 256
PER_CROP = "One for all crops, or one per crop, in their order."
LABELS = Labels.model_json_schema()["properties"]
BODY = crop_body(
    name="EnrollCrops",
    form={
        name: {"type": "array", "minItems": 1, "items": LABEL_TEXTS[name], "description": PER_CROP, "examples": [[text]]}
        for name, text in TEXTS.items()
    },
    fields={
        name: {"anyOf": [schema, {"type": "array", "minItems": 1, "items": schema}], "description": PER_CROP}
        for name, schema in LABELS.items()
    },
    other=closed(
        "EnrollEntries",
        {"entries": {"type": "array", "items": EntryIn.model_json_schema(), "minItems": 1, "maxItems": MAX_ENTRIES}},
        ["entries"],
    ),
    examples=ENROLMENTS,
)
KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A repeat with the same key and content gives the first answer again, and changes nothing.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
}
REPLAYED = {"Idempotency-Replayed": {"description": "true: the first answer given again.", "schema": {"type": "string"}}}
DOCS = refusals(*CHANGING, *EMBEDDING, *VECTORS, DuplicateKey, AnswerErased, ModelMismatch) | success(
    201,
    "Where each crop or entry landed, durably; one that failed has its error in its place.",
    example=ENROLLED,
    headers=MODEL_HEADER | REPLAYED,
    links={
        "entry": link("show_entry", "The first entry.", entry_id="$response.body#/results/0/entry_id"),
        "crop": link("show_crop", "The first entry's crop.", entry_id="$response.body#/results/0/entry_id"),
        "delete": link("delete_entry", "Delete the first entry.", entry_id="$response.body#/results/0/entry_id"),
        "search": link("search_by", "Who looks like the first entry?", entry_id="$response.body#/results/0/entry_id"),
        "identity": link("show_identity", "The first entry's identity.", pid="$response.body#/results/0/pid"),
        "rename": link("rename_identity", "Rename the first entry's identity.", pid="$response.body#/results/0/pid"),
        "erase": link("erase_identity", "Erase the first entry's identity.", pid="$response.body#/results/0/pid"),
    },
)

Outcome = NewEntry | ServiceError | GalleryError


@dataclass(frozen=True)
class Order:
    """One enrolment as read from its request: crops with their labels, or entries; `fingerprint` names its content."""

    crops: Sequence[RawCrop]
    labels: Sequence[Labels]
    entries: Sequence[object]
    fingerprint: str


@router.post(
    "/gallery",
    status_code=201,
    response_model=EnrollAnswer,
    responses=DOCS,
    openapi_extra={**BODY, "parameters": [KEY_HEADER]},
)
async def enroll(
    request: Request, query: Annotated[EnrollQuery, Query()], parts: Annotated[Parts, writes(EnrollQuery)]
) -> Response:
    """Enroll crops with `pid` and optional labels, or `{"entries": [...]}` with embeddings; durable when answered."""
    await parts.check_room()
    parts.pipeline.check_room()
    key = idempotency_key(request)
    intake = await read_intake(request, parts.limits, parts.pipeline.helpers)
    order = await parts.compute(read_order, intake, query)
    if key is not None:
        remembered = await parts.read(parts.gallery.recall, key, order.fingerprint)
        if remembered is not None:
            return created(parts, remembered, replayed=True)
    outcomes = await unless_gone(request, outcomes_of(parts, order, waited_s=request.state.waited_s))
    errors = failures(outcomes)
    if len(errors) == len(outcomes):
        return all_failed(request, parts, errors, {"results": shown(outcomes, [])})
    body, replayed = await commit(parts, outcomes, key=key, fingerprint=order.fingerprint)
    return created(parts, body, replayed=replayed)


def created(parts: Parts, body: bytes, *, replayed: bool) -> Response:
    """Answer 201, saying when it is the first answer given again."""
    headers = model_header(parts) | ({"Idempotency-Replayed": "true"} if replayed else {})
    return Response(body, status_code=201, media_type="application/json", headers=headers)


def idempotency_key(request: Request) -> str | None:
    """Take the caller's key."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= MAX_KEY:
        raise InvalidRequest(f"Idempotency-Key: got {len(key)} characters, wanted 1 to {MAX_KEY}")
    return key


def read_order(intake: Intake, query: EnrollQuery) -> Order:
    """Sort a body into crops with labels or entries.

    Raises:
        InvalidRequest: fields that are missing, unknown, or as many as neither one nor the crops.
    """
    given = {name: values for name, values in query.model_dump().items() if values}
    if "entries" in intake.fields:
        entries = intake.fields["entries"]
        if intake.crops or len(intake.fields) > 1 or given:
            raise InvalidRequest("got entries and other fields, wanted entries alone: each holds its own pid and camid")
        if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_ENTRIES:
            raise InvalidRequest(f"entries: got {len_or_type(entries)}, wanted a list of 1 to {MAX_ENTRIES}")
        return Order([], [], entries, sha256_of_all(entries))
    require_crops(intake)
    twice = sorted(set(given) & set(intake.fields))
    if twice:
        raise InvalidRequest(f"got {twice} in the query and in the body, wanted each in one place")
    labels = labels_of({**intake.fields, **given}, len(intake.crops))
    hashes = ["bad" if isinstance(crop, UndecodableImage) else content_hash(crop) for crop in intake.crops]
    content = {"crops": hashes, "labels": [label.model_dump(mode="json") for label in labels]}
    return Order(intake.crops, labels, [], sha256_of(content))


def len_or_type(value: object) -> str:
    """Say what was got where a list was wanted."""
    return f"{len(value)} of them" if isinstance(value, list) else type(value).__name__


def sha256_of(content: object) -> str:
    """Name a request's content, whatever form it was sent in."""
    return hashlib.sha256(canonical(content)).hexdigest()


def sha256_of_all(entries: Sequence[object]) -> str:
    """Name `{"entries": entries}` as sha256_of would, one entry at a time: other threads wait while JSON is written."""
    digest = hashlib.sha256(b'{"entries":[')
    for index, entry in enumerate(entries):
        digest.update(b"," * (index > 0) + canonical(entry))
    digest.update(b"]}")
    return digest.hexdigest()


def canonical(content: object) -> bytes:
    """Write JSON in the one form that fingerprints are made of."""
    try:
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:  # it reads deeper than it writes
        raise InvalidRequest(f"got a body that cannot be written as JSON again ({error}), wanted shallow values") from None


def labels_of(fields: Mapping[str, Any], count: int) -> list[Labels]:
    """Give every crop its labels: a field has one value for all crops, or one per crop."""
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise InvalidRequest(f"got the unknown fields {unknown}, wanted crops, {', '.join(FIELDS)}")
    columns: dict[str, list[Any]] = {}
    for name, given in fields.items():
        values = given if isinstance(given, list) else [given]
        if len(values) not in (1, count):
            raise InvalidRequest(f"{name}: got {len(values)} values for {count} crops, wanted 1 or {count}")
        columns[name] = values if len(values) == count else values * count
    rows = [{name: values[index] for name, values in columns.items()} for index in range(count)]
    return [parse_labels(plain(row)) for row in rows]


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what JSON left null, and read attributes that a form could only send as text."""
    kept = {name: value for name, value in row.items() if value is not None}
    if isinstance(kept.get("attributes"), str):
        kept["attributes"] = parse_object(kept["attributes"].encode(), "attributes: ")
    return kept


async def outcomes_of(parts: Parts, order: Order, *, waited_s: float) -> list[Outcome]:
    """Make a new entry, or its error, of every crop or sent embedding."""
    if order.entries:
        return await parts.compute(entries_of, parts, order.entries)
    with parts.pipeline.admit(len(order.crops)) as room:
        embedded = await parts.pipeline.embed(order.crops, room, keep=parts.settings.keep_crops, waited_s=waited_s)
    return [
        labelled(parts, outcome, label) if isinstance(outcome, Embedded) else outcome
        for outcome, label in zip(embedded, order.labels, strict=True)
    ]


def labelled(parts: Parts, crop: Embedded, label: Labels) -> NewEntry:
    """Join an embedded crop and its labels."""
    return NewEntry(
        pid=label.pid,
        embedding=crop.embedding,
        model_id=parts.model.model_id,
        camid=label.camid,
        captured_at=label.captured_at,
        attributes=label.attributes,
        content_hash=crop.content_hash,
        crop_jpeg=crop.jpeg,
    )


def entries_of(parts: Parts, contents: Sequence[object]) -> list[Outcome]:
    """Read sent embeddings, in their order."""
    return [entry_of(parts, content) for content in contents]


def entry_of(parts: Parts, content: object) -> Outcome:
    """Read one sent embedding with its labels; its error stays its own."""
    try:
        entry = parse_labels(plain(content) if isinstance(content, dict) else content, EntryIn)
        assert isinstance(entry, EntryIn)
        sent, dim = entry.embedding, parts.model.dim
        return NewEntry(
            pid=entry.pid,
            embedding=from_text(sent, dim=dim) if isinstance(sent, str) else from_list(sent, dim=dim),
            model_id=parts.model.model_id,
            camid=entry.camid,
            captured_at=entry.captured_at,
            attributes=entry.attributes,
            client_key=entry.client_key,
        )
    except (ServiceError, GalleryError) as error:
        return without_frames(error)


async def commit(parts: Parts, outcomes: Sequence[Outcome], *, key: str | None, fingerprint: str) -> tuple[bytes, bool]:
    """Enroll the good ones in one durable transaction; the key remembers the answer.

    Returns:
        The answer, and whether it is the one of a simultaneous request with the same key, which came first.
    """
    rendered: list[bytes] = []

    def answer(enrolled: list[Enrolled]) -> bytes:
        rendered.append(orjson.dumps({"model_id": parts.model.model_id, "results": shown(outcomes, enrolled)}))
        return rendered[-1]

    new = [outcome for outcome in outcomes if isinstance(outcome, NewEntry)]
    remember = None if key is None else Remember(key=key, fingerprint=fingerprint, answer=answer)
    started = time.perf_counter()
    enrolled = await parts.write(parts.gallery.enroll, new, space_id=parts.model.space_id, remember=remember)
    parts.telemetry.commit_seconds.observe(time.perf_counter() - started)
    if key is not None and not rendered:  # of two simultaneous repeats one has enrolled; both send what was remembered then
        return await parts.write(parts.gallery.recall, key, fingerprint) or answer(enrolled), True
    return rendered[-1] if rendered else answer(enrolled), False


def shown(outcomes: Sequence[Outcome], enrolled: Sequence[Enrolled]) -> list[dict[str, Any]]:
    """Show where each crop landed, or its error; `enrolled` holds those that landed, in order."""
    landed = iter(enrolled)
    results: list[dict[str, Any]] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, NewEntry):
            place = next(landed)
            results.append({"index": index, "entry_id": place.entry_id, "pid": place.pid, "duplicate": place.duplicate})
        else:
            results.append({"index": index, "error": error_item(outcome)})
    return results
