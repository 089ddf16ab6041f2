"""Decoding in threads: the items of many callers, one of each in turn, results given back several at a time.

To hand a crop to a thread and its pixels back takes as long as to decode it, where every crop is a task of its own: so a thread
goes on as long as anything waits, and gives back what has been done when a slice of time is over or nothing is left.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from service.worker import Worker

T = TypeVar("T")
U = TypeVar("U")

SLICE_S = 0.003  # ten crops
LARGE_BYTES = 100_000  # of a file or of pixels, from which on nothing that is done waits for its pixels


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
    """Maps items in threads of its own; `map` and `close` are called on one event loop.

    Args:
        threads: how many; they are started here, so that none is missing when it is wanted.
    """

    def __init__(self, *, threads: int) -> None:
        self._lock = threading.Lock()  # of these three
        self._jobs: deque[_Job[T, U]] = deque()  # whose turn it is first
        self._idle: list[Worker[None]] = [Worker(f"decode {number}") for number in range(1, threads + 1)]
        self._done: list[tuple[_Job[T, U], int, Any, BaseException | None]] = []  # and not given back
        self._threads = tuple(self._idle)
        self._wanted = 0  # items that came in this turn of the loop

    async def map(self, call: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """Call with every item, in threads; what a caller who is cancelled had waiting is dropped.

        Returns:
            the results in the order of the items.

        Raises:
            whatever the first call to fail raised. CancelledError: `close` came before.
        """
        if not items:
            return []
        loop = asyncio.get_running_loop()
        job = _Job(call, items, loop.create_future(), [None] * len(items), len(items))
        with self._lock:
            self._jobs.append(job)
        if not self._wanted:
            loop.call_soon(self._wake, loop)  # once for all who come together: a thread that wakes takes the interpreter
        self._wanted += len(items)
        return await job.future

    def close(self) -> None:
        """Drop what waits, and let the threads end."""
        with self._lock:
            dropped = list(self._jobs)
            self._jobs.clear()
        for job in dropped:
            job.future.cancel()
        for thread in self._threads:
            thread.stop()

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let as many threads work as are idle and wanted."""
        with self._lock:
            woken = [self._idle.pop() for _ in range(min(self._wanted, len(self._idle)))]
        self._wanted = 0
        for thread in woken:
            thread.run(lambda thread=thread: self._serve(thread, loop))  # type: ignore[misc]

    def _serve(self, thread: Worker[None], loop: asyncio.AbstractEventLoop) -> None:
        """Work in a thread until nothing waits."""
        until = time.perf_counter() + SLICE_S
        while (taken := self._take(thread)) is not None:
            job, index = taken
            if time.perf_counter() > until or is_large(job.items[index]):
                self._give_back_soon(loop)
                until = time.perf_counter() + SLICE_S
            try:
                result, error = job.call(job.items[index]), None
            except BaseException as raised:  # it is the caller's; SystemExit would end the event loop that awaits it
                result, error = None, raised if isinstance(raised, Exception) else RuntimeError(f"{raised!r} in a thread")
            with self._lock:
                self._done.append((job, index, result, error))
        self._give_back_soon(loop)

    def _take(self, thread: Worker[None]) -> tuple[_Job[T, U], int] | None:
        """Take the next item of whoever's turn it is; with None a thread is idle again."""
        with self._lock:
            while self._jobs:
                job = self._jobs.popleft()
                if job.future.done():  # its caller has left, or an item of it failed
                    continue
                job.taken += 1
                if job.taken < len(job.items):
                    self._jobs.append(job)
                return job, job.taken - 1
            self._idle.append(thread)
            return None

    def _give_back_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._done and not loop.is_closed():
            loop.call_soon_threadsafe(self._give_back)

    def _give_back(self) -> None:
        """Give results to those who await them, on their event loop."""
        with self._lock:
            done, self._done = self._done, []
        for job, index, result, error in done:
            job.results[index] = result
            job.left -= 1
            if job.future.done():
                continue
            if error is not None:
                job.future.set_exception(error)
            elif not job.left:
                job.future.set_result(job.results)


def is_large(item: object) -> bool:
    """Tell whether an item may take many times as long as a crop."""
    size = item.nbytes if isinstance(item, np.ndarray) else len(item) if isinstance(item, bytes) else 0
    return size > LARGE_BYTES
