"""A moment that is put off again and again, as with every request that a connection brings."""

import asyncio
import math
from collections.abc import Callable


class Patience:
    """Calls once, when a moment has come that was not put off; used on one event loop.

    A timer that rings too soon is set again: to cancel one and to set another takes as long as half a refusal, and of a
    connection that is in use there is one in seconds, not one for each request.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop, self._call = loop, call
        self._ends_at = math.inf  # on the loop's clock; infinite while nothing is waited for
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    @property
    def is_waiting(self) -> bool:
        """Whether there is such a moment."""
        return self._ends_at < math.inf

    def wait(self, seconds: float) -> None:
        """Let it come in so many seconds, whatever was said before."""
        self._ends_at = self._loop.time() + seconds
        if self._ends_at < self._rings_at:
            self._set_alarm(seconds)

    def stop(self) -> None:
        """Wait for nothing."""
        self._ends_at = math.inf

    def close(self) -> None:
        """Never call again, and hold nothing."""
        self.stop()
        self._call = do_nothing
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _set_alarm(self, seconds: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(seconds, self._ring)
        self._rings_at = self._loop.time() + seconds

    def _ring(self) -> None:
        self._alarm, self._rings_at = None, math.inf
        left = self._ends_at - self._loop.time()
        if left <= 0:
            self.stop()
            self._call()
        elif self.is_waiting:
            self._set_alarm(left)


def do_nothing() -> None:
    """Stand where there is nobody to call any more."""
