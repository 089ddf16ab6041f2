"""Dynamic batching: items of many callers go through one function in batches, and every caller gets its own back.

A batch is formed the moment the runtime is free, from whatever waits, up to batch_max items. Callers take turns of half a
batch: whoever brings no more is served in the order of coming, and one who brings a thousand holds nobody up for longer
than a turn. No polling, and no waiting for more unless max_wait_s asks for it. All state lives on the event loop; only `run`
leaves it, in a thread of its own, so that a long forward pass never blocks the loop. While items wait, a batch's results are
given to its callers once the next has got under way: what they do then would keep its thread from the interpreter.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from service.admission import Admission
from service.errors import InferenceFailed, Overloaded
from service.worker import Worker

T = TypeVar("T")
U = TypeVar("U")

HEAD_START_S = 0.001  # of a batch before the last one's callers go on
LONGEST_REST_S = 1.0  # a batch that takes as long may hang

log = logging.getLogger("service")


@dataclass(frozen=True)
class BatchReport:
    """One batch: its size, how long its oldest caller had waited, how long `run` took, and what it raised if it failed."""

    size: int
    waited_s: float
    ran_s: float
    error: Exception | None


@dataclass(eq=False)
class _Job(Generic[T, U]):
    """One caller's items; `taken` of them have left the queue, `results` have come back, both in order."""

    items: Sequence[T]
    future: asyncio.Future[list[U]]
    room: "Room[T, U]"
    queued_at: float
    taken: int = 0
    results: list[U] = field(default_factory=list)


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
        run: called in the batcher's own thread, never twice at once.
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
        self._turn = max(1, batch_max // 2)  # items of one caller in a row, while others wait
        self._admission = Admission(batch_max=batch_max, queue_max=queue_max, longest_s=longest_s, turn=self._turn)
        self._jobs: dict[_Job[T, U], None] = {}  # whose turn it is first; a caller that leaves is removed in O(1)
        self._done: list[tuple[list[tuple[_Job[T, U], list[T]]], Sequence[U]]] = []  # batches computed and not delivered
        self._running = 0
        self._moved_at = 0.0  # when a batch last began or ended, or an idle queue got its first job
        self._changed = asyncio.Event()
        self._ran = threading.Event()  # cleared while a batch computes
        self._ran.set()
        self._closing = False
        self._thread: Worker[Sequence[U]] = Worker("inference")
        self._former: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start forming batches on the running event loop."""
        self._former = asyncio.get_running_loop().create_task(self._form_batches(), name="batcher")

    async def close(self, *, limit_s: float | None = None) -> None:
        """Refuse new items, finish the queued ones, stop the thread; what is not done by the limit is given up."""
        self._closing = True
        self._changed.set()
        if self._former is not None:
            _, late = await asyncio.wait({self._former}, timeout=limit_s)
            if late:
                log.error("a forward pass hangs and is given up", extra={"fields": {"crops": self._running}})
                self._former.cancel()
                await asyncio.wait({self._former})
        self._thread.stop()

    @property
    def is_alive(self) -> bool:
        """Whether the thread lives and batches are formed; harmless before start."""
        return self._thread.is_alive and (self._former is None or self._closing or not self._former.done())

    def revive(self) -> bool:
        """Replace a dead thread, or go on forming batches when that failed; tells whether there was anything to do."""
        if self.is_alive:
            return False
        self._thread.revive()
        if self._former is not None and self._former.done():
            log.error("forming batches failed", exc_info=self._former.exception())
            self._running = 0
            self.start()
        return True

    @property
    def waiting(self) -> int:
        """Items admitted and not yet taken into a batch."""
        return self._admission.waiting

    def stalled_s(self) -> float:
        """How long the batch that runs now has been running, or the queue has waited for one; 0 when there is nothing to do."""
        return self._clock() - self._moved_at if self._running or self._jobs else 0.0

    def rest(self, limit_s: float) -> None:
        """Hold up the event loop itself, until the batch under way has been computed or the limit is reached.

        Not when nothing is under way, when it takes so long that it may hang, or when the service is about to end.
        """
        if not self._closing and self.stalled_s() < LONGEST_REST_S:
            self._ran.wait(limit_s)

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
        job = _Job(items, future, room, self._clock())
        if not self._running and not self._jobs:
            self._moved_at = job.queued_at
        self._jobs[job] = None
        # A caller that is cancelled takes its items along: nobody would read their results.
        future.add_done_callback(lambda _: self._jobs.pop(job, None))
        self._changed.set()
        return future

    async def _form_batches(self) -> None:
        try:
            while self._jobs or self.waiting or not self._closing:
                if not self._jobs:
                    self._deliver()
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                if self._max_wait_s:
                    self._deliver()
                    await self._wait_for_more()
                shares = self._take()
                if shares:
                    await self._run_batch(shares)
        finally:
            self._deliver()

    async def _wait_for_more(self) -> None:
        """Wait until a batch is full or the oldest job has waited its time."""
        until = min((job.queued_at for job in self._jobs), default=0.0) + self._max_wait_s
        while self._jobs and not self._closing and self._queued() < self._batch_max:
            left_s = until - self._clock()
            if left_s <= 0:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                return

    def _queued(self) -> int:
        return sum(len(job.items) - job.taken for job in self._jobs)

    def _take(self) -> list[tuple[_Job[T, U], list[T]]]:
        """Take up to batch_max items off the queue, a turn of each caller after the other; pairs each job with its own items."""
        shares: dict[_Job[T, U], list[T]] = {}
        space = self._batch_max
        while space and self._jobs:
            job = next(iter(self._jobs))
            del self._jobs[job]
            if job.future.done():  # its caller left a moment ago, and the callback has not run yet
                continue
            share = job.items[job.taken : job.taken + min(space, self._turn)]
            shares.setdefault(job, []).extend(share)
            job.taken += len(share)
            job.room.free(len(share))
            space -= len(share)
            if job.taken < len(job.items):
                self._jobs[job] = None  # to the end of the line
        return list(shares.items())

    async def _run_batch(self, shares: list[tuple[_Job[T, U], list[T]]]) -> None:
        """Run one batch; when it fails every caller's share is tried alone, so that none pays for another's."""
        items = [item for _, share in shares for item in share]
        started = self._moved_at = self._clock()
        self._running, failure = len(items), None
        self._ran.clear()
        call = self._thread.run(partial(self._run, items))
        call.add_done_callback(lambda _: self._ran.set())
        running = asyncio.wrap_future(call)
        try:
            if self._done:
                await asyncio.wait({running}, timeout=HEAD_START_S)
                self._deliver()
            results = await running
            if len(results) != len(items):
                raise InferenceFailed(f"the runtime returned {len(results)} rows for {len(items)} crops")
        except Exception as error:  # whatever `run` raised belongs to this batch's callers, and the others are served
            failure = error
        else:
            self._done.append((shares, results))
        self._moved_at, self._running = self._clock(), 0
        ran_s = self._moved_at - started
        if failure is None:  # one that fails at once is no fast one
            self._admission.remember_rate(len(items), ran_s)
        self._on_batch(BatchReport(len(items), started - min(job.queued_at for job, _ in shares), ran_s, failure))
        if failure is not None and len(shares) == 1:
            self._fail(shares[0][0], failure)
        elif failure is not None:
            for share in shares:
                if not share[0].future.done():
                    await self._run_batch([share])

    def _deliver(self) -> None:
        """Give callers what has been computed for them."""
        done, self._done = self._done, []
        for shares, results in done:
            start = 0
            for job, share in shares:
                job.results.extend(results[start : start + len(share)])
                start += len(share)
                if len(job.results) == len(job.items) and not job.future.done():
                    job.future.set_result(job.results)

    def _fail(self, job: _Job[T, U], error: Exception) -> None:
        if not job.future.done():
            failure = InferenceFailed(f"the forward pass failed: {error}")
            failure.__cause__ = error
            job.future.set_exception(failure)
