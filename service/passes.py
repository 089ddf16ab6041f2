"""Forward passes under way: at most OVERLAP batches, a thread each, and results that wait to be given to their callers.

When a batch fails every caller's share of it is tried alone. All state lives on the event loop; only `run` leaves it.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.errors import InferenceFailed, without_frames
from service.turns import Share
from service.worker import Worker

T = TypeVar("T")
U = TypeVar("U")

OVERLAP = 2  # batches given to the runtime at once
HEAD_START_S = 0.001  # of a batch before the last one's callers go on


@dataclass(frozen=True)
class BatchReport:
    """One batch: its size, how long its oldest caller had waited, how long `run` took, and what it raised if it failed.

    Of a batch that was given to the runtime while another computed, the wait is until that one's end, if it ended first.
    """

    size: int
    waited_s: float
    ran_s: float
    error: Exception | None


@dataclass(eq=False)
class _Batch(Generic[U]):
    """A batch under way, and since when the runtime has had nothing to finish before it."""

    size: int
    thread: Worker[Sequence[U]]
    call: "Future[Sequence[U]]" = field(init=False)
    began_at: float
    ended_at: float = 0.0  # of the last call


class Passes(Generic[T, U]):
    """Runs batches in threads of its own.

    Args:
        run: maps a list of T to as many U; called at most OVERLAP times at once.
        on_batch: told about every call of it, on the event loop.
        changed: set whenever results have come or a batch has ended.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Sequence[U]],
        *,
        on_batch: Callable[[BatchReport], None],
        changed: asyncio.Event,
        clock: Callable[[], float],
    ) -> None:
        self._run, self._on_batch, self._changed, self._clock = run, on_batch, changed, clock
        self._under_way: dict[_Batch[U], asyncio.Task[None]] = {}  # the oldest first
        self._done: list[tuple[list[Share[T, U]], Sequence[U]]] = []  # computed and not delivered
        self._threads: tuple[Worker[Sequence[U]], ...] = tuple(Worker(f"inference {n}") for n in range(1, OVERLAP + 1))
        self._idle = list(self._threads)
        self.ended_at = 0.0  # the last call

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def size(self) -> int:
        """Items of all batches under way."""
        return sum(batch.size for batch in self._under_way)

    @property
    def oldest_at(self) -> float | None:
        """Since when the oldest batch has had the runtime; None when nothing is under way."""
        return next((batch.began_at for batch in self._under_way), None)

    @property
    def have_results(self) -> bool:
        """Whether something has been computed and not been delivered."""
        return bool(self._done)

    @property
    def are_alive(self) -> bool:
        """Whether the threads live."""
        return all(thread.is_alive for thread in self._threads)

    def revive(self) -> None:
        """Replace dead threads."""
        for thread in self._threads:
            thread.revive()

    def stop(self) -> None:
        """Let the threads end after the calls that run."""
        for thread in self._threads:
            thread.stop()

    def give_up(self) -> "set[asyncio.Task[None]]":
        """Cancel what follows the batches under way; returns the tasks, to be awaited."""
        tasks = set(self._under_way.values())
        for task in tasks:
            task.cancel()
        return tasks

    def wait(self, limit_s: float) -> None:
        """Hold up the event loop itself, until a batch under way has been computed or the limit is reached."""
        wait([batch.call for batch in self._under_way], timeout=limit_s, return_when=FIRST_COMPLETED)

    async def begin(self, shares: list[Share[T, U]]) -> None:
        """Give a batch to the runtime, and to its callers what has been computed before; wants fewer than OVERLAP under way."""
        batch: _Batch[U] = _Batch(sum(len(share.items) for share in shares), self._idle.pop(), began_at=self._clock())
        self._hand_over(batch, shares)
        task = asyncio.get_running_loop().create_task(self._follow(batch, shares), name="batch")
        task.add_done_callback(lambda _: self._changed.set())
        self._under_way[batch] = task
        if self._done and len(self._under_way) == 1:
            await asyncio.wait({task}, timeout=HEAD_START_S)
        self.deliver()

    def collect(self) -> None:
        """Take note of batches that have ended; raises what none of their callers is to blame for."""
        for batch, task in [(batch, task) for batch, task in self._under_way.items() if task.done()]:
            del self._under_way[batch]
            self._idle.append(batch.thread)
            task.result()

    def deliver(self) -> None:
        """Give callers what has been computed for them."""
        done, self._done = self._done, []
        for shares, results in done:
            start = 0
            for share in shares:
                share.give(results[start : start + len(share.items)])
                start += len(share.items)

    def _hand_over(self, batch: _Batch[U], shares: list[Share[T, U]]) -> None:
        """Give these shares of a batch to its thread."""
        items = [item for share in shares for item in share.items]

        def run() -> Sequence[U]:
            try:
                return self._run(items)
            finally:
                batch.ended_at = self._clock()  # the loop may hear of it late

        batch.call = batch.thread.run(run)

    async def _follow(self, batch: _Batch[U], shares: list[Share[T, U]]) -> None:
        """Await what was handed over; when it failed every caller's share is tried alone, so that none pays for another's."""
        failure = await self._outcome(batch, shares)
        if failure is None:
            return
        if len(shares) == 1:
            return shares[0].fail(failure)
        for share in shares:
            if share.is_wanted:
                self._hand_over(batch, [share])
                await self._follow(batch, [share])

    async def _outcome(self, batch: _Batch[U], shares: list[Share[T, U]]) -> Exception | None:
        """Await results, and report how it went; returns what it failed of."""
        count, failure = sum(len(share.items) for share in shares), None
        try:
            results = await asyncio.wrap_future(batch.call)
            if len(results) != count:
                raise InferenceFailed(f"the runtime returned {len(results)} rows for {count} crops")
        except Exception as error:  # whatever `run` raised belongs to this batch's callers, and the others are served
            failure = without_frames(error)
        else:
            self._done.append((shares, results))
            self._changed.set()
        began_at, self.ended_at = batch.began_at, self._clock()  # of a call that a thread died in nobody knows the end
        is_oldest = batch is next(iter(self._under_way))
        for later in self._under_way if is_oldest else (batch,):  # and itself, when it is tried again
            later.began_at = max(later.began_at, batch.ended_at)
        ran_s = max(0.0, batch.ended_at - began_at)
        self._on_batch(BatchReport(count, began_at - min(share.job.queued_at for share in shares), ran_s, failure))
        return failure
