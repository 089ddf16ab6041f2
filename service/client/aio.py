"""The client for asyncio: the same calls, and several requests of a big job at a time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
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
from service.client.blocking import Progress
from service.client.calls import Call, EntriesWhere, SearchOptions
from service.client.connection import Connection, job_of_embed, job_of_enroll, request_of, search_contents
from service.client.crops import Crops
from service.client.errors import ReidError, TooLarge, transport_errors
from service.client.jobs import Done, Job, embed_answer, enroll_answer, halves, merged, refused
from service.client.retries import Tries

T = TypeVar("T")


class AsyncClient:
    """The service, call by call, for asyncio; arguments and methods are those of Client.

    Args:
        concurrency: how many requests of one embed or enroll are under way at once.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retry_s: float = 30.0,
        crops_per_request: int = 32,
        concurrency: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = Connection(url, key, timeout_s)
        self._http = httpx.AsyncClient(**self._connection.options(), transport=transport)
        self._retry_s, self._per_request, self._concurrency = retry_s, crops_per_request, concurrency
        self._sleep, self._clock = sleep, clock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def model(self) -> Model:
        """Which model answers."""
        return await self._send(calls.model())

    async def embed(self, crops: Crops, *, progress: Progress | None = None) -> EmbedAnswer:
        """Embed crops, however many; raises AllFailed when none is good."""
        return embed_answer(await self._run(job_of_embed(crops, self._per_request), progress))

    async def enroll(
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
        """Enroll crops, or embeddings float [N, D], however many; see Client.enroll."""
        labels = {"pid": pid, "camid": camid, "captured_at": captured_at, "attributes": attributes, "client_key": client_keys}
        job = job_of_enroll(crops, embeddings, labels, key=idempotency_key, per_request=self._per_request)
        return enroll_answer(await self._run(job, progress))

    async def search(
        self,
        crops: Crops | None = None,
        *,
        embedding: NDArray[np.floating] | None = None,
        entry_id: int | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchAnswer:
        """Search by a crop, by several of one person, by an embedding [D] or by an enrolled entry, itself excluded."""
        return await self._send(calls.search(search_contents(crops), embedding, entry_id, options))

    def entries(self, **where: Unpack[EntriesWhere]) -> AsyncIterator[Entry]:
        """All entries, newest first, page by page as they are asked for."""
        return self._pages(lambda cursor: calls.entries(where, cursor))

    def identities(self, *, prefix: str = "") -> AsyncIterator[Identity]:
        """All identities by pid, page by page as they are asked for."""
        return self._pages(lambda cursor: calls.identities({"prefix": prefix}, cursor))

    async def identity(self, pid: str) -> Identity:
        """One identity."""
        return await self._send(calls.identity(pid))

    async def rename(self, pid: str, new_pid: str, *, merge: bool = False) -> Renamed:
        """Give an identity another pid; one that is taken only with `merge`, which makes one identity of both."""
        return await self._send(calls.rename(pid, new_pid, merge=merge))

    async def delete_identity(self, pid: str) -> Receipt:
        """Erase an identity everywhere: rows, vectors, stored crops."""
        return await self._send(calls.delete_identity(pid))

    async def entry(self, entry_id: int) -> Entry:
        """One entry."""
        return await self._send(calls.entry(entry_id))

    async def delete_entry(self, entry_id: int) -> None:
        """Delete one entry."""
        await self._send(calls.delete_entry(entry_id))

    async def crop(self, entry_id: int) -> bytes:
        """An entry's stored crop as JPEG; raises NotFound where it was not kept."""
        return await self._send(calls.crop(entry_id))

    async def stats(self) -> Stats:
        """The gallery in numbers."""
        return await self._send(calls.stats())

    async def _send(self, call: Call[T]) -> T:
        tries = Tries(call, total_s=self._retry_s, clock=self._clock, random=random.random)
        while True:
            try:
                with transport_errors(self._connection.url, self._connection.timeout_s):
                    response = await self._http.send(request_of(self._http, call))
                return call.answer(response)
            except ReidError as error:
                wait_s = tries.wait_s(error)
            await self._sleep(wait_s)

    async def _pages(self, page_at: Callable[[str | None], Call[Page[T]]]) -> AsyncIterator[T]:
        cursor, is_last = None, False
        while not is_last:
            page = await self._send(page_at(cursor))
            for item in page.items:
                yield item
            cursor, is_last = page.next_cursor, page.next_cursor is None

    async def _run(self, job: Job[T], progress: Progress | None) -> Done[T]:
        free = asyncio.Semaphore(self._concurrency)
        count = 0

        async def run(part: range) -> Done[T]:
            nonlocal count
            async with free:
                done = await self._part(job, part)
            count += len(part)
            if progress is not None:
                progress(count, len(job.sizes))
            return done

        tasks = [asyncio.ensure_future(run(part)) for part in job.parts()]
        try:
            return merged(await asyncio.gather(*tasks))
        finally:  # the first error ends the job: what is under way is dropped
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _part(self, job: Job[T], part: range) -> Done[T]:
        failed, call = await asyncio.to_thread(job.prepare, part)
        if call is None:
            return failed
        try:
            return merged([failed, await self._send(call)])
        except TooLarge as error:
            if len(part) == 1:
                return refused(part, error)
            return merged([await self._part(job, half) for half in halves(part)])
