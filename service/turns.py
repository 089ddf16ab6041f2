"""Who waits for the batcher: the items of its callers, a turn of each after the other."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.errors import InferenceFailed

T = TypeVar("T")
U = TypeVar("U")


@dataclass(eq=False)
class Job(Generic[T, U]):
    """One caller's items; the first `taken` of them have left the queue, and some results have come back, by place.

    Args:
        free: gives back the places of so many items.
    """

    items: Sequence[T]
    future: asyncio.Future[list[U]]
    free: Callable[[int], None]
    queued_at: float
    taken: int = 0
    results: dict[int, U] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Items that wait."""
        return len(self.items) - self.taken


@dataclass(eq=False)
class Share(Generic[T, U]):
    """One caller's part of a batch: his items from `start` on."""

    job: Job[T, U]
    start: int
    items: list[T]

    @property
    def is_wanted(self) -> bool:
        """Whether the caller is still there, and no other part of his has failed."""
        return not self.job.future.done()

    def give(self, results: Sequence[U]) -> None:
        """Hand over as many results; the caller goes on when all of his are there, in whatever order batches ended."""
        job = self.job
        job.results.update(enumerate(results, self.start))
        if len(job.results) == len(job.items) and self.is_wanted:
            job.future.set_result([job.results[place] for place in range(len(job.items))])

    def fail(self, error: Exception) -> None:
        """Tell the caller that the runtime failed."""
        if self.is_wanted:
            failure = InferenceFailed(f"the forward pass failed: {error}")
            failure.__cause__ = error
            self.job.future.set_exception(failure)


class Turns(Generic[T, U]):
    """Jobs in the order of their turns; used on one event loop.

    Args:
        turn: items of one caller in a row, while others wait.
    """

    def __init__(self, turn: int) -> None:
        self._turn = turn
        self._jobs: dict[Job[T, U], None] = {}  # whose turn it is first; a caller that leaves is removed in O(1)
        self.items = 0  # that wait, of all jobs

    def __bool__(self) -> bool:
        return bool(self._jobs)

    @property
    def oldest_at(self) -> float:
        """When the job that has waited longest was queued; 0 where none waits."""
        return min((job.queued_at for job in self._jobs), default=0.0)

    def add(self, job: Job[T, U]) -> None:
        """Queue a job; a caller that is cancelled takes its items along, for nobody would read their results."""
        self._put(job)
        job.future.add_done_callback(lambda _: self._remove(job))

    def take(self, space: int) -> list[Share[T, U]]:
        """Take up to `space` items off the queue, a turn of each caller after the other."""
        shares: dict[Job[T, U], Share[T, U]] = {}
        while space and self._jobs:
            job = next(iter(self._jobs))
            self._remove(job)
            if job.future.done():  # its caller left a moment ago, and the callback has not run yet
                continue
            items = job.items[job.taken : job.taken + min(space, self._turn)]
            shares.setdefault(job, Share(job, job.taken, [])).items.extend(items)
            job.taken += len(items)
            job.free(len(items))
            space -= len(items)
            if job.left:
                self._put(job)  # at the end of the line
        return list(shares.values())

    def _put(self, job: Job[T, U]) -> None:
        self._jobs[job] = None
        self.items += job.left

    def _remove(self, job: Job[T, U]) -> None:
        if job in self._jobs:
            del self._jobs[job]
            self.items -= job.left
