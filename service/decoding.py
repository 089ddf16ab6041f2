"""Decoding in threads: the items of many callers, one of each in turn, results given back several at a time.

To hand a crop to a thread and its pixels back takes as long as to decode it, where every crop is a task of its own: so a thread
takes what waits until its slice of time is over, and gives all that it has done back at once.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")

SLICE_S = 0.003  # ten crops; then a thread goes to the end of the line, for others use the same threads
LARGE_BYTES = 32_768  # a file from which on nothing that is done waits for its pixels


@dataclass(eq=False)
class _Job(Generic[T, U]):
    """One caller's items; `taken` of them are with a thread or done, `left` of them have not come back."""

    call: Callable[[T], U]
    items: Sequence[T]
    future: "asyncio.Future[list[U]]"
    results: list[Any]
    left: int
    taken: int = 0


class Decoding(Generic[T, U]):
    """Maps items in the threads of an executor, which others may use too; `map` is called on one event loop.

    Args:
        threads: how many of the executor's may work at once.
    """

    def __init__(self, executor: ThreadPoolExecutor, *, threads: int) -> None:
        self._executor, self._threads = executor, threads
        self._jobs: deque[_Job[T, U]] = deque()  # whose turn it is first
        self._lock = threading.Lock()  # of the jobs and of how many threads are at them
        self._at_work = 0

    async def map(self, call: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """Call with every item, in threads; what a caller who is cancelled had waiting is dropped.

        Returns:
            the results in the order of the items.

        Raises:
            whatever the first call to fail raised.
        """
        if not items:
            return []
        loop = asyncio.get_running_loop()
        job = _Job(call, items, loop.create_future(), [None] * len(items), len(items))
        with self._lock:
            self._jobs.append(job)
            more = min(len(items), self._threads - self._at_work)
            self._at_work += more
        for _ in range(more):
            self._executor.submit(self._serve, loop)
        return await job.future

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in a thread until nothing waits or the slice of time is over."""
        done: list[tuple[_Job[T, U], int, Any, Exception | None]] = []
        until = time.perf_counter() + SLICE_S
        while (taken := self._take()) is not None:
            job, index = taken
            if done and is_large(job.items[index]):
                loop.call_soon_threadsafe(give_back, done)
                done = []
            try:
                done.append((job, index, job.call(job.items[index]), None))
            except Exception as error:  # it is the caller's
                done.append((job, index, None, error))
            if time.perf_counter() > until:
                break
        if done:
            loop.call_soon_threadsafe(give_back, done)
        if taken is not None:
            self._executor.submit(self._serve, loop)

    def _take(self) -> tuple[_Job[T, U], int] | None:
        """Take the next item of whoever's turn it is; None ends a thread's work."""
        with self._lock:
            while self._jobs:
                job = self._jobs.popleft()
                if job.future.done():  # its caller has left, or an item of it failed
                    continue
                job.taken += 1
                if job.taken < len(job.items):
                    self._jobs.append(job)
                return job, job.taken - 1
            self._at_work -= 1
            return None


def is_large(item: object) -> bool:
    """Tell whether an item may take many times as long as a crop."""
    return isinstance(item, bytes) and len(item) > LARGE_BYTES


def give_back(done: Sequence[tuple[_Job[Any, Any], int, Any, Exception | None]]) -> None:
    """Give results to those who await them, on their event loop."""
    for job, index, result, error in done:
        job.results[index] = result
        job.left -= 1
        if job.future.done():
            continue
        if error is not None:
            job.future.set_exception(error)
        elif not job.left:
            job.future.set_result(job.results)
