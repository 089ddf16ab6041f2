"""What the OpenAPI document says beside the models: refusals by status, headers, links; bodies.py has the requests'."""

from collections.abc import Mapping
from typing import Any

from gallery import errors as gallery
from service import errors
from service.errors import status_and_code
from service.schemas import ErrorAnswer

Responses = dict[int | str, dict[str, Any]]
Errors = tuple[type[Exception], ...]

ABOUT = """Person re-identification: crops in, embeddings out, identities enrolled, ranked matches back.

Every answer carries `X-Request-ID`: the caller's, when it sent a short printable one. Every error has one form. Unknown
query parameters are refused. What does not get as far as a call is answered in the same form, so every call lists it: 400
`invalid_http`, 404 `not_found`, 405 `method_not_allowed`, 408 `receive_timeout`, 431 `head_too_large`, 503 `overloaded`.
With `REID_API_KEYS` set, every call but the probes wants `Authorization: Bearer KEY`."""
TAGS = [
    {"name": "embed", "description": "Crops in, embeddings out; nothing is kept."},
    {"name": "search", "description": "Who is this?"},
    {"name": "gallery", "description": "Who is enrolled: durable when answered, erased when erased."},
    {"name": "service", "description": "The model, the probes, the metrics."},
]

# What a call may refuse; each route joins those that it can raise.
OPEN: Errors = (errors.ForbiddenOrigin, errors.InvalidRequest)
READING: Errors = (*OPEN, errors.MissingKey)
WRITING: Errors = (*READING, errors.ReadOnlyKey)
STORED: Errors = (gallery.CorruptStore, gallery.StoreUnavailable, gallery.GalleryClosed)
LISTING: Errors = (*READING, *STORED, errors.DeadlineExceeded)
CHANGING: Errors = (*WRITING, *STORED, gallery.StoreFull)
BODIES: Errors = (errors.BodyTooLarge, errors.ReceiveTimeout, errors.UnsupportedMedia, errors.Overloaded)
EMBEDDING: Errors = (
    *BODIES,
    errors.ImageTooLarge,
    errors.TooManyCrops,
    errors.UndecodableImage,
    errors.InferenceFailed,
    errors.ModelNotReady,
    errors.DeadlineExceeded,
)
SEARCHING: Errors = (*READING, gallery.GpuFailed, gallery.GalleryClosed, errors.DeadlineExceeded)
VECTORS: Errors = (gallery.DimensionMismatch, gallery.NotUnitLength)

# What every call may be answered, as no handler has a say in it: by the server, the framework, or where something went wrong.
EVERYWHERE: Mapping[int, Mapping[str, str]] = {
    400: {"invalid_http": "What came is no HTTP/1.1 request."},
    404: {"not_found": "No call has this path."},
    405: {"method_not_allowed": "No call has this method and path."},
    408: {"receive_timeout": "A head, or a body, came too slowly."},
    431: {"head_too_large": "The request line and headers are too long."},
    500: {"internal_error": "Something unexpected went wrong; the log has the details."},
    503: {"overloaded": "There is no room, for the work or for one more connection."},
}
ERROR_HEADERS: Mapping[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "Always Bearer.", "schema": {"type": "string"}}},
    405: {"Allow": {"description": "The methods that the path has.", "schema": {"type": "string"}}},
    503: {"Retry-After": {"description": "With overloaded: seconds until there may be room.", "schema": {"type": "integer"}}},
}
MODEL_HEADER = {"X-Model-ID": {"description": "Which model answered.", "schema": {"type": "string"}}}
NPY_SCHEMA = {"type": "string", "format": "binary", "description": "One .npy file: float32 [N, D], when Accept asks for it."}


def refusals(*kinds: type[Exception]) -> Responses:
    """Describe a call's error answers: under each status the codes that it can mean, each with an example."""
    by_status: dict[int, dict[str, str]] = {}
    for kind in kinds:
        status, code = status_and_code(kind)
        by_status.setdefault(status, {}).setdefault(code, meaning(kind))
    for status, codes in EVERYWHERE.items():
        by_status[status] = {**codes, **by_status.get(status, {})}
    return {status: refusal(status, by_status[status]) for status in sorted(by_status)}


def meaning(kind: type[Exception]) -> str:
    """The first line of what an error class says of itself."""
    return (kind.__doc__ or "").partition("\n")[0]


def refusal(status: int, codes: Mapping[str, str]) -> dict[str, Any]:
    """Describe one status' error answers."""
    examples = {
        code: {"value": {"error": {"code": code, "message": text, "request_id": "f" * 32}}} for code, text in codes.items()
    }
    described: dict[str, Any] = {
        "model": ErrorAnswer,
        "description": ", ".join(f"`{code}`" for code in codes),
        "content": {"application/json": {"examples": examples}},
    }
    return described | ({"headers": ERROR_HEADERS[status]} if status in ERROR_HEADERS else {})


def success(
    status: int,
    description: str,
    *,
    example: Mapping[str, Any] | None = None,
    content: Mapping[str, Any] | None = None,
    headers: Mapping[str, Any] | None = None,
    links: Mapping[str, Any] | None = None,
) -> Responses:
    """Describe a good answer beyond its model: an example of its JSON, other forms, headers, and calls that go on from it."""
    as_json = {"application/json": {"example": example}} if example else {}
    given = {"content": {**as_json, **(content or {})}, "headers": headers, "links": links}
    return {status: {"description": description, **{name: value for name, value in given.items() if value}}}


def link(operation: str, description: str, **parameters: str) -> dict[str, Any]:
    """Name a call that goes on from an answer, and where its parameters stand in that."""
    return {"operationId": operation, "description": description, "parameters": parameters}
