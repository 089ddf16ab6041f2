"""Refusals that come in thousands: each is counted, and the log tells of them together."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

TELL_S = 1.0  # between two log lines

log = logging.getLogger("service")


class Refusals:
    """Counts what is refused before it costs anything; the log has a line a second at most, with how many there were.

    Args:
        event: what the line is called.
        on_refusal: told the code of each.
    """

    def __init__(self, event: str, on_refusal: Callable[[str], None] = lambda code: None) -> None:
        self._event, self._on_refusal = event, on_refusal
        self._untold: Counter[str] = Counter()
        self._last: dict[str, object] = {}
        self._is_quiet = False  # a line was written less than TELL_S ago

    def note(self, code: str, **last: object) -> None:
        """Count one; `last` is what the log tells of the last one."""
        self._on_refusal(code)
        self._untold[code] += 1
        self._last = last
        if not self._is_quiet:
            self._tell()

    def _tell(self) -> None:
        self._is_quiet = bool(self._untold)
        if self._untold:
            log.warning(self._event, extra={"fields": {"codes": dict(self._untold), **self._last}})
            self._untold.clear()
            asyncio.get_running_loop().call_later(TELL_S, self._tell)
