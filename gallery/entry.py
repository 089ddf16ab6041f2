"""What goes into a gallery and what comes out of it: frozen dataclasses, no behaviour.

Every time is an aware datetime (answers are in UTC) and every embedding a float32 array of unit length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(frozen=True, eq=False)  # eq: arrays have no single truth value
class NewEntry:
    """One crop's embedding on its way into the gallery.

    Args:
        pid: the identity, 1-128 characters, opaque.
        embedding: float32 [D], unit length to 1e-3; stored in half precision, which moves a cosine by about 1e-5.
        model_id: the artefact that made the embedding (informative; space_id is what is checked).
        camid: the camera, 1-128 characters, or None.
        captured_at: when the camera saw the crop, aware, or None.
        attributes: a JSON object, kept as given.
        client_key: the caller's own name of this entry, 1-256 characters, unique in the gallery.
        content_hash: sha256 of the uploaded bytes, 64 lower-case hex digits; unique within a pid.
        crop_jpeg: the crop to keep beside the embedding, or None to keep none.
    """

    pid: str
    embedding: NDArray[np.float32]
    model_id: str
    camid: str | None = None
    captured_at: datetime | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    client_key: str | None = None
    content_hash: str | None = None
    crop_jpeg: bytes | None = None


@dataclass(frozen=True)
class Entry:
    """One enrolled entry without its embedding."""

    entry_id: int
    pid: str
    camid: str | None
    captured_at: datetime | None
    enrolled_at: datetime
    attributes: Mapping[str, object]
    model_id: str
    has_crop: bool


@dataclass(frozen=True)
class Enrolled:
    """Where one new entry landed; duplicate: it stood already, and entry_id is the standing one."""

    entry_id: int
    pid: str
    duplicate: bool


@dataclass(frozen=True)
class Remember:
    """Ties an enrolment to an Idempotency-Key, so that a repeat changes nothing and gets the first answer.

    Args:
        key: the caller's key; only its sha256 is stored.
        fingerprint: names the request's content; the same key with another fingerprint raises DuplicateKey.
        answer: renders the answer from the enrolled entries (in the order given). It runs inside the transaction, so it
            must be quick and must not call the gallery; when it raises, nothing is enrolled.
    """

    key: str
    fingerprint: str
    answer: Callable[[list[Enrolled]], bytes]


@dataclass(frozen=True)
class Filter:
    """Which entries a search admits; every part that is given must hold, an empty one admits everything.

    Args:
        pids, camids: only these. An entry without a camid is in no camids.
        exclude_camids: not these. An entry without a camid stays admitted.
        since, until: aware; since <= captured_at < until. An entry without captured_at matches no time range.
        exclude_entry_ids: not these, for instance the query's own entry.
        attributes: only entries whose attributes hold every given name with that value, of the same JSON type.
    """

    pids: frozenset[str] = frozenset()
    camids: frozenset[str] = frozenset()
    exclude_camids: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    exclude_entry_ids: frozenset[int] = frozenset()
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Match:
    """One search result.

    Grouped by identity: entry_id, camid and captured_at are those of the identity's closest admitted entry, cosine is
    its cosine (pool max), the mean over the identity's admitted entries (pool mean), or the mean over the best_of closest
    of these, over all where there are fewer (pool best), and entries counts the admitted ones.
    Grouped by entry: entries is 1.
    rerank_distance, None unless re-ranked, depends on the shortlist: it compares the matches of one search, nothing else.
    """

    entry_id: int
    pid: str
    camid: str | None
    captured_at: datetime | None
    cosine: float
    rerank_distance: float | None
    entries: int


@dataclass(frozen=True)
class SearchResult:
    """The matches by falling cosine, and how many entries and identities the filter admitted to the search.

    Re-ranked: by rising rerank_distance; by_cosine is what would have been matched without, rerank_s what it took.
    """

    matches: tuple[Match, ...]
    entries: int
    identities: int
    by_cosine: tuple[Match, ...] = ()
    rerank_s: float | None = None


@dataclass(frozen=True)
class Identity:
    """One identity: its entries, its cameras (sorted), and the first and last captured_at, None when none is known."""

    pid: str
    entries: int
    camids: tuple[str, ...]
    first_seen: datetime | None
    last_seen: datetime | None


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a listing; next_cursor is None on the last one."""

    items: tuple[T, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Receipt:
    """What an erasure took out: entries (rows), their vectors in the index, stored crops, and remembered answers."""

    pid: str
    entries: int
    vectors: int
    crops: int
    answers: int


@dataclass(frozen=True)
class Renamed:
    """What a renaming made: the identity under its new pid, how many entries moved to it, and how many were dropped.

    Dropped are entries whose content_hash stood under the new pid already.
    """

    identity: Identity
    moved: int
    dropped: int


@dataclass(frozen=True)
class Expired:
    """What a retention run erased: entries, identities that lost their last one, vectors, stored crops, answers."""

    entries: int
    identities: int
    vectors: int
    crops: int
    answers: int


@dataclass(frozen=True)
class Snapshot:
    """One snapshot file: its size, the sha256 of the file, its entries, and when it was made (aware, UTC)."""

    path: Path
    bytes: int
    sha256: str
    entries: int
    created_at: datetime


@dataclass(frozen=True)
class Stats:
    """The gallery in numbers; bytes: size of its files, cameras: distinct camids."""

    entries: int
    identities: int
    cameras: int
    bytes: int
    index_type: str
    space_id: str
    schema_version: int
    dim: int
