"""Bodies while they come: how many bytes of all of them may be held at once, and how slowly one may come."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Overloaded, ReceiveTimeout
from service.telemetry import Telemetry

SLOWEST_BYTES_S = 50_000  # whoever sends steadily and faster than this (0.4 Mbit/s) is never cut off, however large the body
SMALL_BYTES = 1_000_000  # a body of a few crops
RESERVE = 4  # a quarter of the room is kept for small bodies


@dataclass(frozen=True)
class Reception:
    """Limits of all bodies together, and of each.

    Args:
        held_bytes: most bytes of bodies whose requests are not answered yet; several large ones leave a share to small ones.
        patience_s: how long a body may rest, at its beginning and whenever it has come at SLOWEST_BYTES_S or faster; whatever
            it sent before, it earns no more.
    """

    held_bytes: int
    patience_s: float


class Receiving:
    """Layer that counts the bytes of all bodies under way and times each; what is over a limit fails the handler's reading."""

    def __init__(
        self, app: ASGIApp, telemetry: Telemetry, *, limits: Reception, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.app, self._telemetry, self._limits, self._clock = app, telemetry, limits, clock
        self._held = self._held_large = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        received, more, is_late, due = 0, True, False, self._clock() + self._limits.patience_s

        async def receive_within() -> Message:
            nonlocal received, more, is_late, due
            if not more:  # the handler waits for the caller to hang up, which may take as long as it likes
                return await receive()
            try:
                message = await self._receive_piece(receive, received, due)
            except ReceiveTimeout:
                is_late = True
                raise
            size = len(message.get("body", b""))
            due = min(due + size / SLOWEST_BYTES_S, self._clock() + self._limits.patience_s)
            more = message["type"] == "http.request" and message.get("more_body", False)
            self._hold(received, received + size)
            received += size
            self._refuse_too_much(received)
            return message

        async def send_last(message: Message) -> None:
            if is_late and message["type"] == "http.response.start":  # the rest of the body is not waited for
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        try:
            await self.app(scope, receive_within, send_last)
        finally:
            self._hold(received, 0)

    async def _receive_piece(self, receive: Receive, received: int, due: float) -> Message:
        """Receive the next piece until it is due."""
        try:
            async with asyncio.timeout(max(0.0, due - self._clock())):
                return await receive()
        except TimeoutError:
            raise ReceiveTimeout(
                f"got {received} bytes of a body and then too few, wanted {SLOWEST_BYTES_S} bytes a second and no rest of over "
                f"{self._limits.patience_s:g} s; send it faster, or in smaller requests"
            ) from None

    def _hold(self, before: int, now: int) -> None:
        """Count a body that was so large and is so large now."""
        self._held += now - before
        self._held_large += now * (now > SMALL_BYTES) - before * (before > SMALL_BYTES)
        self._telemetry.body_bytes.set(self._held)

    def _refuse_too_much(self, received: int) -> None:
        """Refuse the rest of a body of which so much came, when there is no room."""
        limit = self._limits.held_bytes
        if self._held > limit:
            raise Overloaded(f"the bodies of all requests under way are over {limit} bytes; try again")
        share = limit - limit // RESERVE
        if SMALL_BYTES < received < self._held_large and self._held_large > share:  # and it is not the only large one
            raise Overloaded(
                f"the bodies over {SMALL_BYTES} bytes are over {share} bytes together, and the rest of the room is kept for "
                "smaller ones; try again, or in smaller requests"
            )
