"""When a request that brings crops is begun: in the order of coming, a few at a time, no sooner than the runtime needs it.

What a request is begun with, its route, its body, its crops' decoding, costs least where several are begun together and their
crops are decoded in a row. While the runtime has enough to do nobody is served sooner by being begun sooner.
"""

import asyncio
import time
from collections.abc import Callable

A_TURN = 4  # requests begun in one turn of the event loop; each takes 0.4 ms of it and more

Begin = Callable[[], None]


class Entrance:
    """Requests that were let in, of which there is a head, maybe a body, and nothing else; used on one event loop.

    When hundreds come together, those who are refused, and whoever wants to know how the service is, need not wait until all
    the others have been begun.

    Args:
        has_enough: whether the runtime has enough to do, once so many more have come that were begun just now.
        patience_s: how long one waits at most, also where the runtime does nothing: what is begun says so.
    """

    def __init__(
        self, has_enough: Callable[[int], bool], *, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._has_enough, self._patience_s, self._clock = has_enough, patience_s, clock
        self._waiting: dict[Begin, float] = {}  # since when, the oldest first
        self._begun = 0  # in this turn of the loop; their own tasks have not run yet
        self._is_due = False  # the next turn
        self._alarm: asyncio.TimerHandle | None = None  # when the oldest has waited long enough

    def __len__(self) -> int:
        """Requests that hold no place in the queue yet."""
        return self._begun + len(self._waiting)

    def let_in(self, begin: Begin) -> None:
        """Begin a request, now or later."""
        self._waiting[begin] = self._clock()
        if not self._is_due:
            self._turn()

    def go_on(self) -> None:
        """Begin more in the next turn of the loop, where the runtime wants more."""
        if self._waiting and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def leave(self, begin: Begin) -> float | None:
        """Drop a request whose caller has left; returns the seconds it has waited, None where it was begun before."""
        since = self._waiting.pop(begin, None)
        return None if since is None else self._clock() - since

    def _turn(self) -> None:
        self._is_due, self._begun = False, 0
        while self._begun < A_TURN and (begin := self._next()):
            self._begun += 1
            begin()
        if self._begun:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._turn)
        elif self._waiting and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(self._oldest_at + self._patience_s - self._clock(), self._ring)

    def _next(self) -> Begin | None:
        """Take out whose turn it is, if it is anybody's."""
        if not self._waiting or (self._has_enough(self._begun) and not self._is_late()):
            return None
        begin = next(iter(self._waiting))
        del self._waiting[begin]
        return begin

    @property
    def _oldest_at(self) -> float:
        return next(iter(self._waiting.values()))

    def _is_late(self) -> bool:
        return self._clock() - self._oldest_at >= self._patience_s

    def _ring(self) -> None:
        self._alarm = None
        self.go_on()
