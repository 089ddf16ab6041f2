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
from functools import partial
from typing import Generic, TypeVar

from service.admission import Admission
from service.errors import Overloaded
from service.passes import OVERLAP, BatchReport, Passes
from service.turns import Job, Turns

T = TypeVar("T")
U = TypeVar("U")

AHEAD = OVERLAP + 1  # full batches that are enough to have waiting
LONGEST_REST_S = 1.0  # a batch that takes as long may hang

log = logging.getLogger("service")


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
        self._batcher._on_room()

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
        on_room: told whenever places have been given back.
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
        on_room: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._batch_max, self._max_wait_s = clock, batch_max, max_wait_s
        turn, self._enough, self._queue_max = max(1, batch_max // 2), AHEAD * batch_max, queue_max
        self._admission = Admission(batch_max=batch_max, queue_max=queue_max, longest_s=longest_s, turn=turn)
        self._turns: Turns[T, U] = Turns(turn)
        self._waiting_since = 0.0  # when an idle queue got its first job
        self._changed = asyncio.Event()
        # A function that holds the batcher would keep one that nobody else holds, and its threads, until a collection.
        note = partial(remember, self._admission, on_batch)
        self._passes: Passes[T, U] = Passes(run, on_batch=note, changed=self._changed, clock=clock)
        self._closing, self._on_room = False, on_room
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
                log.error("a forward pass hangs and is given up", extra={"fields": {"crops": self._passes.size}})
                self._former.cancel()
                await asyncio.wait({self._former} | self._passes.give_up())
        self._passes.stop()

    @property
    def is_alive(self) -> bool:
        """Whether the threads live and batches are formed; harmless before start."""
        return self._passes.are_alive and (self._former is None or self._closing or not self._former.done())

    def revive(self) -> bool:
        """Replace dead threads, or go on forming batches when that failed; tells whether there was anything to do."""
        if self.is_alive:
            return False
        self._passes.revive()
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

    def has_enough(self, more: int) -> bool:
        """Tell whether, with `more` single items, the queue is full or holds so much that nobody is served sooner by coming now.

        Of somebody with many items a turn comes before those who come later, and the rest behind them: they do not count.
        """
        admission = self._admission
        return admission.small + more >= self._enough or admission.waiting + more >= self._queue_max

    def stalled_s(self) -> float:
        """How long the batch that runs now has been running, or the queue has waited for one; 0 when there is nothing to do."""
        since = self._passes.oldest_at
        if since is None and self._turns:
            since = max(self._waiting_since, self._passes.ended_at)
        return 0.0 if since is None else self._clock() - since

    def rest(self, limit_s: float) -> None:
        """Hold up the event loop itself, until a batch under way has been computed or the limit is reached.

        Not when nothing is under way, when it takes so long that it may hang, or when the service is about to end.
        """
        if self._passes and not self._closing and self.stalled_s() < LONGEST_REST_S:
            self._passes.wait(limit_s)

    def check_room(self, count: int, *, ahead: int = 0) -> None:
        """Refuse what would find no room in the queue after `ahead` items that others are about to bring.

        Raises:
            TooManyCrops: when no queue, however empty, would take so many.
            Overloaded: when the queue has no room now, or the batcher is closing.
        """
        if self._closing:
            raise Overloaded("the service is shutting down; send this elsewhere or later")
        self._admission.check(count, running=self._passes.size, ahead=ahead)

    def admit(self, count: int) -> Room[T, U]:
        """Hold `count` places in the queue, to be used in a `with` block; raises as check_room does."""
        self.check_room(count)
        room = Room(self, count)
        self._admission.hold(room)
        return room

    def _enqueue(self, items: Sequence[T], room: Room[T, U]) -> Awaitable[list[U]]:
        future: asyncio.Future[list[U]] = asyncio.get_running_loop().create_future()
        if not items:
            future.set_result([])
            return future
        now = self._clock()
        if not self._turns:
            self._waiting_since = now
        self._turns.add(Job(items, future, room.free, now))
        self._changed.set()
        return future

    async def _form_batches(self) -> None:
        try:
            while True:
                self._passes.collect()
                if self._is_due():
                    if self._max_wait_s:
                        self._passes.deliver()
                        await self._wait_for_more()
                    if shares := self._turns.take(self._batch_max):
                        await self._passes.begin(shares)
                elif self._passes.have_results:
                    self._passes.deliver()
                elif self._closing and not (self.waiting or self._passes):
                    return
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            self._passes.deliver()

    def _is_due(self) -> bool:
        """Tell whether the runtime gets another batch now."""
        is_full = self._turns.items >= self._batch_max
        return bool(self._turns) and (not self._passes or (is_full and len(self._passes) < OVERLAP))

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


def remember(admission: Admission, on_batch: Callable[[BatchReport], None], report: BatchReport) -> None:
    """Let admission know how fast a batch was, and tell whoever asked about it."""
    if report.error is None:  # what fails at once is no fast one
        admission.remember_rate(report.size, report.ran_s)
    on_batch(report)
