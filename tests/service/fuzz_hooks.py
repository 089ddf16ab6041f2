"""What schemathesis is told beside the OpenAPI document: how a picture in base64 looks, and which rules no document can state.

Loaded by it through SCHEMATHESIS_HOOKS; see fuzz_contract.py.
"""

import base64
import io
import re

import numpy as np
import schemathesis
from hypothesis import strategies
from PIL import Image
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import EnsureResourceAvailability, RejectedPositiveData

DIM = 8  # of conftest.FakeEmbedder
LABELS = {"pid", "camid", "captured_at", "attributes"}
WHOSE = {}  # entry ids to pids
GONE = set()  # entries deleted, or whose identity has been erased or, where copies are dropped, merged
ATTRIBUTES = '{"site":"north"}'

# A request that fits the document may still be refused for one of these; each is a sentence of the service's own.
BEYOND_THE_DOCUMENT = (
    r"got the cursor",  # opaque: only listings make one
    r"^got k[12] ",  # k2 <= k1 <= shortlist
    r"got both or neither of entry_id and embedding|goes with (pool=best|rerank=true)|got threshold and far",
    r"in the query and in the body|^pid: Field required",  # beside a picture alone labels stand in the query
    r"has been erased since",  # 410: what an Idempotency-Key was told once
    r"^far: ",  # the rates that a model was calibrated at
    r"^embedding: |^all \d+ failed; the first: embedding: ",  # D numbers of unit length
    r"got (an empty file|\d+ bytes beginning|a broken picture|a crop that is no base64)",
    r"broken \.npy header|uint8 \[N,H,W,3\]",
    r"values for \d+ crops",  # as many as crops, or one
    r"attributes: (Value error, should|got what is no JSON|got a JSON \w+, wanted a JSON object)",
    r"^got Range ",  # within a file of a size that nobody knows
    r"which the identity bears already",
    r"enrolled identities that two cameras saw",  # calibration wants people
)


@schemathesis.hook
def map_case(context, case):
    """Make what fits the document agree with itself too, so that it gets further; what does not fit it stays as it is."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    query = case.query = dict(case.query or {})
    if case.operation.path == "/gallery" and case.method.upper() == "POST":
        in_url = case.media_type is not None and (case.media_type.startswith("image/") or case.media_type.endswith("npy"))
        case.query = {**one_of_each(query), "pid": [case.id]} if in_url else {}
        if case.media_type == "multipart/form-data":
            case.body = {
                **case.body,
                **one_of_each({name: case.body[name] for name in LABELS & set(case.body)}),
                "pid": [case.id],
            }
    if case.operation.path == "/search":
        for name in unwanted(query):
            query.pop(name, None)
        if case.method.upper() == "GET" and "entry_id" not in query:
            query.setdefault("embedding", axis(0))
    return case


def is_completed(case):
    """Whether map_case made this form: schemathesis takes one with a file in it for unfit once a hook has touched it."""
    return case.media_type == "multipart/form-data" and isinstance(case.body, dict) and case.body.get("pid") == [case.id]


def one_of_each(labels):
    """The first value of every label, for all crops alike; attributes as text that is JSON."""
    return {name: [ATTRIBUTES] if name == "attributes" else values[:1] for name, values in labels.items() if values}


def unwanted(query):
    """The parameters of a search that others of it leave no room for."""
    yield from ("embedding",) if "entry_id" in query else ()
    yield from ("far",) if "threshold" in query else ()
    yield from ("best_of",) if query.get("pool") != "best" else ()
    yield from ("k1", "k2", "lambda", "shortlist") if query.get("rerank") is not True else ()


@schemathesis.hook
def after_call(context, case, response):
    """Remember whose entries were made, and whose went: schemathesis does not know that entries go with their identity."""
    path, method = case.operation.path, case.method.upper()
    if path == "/gallery" and method == "POST" and response.status_code in (200, 201):
        made = [result for result in response.json()["results"] if "entry_id" in result]
        WHOSE.update({str(result["entry_id"]): result["pid"] for result in made})
    if path == "/gallery/entries/{entry_id}" and method == "DELETE" and response.status_code == 200:
        GONE.add(str(case.path_parameters["entry_id"]))  # made twice, as the document's example, it may be deleted once
    if path == "/gallery/identities/{pid}" and method in ("DELETE", "PATCH") and response.status_code == 200:
        theirs = [entry_id for entry_id, pid in WHOSE.items() if pid == str(case.path_parameters["pid"])]
        GONE.update(theirs)
        if method == "PATCH":
            WHOSE.update(dict.fromkeys(theirs, response.json()["identity"]["pid"]))


def is_gone_by_now(case):
    """Whether the entry asked for was deleted, or was one of an identity when that was erased, renamed or merged."""
    return str((case.path_parameters or {}).get("entry_id")) in GONE


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Let a refusal pass that no document could announce, and statuses that refuse as well as those it knows."""
    if isinstance(failure, EnsureResourceAvailability):  # an identity goes with its last entry; a vector has no picture
        code = response.json()["error"]["code"]
        is_gone = code == "entry_not_found" and is_gone_by_now(case)
        return not is_gone and code not in ("identity_not_found", "crop_not_kept")
    if isinstance(failure, AcceptedNegativeData):
        is_known = response.status_code in (410, 413, 416) or "only required properties" in failure.message
        # In a form all is text: what was made a boolean is the name "false".
        is_text = case.media_type == "multipart/form-data" and "violates `type`" in failure.message
        return not (is_known or is_text or is_completed(case))
    if not isinstance(failure, RejectedPositiveData):
        return True
    message = response.json()["error"]["message"]
    return not any(re.search(rule, message) for rule in BEYOND_THE_DOCUMENT)


@schemathesis.check
def documented_code(ctx, response, case):
    """Every refusal bears a code that its operation gives the status, and a call that there is finds its path and method."""
    if response.status_code < 400:
        return
    answer = case.operation.definition.raw["responses"].get(str(response.status_code))
    if answer is None:
        return  # another check's matter
    code, known = response.json()["error"]["code"], answer["content"]["application/json"]["examples"]
    assert code in known, f"{response.status_code} {code}, wanted one of {list(known)}"
    is_elsewhere = bool(case.path_parameters) or case.method.upper() != case.operation.method.upper()  # "..", a/b; another method
    assert is_elsewhere or code not in ("not_found", "method_not_allowed"), f"got {code} where the operation is"


def pictures():
    """Small pictures of one colour in base64."""
    return strategies.tuples(*[strategies.integers(0, 255)] * 3).map(picture)


def picture(colour):
    """A PNG of one colour in base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (2, 4), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def vectors():
    """Embeddings of the double's size in base64: one of its axes."""
    return strategies.integers(0, DIM - 1).map(axis)


def axis(number):
    """One axis as base64url of float32."""
    return base64.urlsafe_b64encode(np.eye(DIM, dtype="<f4")[number].tobytes()).decode()


schemathesis.openapi.format("base64-picture", pictures())
schemathesis.openapi.format("base64-float32", vectors())
