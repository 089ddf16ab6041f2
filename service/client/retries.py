"""When a call is tried again: only where twice does what once does, and only while it may help."""

from collections.abc import Callable
from typing import Any

from service.client.calls import Call
from service.client.errors import Overloaded, ReidError, Unreachable

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 8.0  # doubled in between, where the service does not say when
SPREAD = 0.25  # longest random addition, as a share of the wait: those refused together should not come back together


class Tries:
    """One call's tries, within a total time.

    Args:
        total_s: no try begins later than this after the first.
        clock: seconds that only rise. random: a number in 0..1.
    """

    def __init__(self, call: Call[Any], *, total_s: float, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._call, self._clock, self._random = call, clock, random
        self._until = clock() + total_s
        self._num_failed = 0

    def wait_s(self, error: ReidError) -> float:
        """Seconds to wait before the next try; raises `error` when there is to be none."""
        if not self._call.is_repeatable or not isinstance(error, Overloaded | Unreachable):
            raise error
        wait_s = error.retry_after_s
        if wait_s is None:
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self._num_failed)
        wait_s *= 1 + SPREAD * self._random()
        if self._clock() + wait_s > self._until:
            raise error
        self._num_failed += 1
        return wait_s
