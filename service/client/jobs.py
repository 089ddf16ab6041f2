"""Big jobs: many crops or embeddings, embedded or enrolled in requests of a few each; what fails, fails alone."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from service.client.answers import EmbedAnswer, EnrollAnswer, Enrolled, ItemError, item_error, make
from service.client.calls import Call, content_of
from service.client.crops import Crop, size_of
from service.client.crops import content_of as bytes_of
from service.client.errors import AllFailed, ReidError, TooLarge
from service.client.wire import base64_of, crop_files, json_body, moment

T = TypeVar("T")

REQUEST_BYTES = 12_000_000  # of crops in one request: the service takes 32 MB by default, base64 and all
ENTRIES_PER_REQUEST = 500  # embeddings; the service takes 1,000

Labels = Mapping[str, Sequence[Any]]  # a column for each label, a value for each item


@dataclass(frozen=True)
class Done(Generic[T]):
    """What became of some items, by their places in the job, and the models that answered."""

    model_ids: tuple[str, ...]
    good: Mapping[int, T]
    errors: tuple[ItemError, ...]


@dataclass(frozen=True)
class Job(Generic[T]):
    """Items on their way, at most `per_request` of them in each request.

    Args:
        sizes: the items' bytes. read: gives one's content. call: the request for the contents at some places.
    """

    per_request: int
    sizes: Sequence[int]
    read: Callable[[int], Any]
    call: Callable[[Mapping[int, Any]], Call[Done[T]]]

    def parts(self) -> list[range]:
        """Cut into parts of at most per_request items and REQUEST_BYTES; an item that is larger goes alone."""
        cuts, weight = [0], 0
        for place, size in enumerate(self.sizes):
            weight += size
            if place > cuts[-1] and (place - cuts[-1] >= self.per_request or weight > REQUEST_BYTES):
                cuts.append(place)
                weight = size
        return [range(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(self.sizes)], strict=True)]

    def prepare(self, part: range) -> tuple[Done[T], Call[Done[T]] | None]:
        """Read a part's items; returns those that cannot be sent, and the request for the others, if there are any."""
        read = {place: read_item(self.read, place) for place in part}
        errors = tuple(content for content in read.values() if isinstance(content, ItemError))
        good = {place: content for place, content in read.items() if not isinstance(content, ItemError)}
        return Done((), {}, errors), self.call(good) if good else None


def read_item(read: Callable[[int], Any], place: int) -> Any:
    """Read one item; a file that cannot be read, or is empty, is that item's error and no other's."""
    try:
        content = read(place)
    except OSError as error:
        return ItemError(place, "unreadable_file", f"got {error.strerror or error}, wanted a picture to read")
    return content if content else ItemError(place, "undecodable_image", "got an empty file, wanted a picture")


def halves(part: range) -> tuple[range, range]:
    """Cut a part that was too large in two."""
    middle = (part.start + part.stop) // 2
    return range(part.start, middle), range(middle, part.stop)


def refused(part: range, error: TooLarge) -> Done[Any]:
    """Note the one item that is too large by itself."""
    return Done((), {}, (ItemError(part.start, error.code, error.message),))


def merged(parts: Iterable[Done[T]]) -> Done[T]:
    """Join what became of several parts."""
    model_ids: dict[str, None] = {}
    good: dict[int, T] = {}
    errors: list[ItemError] = []
    for part in parts:
        model_ids |= dict.fromkeys(part.model_ids)
        good |= part.good
        errors += part.errors
    return Done(tuple(model_ids), good, tuple(sorted(errors, key=lambda error: error.index)))


def read_results(places: Sequence[int], read_one: Callable[[Mapping[str, Any]], T]) -> Callable[[httpx.Response], Done[T]]:
    """Read `results`, one for each crop that was sent, as results of the whole job."""

    def read(response: httpx.Response) -> Done[T]:
        content = content_of(response)
        results = [{**result, "index": place} for place, result in zip(places, content["results"], strict=True)]
        good = {result["index"]: read_one(result) for result in results if result.get("error") is None}
        errors = tuple(item_error(result) for result in results if result.get("error") is not None)
        return Done((content["model_id"],) if good else (), good, errors)

    return read


def embed_job(crops: Sequence[Crop], per_request: int) -> Job[NDArray[np.float32]]:
    """Embed crops; embeddings come as base64, which is cheap and, unlike npy, leaves the good ones beside a bad one."""

    def call(contents: Mapping[int, bytes]) -> Call[Done[NDArray[np.float32]]]:
        return Call(
            "POST",
            "/embed",
            read_results(list(contents), read_embedding),
            params={"encoding_format": "base64"},
            files=crop_files(list(contents.values())),
            is_repeatable=True,
            is_part=True,
        )

    return Job(per_request, [size_of(crop) for crop in crops], lambda place: bytes_of(crops[place]), call)


def read_embedding(result: Mapping[str, Any]) -> NDArray[np.float32]:
    """Read one embedding, float32 [D]."""
    return np.frombuffer(base64.b64decode(result["embedding"]), dtype="<f4")


def enroll_crops_job(crops: Sequence[Crop], labels: Labels, *, key: str, per_request: int) -> Job[Enrolled]:
    """Enroll crops; every request has a key of its own, made of the job's and its places, and so may be repeated."""

    def call(contents: Mapping[int, bytes]) -> Call[Done[Enrolled]]:
        fields = {name: [values[place] for place in contents] for name, values in labels.items()}
        return enroll_call(list(contents), key, crop_body(list(contents.values()), fields))

    return Job(per_request, [size_of(crop) for crop in crops], lambda place: bytes_of(crops[place]), call)


def enroll_entries_job(rows: NDArray[np.floating], labels: Labels, *, key: str) -> Job[Enrolled]:
    """Enroll embeddings [N, D] that were made earlier."""

    def read(place: int) -> dict[str, Any]:
        entry = {name: values[place] for name, values in labels.items() if values[place] is not None}
        return {**entry, "embedding": base64_of(rows[place])}

    def call(contents: Mapping[int, dict[str, Any]]) -> Call[Done[Enrolled]]:
        return enroll_call(list(contents), key, json_body({"entries": list(contents.values())}))

    return Job(ENTRIES_PER_REQUEST, [2 * row.nbytes for row in rows], read, call)


def enroll_call(places: Sequence[int], key: str, body: Mapping[str, Any]) -> Call[Done[Enrolled]]:
    """POST /gallery."""
    headers = {**body.get("headers", {}), "Idempotency-Key": f"{key}:{places[0]}-{places[-1]}"}
    read = read_results(places, lambda result: make(Enrolled, result))
    return Call("POST", "/gallery", read, **{**body, "headers": headers}, is_repeatable=True, is_part=True)


def crop_body(contents: Sequence[bytes], fields: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Write crops and their labels as a form, or, since a form has no null, as JSON where only some crops have a label."""
    given = {name: values for name, values in fields.items() if any(value is not None for value in values)}
    if any(value is None for values in given.values() for value in values):
        return json_body({"crops": [base64.b64encode(content).decode() for content in contents], **given})
    return {
        "files": crop_files(contents),
        "form": {name: [form_text(value) for value in values] for name, values in given.items()},
    }


def form_text(value: object) -> str:
    """Write a label into a form."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def labels_of(count: int, given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Give every item its labels: each is one value for all, or a list of one for each; raises ValueError for another number."""
    columns: dict[str, list[Any]] = {}
    for name, value in given.items():
        is_one = value is None or isinstance(value, str | datetime | Mapping)
        column = [value] * count if is_one else list(value)
        if len(column) != count:
            raise ValueError(f"{name}: got {len(column)} values for {count} crops, wanted one value or {count}")
        columns[name] = [moment(label) if isinstance(label, datetime) else label for label in column]
    return columns


def embed_answer(done: Done[NDArray[np.float32]]) -> EmbedAnswer:
    """Put the rows in order, NaN where a crop failed; raises AllFailed, and ReidError when two models answered."""
    refuse_nothing(done)
    if len(done.model_ids) > 1:
        message = f"got embeddings of the models {', '.join(done.model_ids)}, wanted one model's: it was changed meanwhile"
        raise ReidError(f"{message}; start again", code="model_changed")
    dim = len(next(iter(done.good.values())))
    rows = np.full((len(done.good) + len(done.errors), dim), np.nan, dtype=np.float32)
    for place, row in done.good.items():
        rows[place] = row
    return EmbedAnswer(done.model_ids[0], rows, done.errors)


def enroll_answer(done: Done[Enrolled]) -> EnrollAnswer:
    """Put the results in order; raises AllFailed."""
    refuse_nothing(done)
    return EnrollAnswer(done.model_ids[-1], tuple(done.good[place] for place in sorted(done.good)), done.errors)


def refuse_nothing(done: Done[Any]) -> None:
    """Raise AllFailed when nothing is good."""
    if not done.good:
        raise AllFailed(done.errors)
