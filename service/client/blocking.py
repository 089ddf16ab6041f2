"""The client for programs that wait for each answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar, Unpack

import httpx
import numpy as np
from numpy.typing import NDArray

from service.client import calls
from service.client.answers import (
    EmbedAnswer,
    EnrollAnswer,
    Entry,
    Identity,
    Model,
    Page,
    Receipt,
    Renamed,
    SearchAnswer,
    Stats,
)
from service.client.calls import Call, EntriesWhere, SearchOptions
from service.client.connection import Connection, job_of_embed, job_of_enroll, request_of, search_contents
from service.client.crops import Crops
from service.client.errors import ReidError, TooLarge, transport_errors
from service.client.jobs import Done, Job, embed_answer, enroll_answer, halves, merged, refused
from service.client.retries import Tries

T = TypeVar("T")
Progress = Callable[[int, int], None]  # done, of how many


class Client:
    """The service, call by call; safe to use from several threads. Every method may raise ReidError.

    Args:
        url: such as http://127.0.0.1:8000, with the path under which a proxy may have put it.
        key: one of REID_API_KEYS, or of REID_READ_ONLY_KEYS for what changes nothing.
        timeout_s: the longest wait for an answer to one request.
        retry_s: how long a call is tried again while the service is overloaded or unreachable. Only calls that change
            nothing are, and enrolments, whose Idempotency-Key makes a repeat harmless.
        crops_per_request: how embed and enroll are cut; a request that the service finds too large is halved.
        transport, sleep, clock: for tests.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retry_s: float = 30.0,
        crops_per_request: int = 32,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = Connection(url, key, timeout_s)
        self._http = httpx.Client(**self._connection.options(), transport=transport)
        self._retry_s, self._per_request = retry_s, crops_per_request
        self._sleep, self._clock = sleep, clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def model(self) -> Model:
        """Which model answers."""
        return self._send(calls.model())

    def embed(self, crops: Crops, *, progress: Progress | None = None) -> EmbedAnswer:
        """Embed crops, however many; raises AllFailed when none is good."""
        return embed_answer(self._run(job_of_embed(crops, self._per_request), progress))

    def enroll(
        self,
        crops: Crops | None = None,
        *,
        embeddings: NDArray[np.floating] | None = None,
        pid: str | Sequence[str],
        camid: str | Sequence[str | None] | None = None,
        captured_at: datetime | str | Sequence[datetime | str | None] | None = None,
        attributes: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        client_keys: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        progress: Progress | None = None,
    ) -> EnrollAnswer:
        """Enroll crops, or embeddings float [N, D], however many; what is answered is durable.

        Every label is one for all, or a list of one for each. Crops already enrolled under their pid stay as they are.
        Raises AllFailed when none is good.

        Args:
            client_keys: your own names of embeddings; a repeat gives the entry that stands.
            idempotency_key: makes a repeat of the whole call give the first answers again; a new one by default.
        """
        labels = {"pid": pid, "camid": camid, "captured_at": captured_at, "attributes": attributes, "client_key": client_keys}
        job = job_of_enroll(crops, embeddings, labels, key=idempotency_key, per_request=self._per_request)
        return enroll_answer(self._run(job, progress))

    def search(
        self,
        crops: Crops | None = None,
        *,
        embedding: NDArray[np.floating] | None = None,
        entry_id: int | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchAnswer:
        """Search by a crop, by several of one person, by an embedding [D] or by an enrolled entry, itself excluded."""
        return self._send(calls.search(search_contents(crops), embedding, entry_id, options))

    def entries(self, **where: Unpack[EntriesWhere]) -> Iterator[Entry]:
        """All entries, newest first, page by page as they are asked for."""
        return self._pages(lambda cursor: calls.entries(where, cursor))

    def identities(self, *, prefix: str = "") -> Iterator[Identity]:
        """All identities by pid, page by page as they are asked for."""
        return self._pages(lambda cursor: calls.identities({"prefix": prefix}, cursor))

    def identity(self, pid: str) -> Identity:
        """One identity."""
        return self._send(calls.identity(pid))

    def rename(self, pid: str, new_pid: str, *, merge: bool = False) -> Renamed:
        """Give an identity another pid; one that is taken only with `merge`, which makes one identity of both."""
        return self._send(calls.rename(pid, new_pid, merge=merge))

    def delete_identity(self, pid: str) -> Receipt:
        """Erase an identity everywhere: rows, vectors, stored crops."""
        return self._send(calls.delete_identity(pid))

    def entry(self, entry_id: int) -> Entry:
        """One entry."""
        return self._send(calls.entry(entry_id))

    def delete_entry(self, entry_id: int) -> None:
        """Delete one entry."""
        self._send(calls.delete_entry(entry_id))

    def crop(self, entry_id: int) -> bytes:
        """An entry's stored crop as JPEG; raises NotFound where it was not kept."""
        return self._send(calls.crop(entry_id))

    def stats(self) -> Stats:
        """The gallery in numbers."""
        return self._send(calls.stats())

    def _send(self, call: Call[T]) -> T:
        tries = Tries(call, total_s=self._retry_s, clock=self._clock, random=random.random)
        while True:
            try:
                with transport_errors(self._connection.url, self._connection.timeout_s):
                    response = self._http.send(request_of(self._http, call))
                return call.answer(response)
            except ReidError as error:
                wait_s = tries.wait_s(error)
            self._sleep(wait_s)

    def _pages(self, page_at: Callable[[str | None], Call[Page[T]]]) -> Iterator[T]:
        cursor, is_last = None, False
        while not is_last:
            page = self._send(page_at(cursor))
            yield from page.items
            cursor, is_last = page.next_cursor, page.next_cursor is None

    def _run(self, job: Job[T], progress: Progress | None) -> Done[T]:
        done, count = [], 0
        for part in job.parts():
            done.append(self._part(job, part))
            count += len(part)
            if progress is not None:
                progress(count, len(job.sizes))
        return merged(done)

    def _part(self, job: Job[T], part: range) -> Done[T]:
        failed, call = job.prepare(part)
        if call is None:
            return failed
        try:
            return merged([failed, self._send(call)])
        except TooLarge as error:
            if len(part) == 1:
                return refused(part, error)
            return merged([self._part(job, half) for half in halves(part)])
