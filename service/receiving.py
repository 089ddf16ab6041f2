"""Bodies while they come: how many bytes of all of them may be held at once, and how long one may take."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Overloaded, ReceiveTimeout
from service.telemetry import Telemetry

SLOWEST_BYTES_S = 50_000  # whoever sends faster than this (0.4 Mbit/s) is never cut off, however large the body
RETRY_AFTER_S = 1.0  # bodies are held for as long as a request takes


@dataclass(frozen=True)
class Reception:
    """Limits of all bodies together, and of each.

    Args:
        held_bytes: most bytes of bodies whose requests are not answered yet.
        patience_s: how long a body may take, and a second more for every SLOWEST_BYTES_S that came.
    """

    held_bytes: int
    patience_s: float


class Receiving:
    """Layer that counts the bytes of all bodies under way and times each; what is over a limit fails the handler's reading."""

    def __init__(
        self, app: ASGIApp, telemetry: Telemetry, *, limits: Reception, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.app, self._telemetry, self._limits, self._clock = app, telemetry, limits, clock
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        received, more, is_late, begun = 0, True, False, self._clock()

        async def receive_within() -> Message:
            nonlocal received, more, is_late
            if not more:  # the handler waits for the caller to hang up, which may take as long as it likes
                return await receive()
            try:
                message = await self._receive_piece(receive, received, begun)
            except ReceiveTimeout:
                is_late = True
                raise
            size = len(message.get("body", b""))
            received += size
            more = message["type"] == "http.request" and message.get("more_body", False)
            self._hold(size)
            if self._held > self._limits.held_bytes:
                raise Overloaded(
                    f"the bodies of all requests under way are over {self._limits.held_bytes} bytes; try again",
                    retry_after_s=RETRY_AFTER_S,
                )
            return message

        async def send_last(message: Message) -> None:
            if is_late and message["type"] == "http.response.start":  # the rest of the body is not waited for
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        try:
            await self.app(scope, receive_within, send_last)
        finally:
            self._hold(-received)

    async def _receive_piece(self, receive: Receive, received: int, begun: float) -> Message:
        """Receive the next piece, as long as the whole body is not too slow."""
        allowed_s = self._limits.patience_s + received / SLOWEST_BYTES_S
        try:
            async with asyncio.timeout(max(0.0, begun + allowed_s - self._clock())):
                return await receive()
        except TimeoutError:
            raise ReceiveTimeout(
                f"got {received} bytes of a body in {allowed_s:.0f} s, wanted all of it, or {SLOWEST_BYTES_S} bytes a second; "
                "send it faster, or in smaller requests"
            ) from None

    def _hold(self, size: int) -> None:
        self._held += size
        self._telemetry.body_bytes.set(self._held)
