"""Admission to the batcher's queue: who finds room in it, and how long it will take by what was done lately."""

import math
from typing import Protocol

from service.errors import Overloaded, TooManyCrops

FIRST_GUESS_S = 1.0  # retry-after before anything has been timed
SHORTEST_S = 1e-6  # a clock may not move between two readings
RATE_MEMORY = 0.8  # weight of the past in the running items-per-second estimate
RESERVE = 4  # a quarter of the queue is kept for requests of no more than a batch


class Holder(Protocol):
    """Whoever holds places: how many."""

    held: int


class Admission:
    """Counts the places that are held.

    Args:
        batch_max: most items of a request that counts as a small one.
        queue_max: most places.
        longest_s: a request that would take longer to be served is refused at once.
        turn: items of one caller in a row, while others wait.
    """

    def __init__(self, *, batch_max: int, queue_max: int, longest_s: float, turn: int) -> None:
        self._batch_max, self._queue_max, self._longest_s, self._turn = batch_max, queue_max, longest_s, turn
        self._large: dict[Holder, None] = {}  # that hold more than a turn's places
        self._items_per_s = 0.0
        self.waiting = 0  # places held

    @property
    def small(self) -> int:
        """Places of those who are served in one turn; whoever holds more lets others in between."""
        return self.waiting - sum(holder.held for holder in self._large)

    def check(self, count: int, *, running: int, ahead: int = 0) -> None:
        """Refuse what finds no room.

        Args:
            running: items that are being computed now.
            ahead: more items than hold places that will come before.

        Raises:
            TooManyCrops: when no queue, however empty, would take so many.
            Overloaded: when the queue has no room now, or would not be served in time.
        """
        if count > self._queue_max:
            raise TooManyCrops(f"got {count} crops, the queue holds {self._queue_max}; send them in smaller requests")
        limit, waiting = self._limit(count), self.waiting + ahead
        if waiting + count > limit:
            raise Overloaded(
                f"{waiting} crops wait and {limit} is the limit, no room for {count} more; try again",
                retry_after_s=waiting / self._items_per_s if self._items_per_s else FIRST_GUESS_S,
            )
        served_in_s = self._served_in_s(count, running + ahead)
        if waiting and served_in_s > self._longest_s:
            raise Overloaded(
                f"{count} crops would take {served_in_s:.0f} s, wanted {self._longest_s:g} s, as {waiting} wait; try again",
                retry_after_s=served_in_s - self._longest_s,
            )

    def hold(self, holder: Holder) -> None:
        """Count somebody's places."""
        self.waiting += holder.held
        if holder.held > self._turn:
            self._large[holder] = None

    def free(self, holder: Holder, count: int) -> None:
        """Take so many of them back."""
        self.waiting -= count
        holder.held -= count
        if not holder.held:
            self._large.pop(holder, None)

    def remember_rate(self, count: int, ran_s: float) -> None:
        """Note how long so many items took."""
        rate = count / max(ran_s, SHORTEST_S)
        past = self._items_per_s or rate
        self._items_per_s = RATE_MEMORY * past + (1 - RATE_MEMORY) * rate

    def _limit(self, count: int) -> int:
        """How full the queue may get by a request; large ones leave room for small ones, unless they come alone."""
        is_small = count <= min(self._batch_max, self._queue_max // RESERVE) or not self.waiting
        return self._queue_max if is_small else self._queue_max - self._queue_max // RESERVE

    def _served_in_s(self, count: int, running: int) -> float:
        """Estimate how long `count` more items would take, those of others that come before their last turn included."""
        turns = math.ceil(max(1, count) / self._turn) * self._turn
        before = running + self.waiting - sum(max(0, holder.held - turns) for holder in self._large)
        return (before + count) / self._items_per_s if self._items_per_s else 0.0
