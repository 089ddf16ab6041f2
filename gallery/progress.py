"""The progress line of a command."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

DELAY_S = 2.0  # what takes less needs no line
INTERVAL_S = 0.2


class ProgressLine:
    """Says on a terminal how far a command is, once it has taken two seconds; elsewhere nothing."""

    def __init__(self, name: str, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._stream, self._clock = name, stream, clock
        self._next_s = clock() + DELAY_S
        self._is_shown = False

    def __call__(self, done: int, total: int) -> None:
        """Shows the line, now and then."""
        if self._clock() >= self._next_s and self._stream.isatty():
            self._next_s = self._clock() + INTERVAL_S
            self._is_shown = True
            share = 100 * done // total if total else 100
            self._stream.write(f"\r{self._name}: {done:,} of {total:,} ({share} %)\x1b[K")  # the code clears what was there
            self._stream.flush()

    def close(self) -> None:
        """Takes the line away, so that what the command prints stands alone."""
        if self._is_shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
