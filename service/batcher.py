"""Dynamic batching: items of many callers go through one function in batches, and every caller gets its own back.

A batch is formed the moment the runtime is free, from whatever waits, up to batch_max items. While it computes, one more is
given to the runtime, as soon as that one is full: it cannot get larger by waiting, and no core waits for the next batch where
others have still to finish this one. Callers take turns of half a batch: whoever brings no more is served in the order of
coming, and of one who brings a thousand no more than two turns come before anybody else's first, once those under way are
done. No polling, and no waiting for more unless max_wait_s asks for it. All state lives on the event loop; only `run` leaves
it, in threads of its own, so that a long forward pass never blocks the loop. While items wait, a batch's results are given to
its callers once the next has got under way: what they do then would keep its thread from the interpreter.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.admission import Admission
from service.errors import InferenceFailed, Overloaded
from service.turns import Job, Share, Turns
from service.worker import Worker

T = TypeVar("T")
U = TypeVar("U")

OVERLAP = 2  # batches given to the runtime at once
HEAD_START_S = 0.001  # of a batch before the last one's callers go on
LONGEST_REST_S = 1.0  # a batch that takes as long may hang

log = logging.getLogger("service")


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


class Room(Generic[T, U]):
    """Places in the queue, held from admission until their items are taken or the caller leaves the `with` block."""

    def __init__(self, batcher: "Batcher[T, U]", count: int) -> None:
        self._batcher = batcher
        self.held = count

    async def submit(self, items: Sequence[T]) -> list[U]:
        """Run the items, at most as many as places are held; results come back in the order of the items."""
        assert len(items) <= self.held, "This is a bug: more items than were admitted."
        self.free(self.held - len(items))
        return await self._batcher._enqueue(items, self)

    def free(self, count: int) -> None:
        """Give places back."""
        self._batcher._admission.free(self, count)
        self._batcher._changed.set()

    def __enter__(self) -> "Room[T, U]":
        return self

    def __exit__(self, *_: object) -> None:
        self.free(self.held)


class Batcher(Generic[T, U]):
    """Batches items across callers through one function that maps a list of T to as many U.

    Args:
        run: called in the batcher's own threads, at most OVERLAP times at once.
        batch_max: most items in one call of `run`.
        queue_max: most items waiting; what would exceed it is refused at once.
        max_wait_s: 0 forms a batch as soon as the runtime is free; else wait this long for a full one.
        longest_s: a request that would take longer to be served, by what the runtime did lately, is refused at once.
        on_batch: told about every batch, on the event loop.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Sequence[U]],
        *,
        batch_max: int,
        queue_max: int,
        max_wait_s: float = 0.0,
        longest_s: float = math.inf,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._on_batch, self._clock = run, on_batch, clock
        self._batch_max, self._max_wait_s = batch_max, max_wait_s
        turn = max(1, batch_max // 2)
        self._admission = Admission(batch_max=batch_max, queue_max=queue_max, longest_s=longest_s, turn=turn)
        self._turns: Turns[T, U] = Turns(turn)
        self._under_way: dict[_Batch[U], asyncio.Task[None]] = {}  # the oldest first
        self._done: list[tuple[list[Share[T, U]], Sequence[U]]] = []  # computed and not delivered
        self._moved_at = 0.0  # when a batch last ended, or an idle queue got its first job
        self._changed = asyncio.Event()
        self._closing = False
        self._threads: tuple[Worker[Sequence[U]], ...] = tuple(Worker(f"inference {n}") for n in range(1, OVERLAP + 1))
        self._idle = list(self._threads)
        self._former: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start forming batches on the running event loop."""
        self._former = asyncio.get_running_loop().create_task(self._form_batches(), name="batcher")

    async def close(self, *, limit_s: float | None = None) -> None:
        """Refuse new items, finish the queued ones, stop the threads; what is not done by the limit is given up."""
        self._closing = True
        self._changed.set()
        if self._former is not None:
            _, late = await asyncio.wait({self._former}, timeout=limit_s)
            if late:
                log.error("a forward pass hangs and is given up", extra={"fields": {"crops": self._running}})
                late |= set(self._under_way.values())
                for task in late:
                    task.cancel()
                await asyncio.wait(late)
        for thread in self._threads:
            thread.stop()

    @property
    def is_alive(self) -> bool:
        """Whether the threads live and batches are formed; harmless before start."""
        are_alive = all(thread.is_alive for thread in self._threads)
        return are_alive and (self._former is None or self._closing or not self._former.done())

    def revive(self) -> bool:
        """Replace dead threads, or go on forming batches when that failed; tells whether there was anything to do."""
        if self.is_alive:
            return False
        for thread in self._threads:
            thread.revive()
        if self._former is not None and self._former.done():
            log.error("forming batches failed", exc_info=self._former.exception())
            self.start()
        return True

    @property
    def waiting(self) -> int:
        """Items admitted and not yet taken into a batch."""
        return self._admission.waiting

    @property
    def is_behind(self) -> bool:
        """Whether so much waits that the runtime has enough to do for a while."""
        return self._turns.items >= OVERLAP * self._batch_max

    @property
    def _running(self) -> int:
        return sum(batch.size for batch in self._under_way)

    def stalled_s(self) -> float:
        """How long the batch that runs now has been running, or the queue has waited for one; 0 when there is nothing to do."""
        oldest = next(iter(self._under_way), None)
        if oldest is not None:
            return self._clock() - oldest.began_at
        return self._clock() - self._moved_at if self._turns else 0.0

    def rest(self, limit_s: float) -> None:
        """Hold up the event loop itself, until a batch under way has been computed or the limit is reached.

        Not when nothing is under way, when it takes so long that it may hang, or when the service is about to end.
        """
        if self._under_way and not self._closing and self.stalled_s() < LONGEST_REST_S:
            wait([batch.call for batch in self._under_way], timeout=limit_s, return_when=FIRST_COMPLETED)

    def admit(self, count: int) -> Room[T, U]:
        """Hold `count` places in the queue, to be used in a `with` block.

        Raises:
            TooManyCrops: when no queue, however empty, would take so many.
            Overloaded: when the queue has no room now, or the batcher is closing.
        """
        if self._closing:
            raise Overloaded("the service is shutting down; send this elsewhere or later")
        self._admission.check(count, running=self._running)
        room = Room(self, count)
        self._admission.hold(room)
        return room

    def _enqueue(self, items: Sequence[T], room: Room[T, U]) -> Awaitable[list[U]]:
        future: asyncio.Future[list[U]] = asyncio.get_running_loop().create_future()
        if not items:
            future.set_result([])
            return future
        now = self._clock()
        if not self._under_way and not self._turns:
            self._moved_at = now
        self._turns.add(Job(items, future, room.free, now))
        self._changed.set()
        return future

    async def _form_batches(self) -> None:
        try:
            while True:
                self._collect()
                if self._is_due():
                    if self._max_wait_s:
                        self._deliver()
                        await self._wait_for_more()
                    if shares := self._turns.take(self._batch_max):
                        await self._begin(shares)
                elif self._done:
                    self._deliver()
                elif self._closing and not (self.waiting or self._under_way):
                    return
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            self._deliver()

    def _is_due(self) -> bool:
        """Tell whether the runtime gets another batch now."""
        is_full = self._turns.items >= self._batch_max
        return bool(self._turns) and (not self._under_way or (is_full and len(self._under_way) < OVERLAP))

    async def _wait_for_more(self) -> None:
        """Wait until a batch is full or the oldest job has waited its time."""
        until = self._turns.oldest_at + self._max_wait_s
        while self._turns and not self._closing and self._turns.items < self._batch_max:
            left_s = until - self._clock()
            if left_s <= 0:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                return

    async def _begin(self, shares: list[Share[T, U]]) -> None:
        """Give a batch to the runtime, and to its callers what has been computed before."""
        batch: _Batch[U] = _Batch(sum(len(share.items) for share in shares), self._idle.pop(), began_at=self._clock())
        self._hand_over(batch, shares)
        task = asyncio.get_running_loop().create_task(self._follow(batch, shares), name="batch")
        task.add_done_callback(lambda _: self._changed.set())
        self._under_way[batch] = task
        if self._done and len(self._under_way) == 1:
            await asyncio.wait({task}, timeout=HEAD_START_S)
        self._deliver()

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
            failure = error
        else:
            self._done.append((shares, results))
            self._changed.set()
        began_at, self._moved_at = batch.began_at, self._clock()  # of a call that a thread died in nobody knows the end
        is_oldest = batch is next(iter(self._under_way))
        for later in self._under_way if is_oldest else (batch,):  # and itself, when it is tried again
            later.began_at = max(later.began_at, batch.ended_at)
        ran_s = max(0.0, batch.ended_at - began_at)
        if failure is None:  # one that fails at once is no fast one
            self._admission.remember_rate(count, ran_s)
        self._on_batch(BatchReport(count, began_at - min(share.job.queued_at for share in shares), ran_s, failure))
        return failure

    def _collect(self) -> None:
        """Take note of batches that have ended; raises what none of their callers is to blame for."""
        for batch, task in [(batch, task) for batch, task in self._under_way.items() if task.done()]:
            del self._under_way[batch]
            self._idle.append(batch.thread)
            task.result()

    def _deliver(self) -> None:
        """Give callers what has been computed for them."""
        done, self._done = self._done, []
        for shares, results in done:
            start = 0
            for share in shares:
                share.give(results[start : start + len(share.items)])
                start += len(share.items)
