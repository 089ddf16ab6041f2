"""Requests and answers as models: parameters are validated by them, answers are documented by them."""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationError, WithJsonSchema

from service.answers import first_problem
from service.errors import InvalidRequest
from service.fields import LABEL_TEXTS, PLAIN, Attributes, Moment, Name, Vector, no_control_characters

MAX_ENTRIES = 1000  # embeddings enrolled by one request
MAX_PAGE = 1000
MAX_CURSOR = 4096


class Strict(BaseModel):
    """Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Fields = TypeVar("Fields", bound=Strict)


class NoQuery(Strict):
    """A call without query parameters."""


class EmbedQuery(Strict):
    """Parameters of POST /embed."""

    encoding_format: Literal["float", "base64"] = "float"


class EnrollQuery(Strict):
    """Parameters of POST /gallery, for bodies that have no room for fields: a picture, or npy."""

    pid: list[Annotated[str, WithJsonSchema(LABEL_TEXTS["pid"])]] = []
    camid: list[Annotated[str, WithJsonSchema(LABEL_TEXTS["camid"])]] = []
    captured_at: list[Annotated[str, WithJsonSchema(LABEL_TEXTS["captured_at"])]] = []
    attributes: list[Annotated[str, WithJsonSchema(LABEL_TEXTS["attributes"])]] = []


class PageQuery(Strict):
    """Parameters every listing has."""

    limit: int = Field(default=100, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(default=None, max_length=MAX_CURSOR)


class EntriesQuery(PageQuery):
    """Parameters of GET /gallery."""

    pid: Name | None = None
    camid: Name | None = None
    since: Moment | None = None
    until: Moment | None = None


class IdentitiesQuery(PageQuery):
    """Parameters of GET /gallery/identities."""

    prefix: str = Field(default="", max_length=128)


class Labels(Strict):
    """What is said about one crop on enrolment."""

    pid: Name
    camid: Name | None = None
    captured_at: Moment | None = None
    attributes: Attributes = Field(default_factory=dict)  # not {}, which generators cannot read as a default


class EntryIn(Labels):
    """One embedding to enroll: a list of floats, or base64 of little-endian float32."""

    embedding: Vector
    client_key: (
        Annotated[str, Field(min_length=1, max_length=256, json_schema_extra=PLAIN), AfterValidator(no_control_characters)] | None
    ) = None


class ErrorItem(BaseModel):
    """Why one crop failed."""

    code: str
    message: str


class ErrorDetail(ErrorItem):
    """Why a request failed."""

    request_id: str


class ErrorAnswer(BaseModel):
    """The body of every error."""

    error: ErrorDetail


class EmbedResult(BaseModel):
    """One crop's embedding (a list, or base64 of little-endian float32) or error."""

    index: int
    embedding: list[float] | str | None = None
    error: ErrorItem | None = None


class EmbedAnswer(BaseModel):
    """Answer of POST /embed."""

    model_id: str
    dim: int
    results: list[EmbedResult]


class EnrollResult(BaseModel):
    """Where one crop landed, or its error."""

    index: int
    entry_id: int | None = None
    pid: str | None = None
    duplicate: bool | None = None
    error: ErrorItem | None = None


class EnrollAnswer(BaseModel):
    """Answer of POST /gallery."""

    model_id: str
    results: list[EnrollResult]


class MatchOut(BaseModel):
    """One match; `rerank_distance`, null unless re-ranked, compares the matches of one answer, lower is closer."""

    rank: int
    pid: str
    cosine: float
    rerank_distance: float | None
    entry_id: int
    camid: str | None
    captured_at: datetime | None
    entries: int


class Searched(BaseModel):
    """How much of the gallery the filter admitted."""

    entries: int
    identities: int


class TookMs(BaseModel):
    """Milliseconds of each step; null for a step that was not needed."""

    embed: float | None
    search: float
    rerank: float | None


class RejectedCrop(BaseModel):
    """A query crop that could not be used."""

    index: int
    error: ErrorItem


class SearchAnswer(BaseModel):
    """Answer of /search; `rejected` (POST only) holds the crops that could not be used."""

    model_id: str
    decision: Literal["match", "unknown", "ambiguous"]
    threshold: float | None
    threshold_source: str | None = Field(
        description='"request"; or "model" or the calibration in use, with "far R of" before it where the request gave far.'
    )
    matches: list[MatchOut]
    searched: Searched
    took_ms: TookMs
    rejected: list[RejectedCrop] = []


class EntryOut(BaseModel):
    """One enrolled entry."""

    entry_id: int
    pid: str
    camid: str | None
    captured_at: datetime | None
    enrolled_at: datetime
    attributes: dict[str, Any]
    model_id: str
    has_crop: bool


class EntriesAnswer(BaseModel):
    """One page of entries."""

    entries: list[EntryOut]
    next_cursor: str | None


class IdentityOut(BaseModel):
    """One identity."""

    pid: str
    entries: int
    camids: list[str]
    first_seen: datetime | None
    last_seen: datetime | None


class IdentitiesAnswer(BaseModel):
    """One page of identities."""

    identities: list[IdentityOut]
    next_cursor: str | None


class IdentityAnswer(BaseModel):
    """One identity and a page of its entries."""

    identity: IdentityOut
    entries: list[EntryOut]
    next_cursor: str | None


class RenameIn(Strict):
    """A new pid for an identity; `merge` allows one that another identity bears."""

    pid: Name
    merge: StrictBool = False


class RenamedAnswer(BaseModel):
    """The identity under its new pid, how many entries moved to it, and how many were dropped as duplicates there."""

    identity: IdentityOut
    moved: int
    dropped: int


class ReceiptAnswer(BaseModel):
    """What an erasure took out, counted per place; `answers` are those that were kept for Idempotency-Keys."""

    pid: str
    entries: int
    vectors: int
    crops: int
    answers: int


class DeletedAnswer(BaseModel):
    """The entry that is gone."""

    entry_id: int
    deleted: Literal[True]


class StatsAnswer(BaseModel):
    """The gallery in numbers."""

    entries: int
    identities: int
    cameras: int
    bytes: int
    index_type: str
    space_id: str
    schema_version: int
    dim: int


class SnapshotOut(BaseModel):
    """One snapshot file."""

    name: str
    size: int
    sha256: str
    entries: int
    created_at: datetime


class SnapshotsAnswer(BaseModel):
    """Every snapshot, newest first."""

    snapshots: list[SnapshotOut]


class Runtime(BaseModel):
    """What runs the model."""

    name: str
    version: str
    provider: str


class ModelAnswer(BaseModel):
    """The model in use: what its manifest says, and what runs it; fields that a manifest lacks are missing."""

    model_config = ConfigDict(extra="allow")

    model_id: str
    space_id: str
    dim: int
    runtime: Runtime
    architecture: str | None = None
    input: dict[str, Any] | None = None
    preprocessing: dict[str, Any] | None = None
    precision: str | None = None
    thresholds: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None


class LiveAnswer(BaseModel):
    """The process answers."""

    alive: Literal[True]


class ReadyAnswer(BaseModel):
    """What every part says of itself."""

    ready: Literal[True]
    parts: dict[str, str]


def parse_labels(content: object, model: type[Labels] = Labels) -> Labels:
    """Check the fields of one crop or entry; raises like parse_fields."""
    return parse_fields(content, model)


def parse_fields(content: object, model: type[Fields]) -> Fields:
    """Check the fields of an object.

    Raises:
        InvalidRequest: naming the first wrong field, what was got and what was wanted.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InvalidRequest(first_problem(error.errors())) from None
