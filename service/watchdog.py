"""A look at the inference threads every second: a dead one is replaced, a hanging one told of, systemd kept informed."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping

from service.pipeline import Pipeline
from service.telemetry import Telemetry

EVERY_S = 1.0

log = logging.getLogger("service")
Notify = Callable[[str], None]


class Watchdog:
    """Watches one pipeline; `look` may be called at any time, on the event loop.

    Args:
        limit_s: how long a forward pass may take.
        notify: tells the supervisor, in systemd's words; nothing tells it that all is well while a pass hangs, so that it
            restarts a service whose runtime, or whose event loop, never comes back.
    """

    def __init__(self, pipeline: Pipeline, telemetry: Telemetry, *, limit_s: float, notify: Notify) -> None:
        self._pipeline, self._telemetry, self._limit_s, self._notify = pipeline, telemetry, limit_s, notify
        self._is_stuck = False

    async def watch(self) -> None:
        """Look until cancelled."""
        self._notify("READY=1")
        while True:
            try:
                self.look()
            except Exception:  # a watchdog that dies of a surprise would be the one that nobody watches
                log.exception("unexpected error in the watchdog")
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Replace what died, tell once when a pass begins to hang and when it ends, and tell the supervisor that all is well."""
        if self._pipeline.revive():
            self._telemetry.inference_deaths.inc()
            log.error("an inference thread died and was replaced")
        stalled_s = self._pipeline.batcher.stalled_s()
        self._telemetry.stalled_seconds.set(stalled_s)
        is_stuck = stalled_s > self._limit_s
        if is_stuck and not self._is_stuck:
            log.error("a forward pass hangs", extra={"fields": {"stalled_s": round(stalled_s, 1), "limit_s": self._limit_s}})
        if self._is_stuck and not is_stuck:
            log.warning("the forward pass that hung has ended")
        self._is_stuck = is_stuck
        if not is_stuck:
            self._notify("WATCHDOG=1")


def systemd(environment: Mapping[str, str]) -> Notify:
    """Give the way to tell systemd (sd_notify's protocol); nobody is told where it did not start the process."""
    address = environment.get("NOTIFY_SOCKET")
    if not address:
        return lambda state: None

    def notify(state: str) -> None:
        # Whoever hears nothing restarts the service, which is what should happen when nobody can be told.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)

    return notify
