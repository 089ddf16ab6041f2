"""Answers as frozen dataclasses, named as in the HTTP contract; a newer service's further fields are left out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def make(kind: type[T], content: Mapping[str, Any]) -> T:
    """Make a dataclass of a JSON object; raises KeyError, TypeError or ValueError for another's object."""
    values = {}
    for place in fields(kind):  # type: ignore[arg-type]
        read: Callable[[Any], Any] = place.metadata.get("read", lambda value: value)
        values[place.name] = read(content[place.name])
    return kind(**values)


def each(kind: type[object]) -> Mapping[str, Any]:
    """Say of a field that it holds a list of such objects."""
    return {"read": lambda values: tuple(make(kind, value) for value in values)}


def one(kind: type[object]) -> Mapping[str, Any]:
    """Say of a field that it holds such an object."""
    return {"read": lambda value: make(kind, value)}


TIME: Mapping[str, Any] = {"read": lambda text: None if text is None else datetime.fromisoformat(text)}
TEXTS: Mapping[str, Any] = {"read": tuple}


@dataclass(frozen=True)
class ItemError:
    """Why one crop or entry failed; `index` is its place among those that were given."""

    index: int
    code: str
    message: str


def item_error(content: Mapping[str, Any]) -> ItemError:
    """Read `{"index", "error": {"code", "message"}}`."""
    return make(ItemError, {**content["error"], "index": content["index"]})


@dataclass(frozen=True, eq=False)  # eq: arrays have no single truth value
class EmbedAnswer:
    """Embeddings float32 [N, D] of unit length, a row for each crop that was given; NaN in the rows of those in `errors`."""

    model_id: str
    embeddings: NDArray[np.float32]
    errors: tuple[ItemError, ...]


@dataclass(frozen=True)
class Enrolled:
    """Where one crop or embedding landed; duplicate: it stood already."""

    index: int
    entry_id: int
    pid: str
    duplicate: bool


@dataclass(frozen=True)
class EnrollAnswer:
    """Where each landed, in the order given, and what failed."""

    model_id: str
    results: tuple[Enrolled, ...]
    errors: tuple[ItemError, ...]


@dataclass(frozen=True)
class Match:
    """One match; captured_at is aware."""

    rank: int
    pid: str
    cosine: float
    rerank_distance: float | None
    entry_id: int
    camid: str | None
    captured_at: datetime | None = field(metadata=TIME)
    entries: int


@dataclass(frozen=True)
class Searched:
    """How much of the gallery the filter admitted."""

    entries: int
    identities: int


@dataclass(frozen=True)
class TookMs:
    """The service's milliseconds for each step; None for one that was not needed."""

    embed: float | None
    search: float
    rerank: float | None


@dataclass(frozen=True)
class SearchAnswer:
    """The ranked list, and whether its first may be believed: decision is "match", "unknown" or "ambiguous"."""

    model_id: str
    decision: str
    threshold: float | None
    matches: tuple[Match, ...] = field(metadata=each(Match))
    searched: Searched = field(metadata=one(Searched))
    took_ms: TookMs = field(metadata=one(TookMs))
    rejected: tuple[ItemError, ...] = field(metadata={"read": lambda items: tuple(map(item_error, items))})


@dataclass(frozen=True)
class Entry:
    """One enrolled entry; times are aware."""

    entry_id: int
    pid: str
    camid: str | None
    captured_at: datetime | None = field(metadata=TIME)
    enrolled_at: datetime = field(metadata=TIME)
    attributes: Mapping[str, Any]
    model_id: str
    has_crop: bool


@dataclass(frozen=True)
class Identity:
    """One identity, its cameras, and when it was first and last seen."""

    pid: str
    entries: int
    camids: tuple[str, ...] = field(metadata=TEXTS)
    first_seen: datetime | None = field(metadata=TIME)
    last_seen: datetime | None = field(metadata=TIME)


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a listing; next_cursor is None on the last one."""

    items: tuple[T, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Renamed:
    """The identity under its new pid, how many entries moved to it, and how many were dropped as duplicates there."""

    identity: Identity = field(metadata=one(Identity))
    moved: int
    dropped: int


@dataclass(frozen=True)
class Receipt:
    """What an erasure took out, counted per place."""

    pid: str
    entries: int
    vectors: int
    crops: int
    answers: int


@dataclass(frozen=True)
class Stats:
    """The gallery in numbers."""

    entries: int
    identities: int
    cameras: int
    bytes: int
    index_type: str
    space_id: str
    schema_version: int
    dim: int


@dataclass(frozen=True)
class Model:
    """Which model answers; `manifest` is the whole answer, thresholds and metrics included."""

    model_id: str
    space_id: str
    architecture: str
    dim: int
    provider: str
    manifest: Mapping[str, Any]
