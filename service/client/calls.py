"""The HTTP contract as values: a function for each call says what is sent and how its answer is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypedDict, TypeVar

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from service.client.answers import Entry, Identity, Model, Page, Receipt, Renamed, SearchAnswer, Stats, make
from service.client.errors import error_of, json_object, stranger
from service.client.wire import base64_of, crop_files, identity_path, json_body, query

T = TypeVar("T")

PAGE = 1000  # the most that one page holds


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how its answer is read.

    Args:
        is_repeatable: sent twice it does what it does once, so it may be tried again.
        is_part: of a job, whose other crops may be good: every crop of this request failing is an answer, too.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    files: Sequence[tuple[str, tuple[str, bytes, str]]] | None = None
    form: Mapping[str, list[str]] | None = None
    is_repeatable: bool = False
    is_part: bool = False

    def answer(self, response: httpx.Response) -> T:
        """Read a success; raises ReidError for anything else, a success of another program included."""
        is_answer = response.is_success or (self.is_part and "results" in json_object(response))
        if not is_answer:
            raise error_of(response)
        try:
            return self.read(response)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise stranger(response) from error


class SearchOptions(TypedDict, total=False):
    """The parameters of a search, as the HTTP contract has them; `lambda_` is its `lambda`."""

    k: int
    group_by: str
    pool: str
    best_of: int
    pid: str | Sequence[str]
    camid: str | Sequence[str]
    exclude_camid: str | Sequence[str]
    since: datetime | str
    until: datetime | str
    attributes: Mapping[str, str | int | float | bool]
    threshold: float
    far: float
    rerank: bool
    k1: int
    k2: int
    lambda_: float
    shortlist: int


class EntriesWhere(TypedDict, total=False):
    """Which entries are listed; since <= captured_at < until."""

    pid: str
    camid: str
    since: datetime | str
    until: datetime | str


def content_of(response: httpx.Response) -> Any:
    """Parse an answer's JSON; raises ValueError when it is none."""
    return orjson.loads(response.content)


def reads(kind: type[T]) -> Callable[[httpx.Response], T]:
    """Read an answer that is one object."""
    return lambda response: make(kind, content_of(response))


def reads_page(name: str, kind: type[T]) -> Callable[[httpx.Response], Page[T]]:
    """Read one page of a listing."""

    def read(response: httpx.Response) -> Page[T]:
        content = content_of(response)
        return Page(tuple(make(kind, item) for item in content[name]), content["next_cursor"])

    return read


def model() -> Call[Model]:
    """GET /model."""

    def read(response: httpx.Response) -> Model:
        content = content_of(response)
        return make(Model, {**content, "provider": content["runtime"]["provider"], "manifest": content})

    return Call("GET", "/model", read, is_repeatable=True)


def search_crops(contents: Sequence[bytes], options: Mapping[str, Any]) -> Call[SearchAnswer]:
    """POST /search: it changes nothing, so it may be repeated."""
    return Call("POST", "/search", read_search, params=query(options), files=crop_files(contents), is_repeatable=True)


def search_by(options: Mapping[str, Any]) -> Call[SearchAnswer]:
    """GET /search, by `entry_id` or `embedding` among the options."""
    return Call("GET", "/search", read_search, params=query(options), is_repeatable=True)


def read_search(response: httpx.Response) -> SearchAnswer:
    """Read a search's answer; only one by crops can have rejected some."""
    return make(SearchAnswer, {"rejected": [], **content_of(response)})


def entries(where: Mapping[str, Any], cursor: str | None) -> Call[Page[Entry]]:
    """GET /gallery."""
    params = query({**where, "limit": PAGE, "cursor": cursor})
    return Call("GET", "/gallery", reads_page("entries", Entry), params=params, is_repeatable=True)


def identities(where: Mapping[str, Any], cursor: str | None) -> Call[Page[Identity]]:
    """GET /gallery/identities."""
    params = query({**where, "limit": PAGE, "cursor": cursor})
    return Call("GET", "/gallery/identities", reads_page("identities", Identity), params=params, is_repeatable=True)


def identity(pid: str) -> Call[Identity]:
    """GET /gallery/identities/{pid}, of which the entries are left to `entries`."""

    def read(response: httpx.Response) -> Identity:
        return make(Identity, content_of(response)["identity"])

    return Call("GET", identity_path(pid), read, params={"limit": 1}, is_repeatable=True)


def rename(pid: str, new_pid: str, *, merge: bool) -> Call[Renamed]:
    """PATCH /gallery/identities/{pid}."""
    return Call("PATCH", identity_path(pid), reads(Renamed), **json_body({"pid": new_pid, "merge": merge}))


def delete_identity(pid: str) -> Call[Receipt]:
    """DELETE /gallery/identities/{pid}."""
    return Call("DELETE", identity_path(pid), reads(Receipt))


def entry(entry_id: int) -> Call[Entry]:
    """GET /gallery/entries/{entry_id}."""
    return Call("GET", f"/gallery/entries/{entry_id}", reads(Entry), is_repeatable=True)


def delete_entry(entry_id: int) -> Call[None]:
    """DELETE /gallery/entries/{entry_id}."""
    return Call("DELETE", f"/gallery/entries/{entry_id}", lambda response: None)


def crop(entry_id: int) -> Call[bytes]:
    """GET /gallery/entries/{entry_id}/crop."""
    return Call("GET", f"/gallery/entries/{entry_id}/crop", read_picture, is_repeatable=True)


def read_picture(response: httpx.Response) -> bytes:
    """Read a JPEG; raises ValueError when it is none."""
    if response.headers.get("content-type") != "image/jpeg":
        raise ValueError("no JPEG")
    return response.content


def stats() -> Call[Stats]:
    """GET /gallery/stats."""
    return Call("GET", "/gallery/stats", reads(Stats), is_repeatable=True)


def search(
    contents: Sequence[bytes] | None, embedding: NDArray[np.floating] | None, entry_id: int | None, options: Mapping[str, Any]
) -> Call[SearchAnswer]:
    """Choose the call that a search's query asks for; raises ValueError for none and for several."""
    if sum(given is not None for given in (contents, embedding, entry_id)) != 1:
        raise ValueError("got none or several of crops, embedding and entry_id, wanted one of them")
    if contents is not None:
        return search_crops(contents, options)
    return search_by({**options, "entry_id": entry_id, "embedding": None if embedding is None else base64_of(embedding)})
