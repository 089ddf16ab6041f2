"""One connection of the server: uvicorn's, with the limits on connections and on requests' heads that it lacks."""

import asyncio
import fcntl
import logging
import sys
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.answers import JSON, error_body
from service.entrance import Begin
from service.middleware import NOSNIFF, new_request_id
from service.receiving import SLOWEST_BYTES_S
from service.refusals import Refusals

HEAD_BYTES = 65_536  # an embedding of 2048 floats in a URL takes 11,000
TOO_LARGE = (431, "head_too_large", f"got a request line and headers of over {HEAD_BYTES} bytes; send fewer")
READ_SHARE = 0.5  # of SLOWEST_BYTES_S is enough in a single window: the kernels of both sides take in and free in steps

LINES = b"".join(b"%b: %b\r\n" % header for header in ((b"content-type", JSON.encode()), NOSNIFF))  # of every refusal

log = logging.getLogger("service")
quiet = logging.getLogger("service.uvicorn")


class Refused(NamedTuple):
    """The answer to a request that is not handled; the lines are the headers that it has of its own, each ended by CRLF."""

    status: int
    lines: bytes
    body: bytes


def refused(status: int, lines: bytes, *, code: str, message: str, request_id: str) -> Refused:
    """Write an error down in the form of all errors."""
    body = error_body(code=code, message=message, request_id=request_id)
    return Refused(status, b"%bcontent-length: %d\r\nx-request-id: %b\r\n" % (lines, len(body), request_id.encode()), body)


class Shed(Protocol):
    """Decides from a request's head alone."""

    def refuse(self, method: bytes, url: bytes, headers: Sequence[tuple[bytes, bytes]], client: object) -> Refused | None:
        """Refuse a request, before there is anything of it but its head, or give None."""

    def let_in(self, scope: Any, begin: Begin) -> None:
        """See to it that a request is begun that was not refused, or could not be."""

    def leave(self, scope: Any, begin: Begin) -> None:
        """Take note that the connection is gone of a request that may not have been begun."""


class LetIn:
    """Refuses nothing."""

    def refuse(self, *_: object) -> None:
        """Do nothing."""

    def let_in(self, scope: Any, begin: Begin) -> None:
        """Begin a request at once."""
        begin()

    def leave(self, scope: Any, begin: Begin) -> None:
        """Do nothing, as every request was begun."""


LET_IN = LetIn()


class Answered:
    """Stands where uvicorn keeps a request that it handles: one that has been answered, and whose body is dropped as it comes."""

    response_complete = True
    message_event = asyncio.Event()  # for whoever awaits more of it, which is nobody


@dataclass(frozen=True)
class Doors:
    """Limits of connections.

    Args:
        connections: most of them at once; one more is told so and closed.
        patience_s: how long a request's head may take, from its first byte, or from the opening of the connection; how long a
            TLS handshake may take before that; and how long an answer may wait for its reader, who takes SLOWEST_BYTES_S.
    """

    connections: int
    patience_s: float


class GuardedProtocol(HttpToolsProtocol):
    """One connection, closed when a head is too slow or too long, an answer is not read, or there are too many connections.

    Args:
        shed: decides from a request's head alone.
    """

    def __init__(self, *args: Any, doors: Doors, refusals: Refusals, shed: Shed, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shed = shed
        self._let_in: tuple[RequestResponseCycle, Begin] | None = None  # the last request that was not refused
        self.logger = quiet  # uvicorn's warnings, one for each bad connection
        self._doors, self._refusals = doors, refusals
        self._timer: asyncio.TimerHandle | None = None
        self._just_read = 0
        self._is_in_head = False  # the first byte of a head has come and the last one has not
        self._head_bytes = 0  # of the head, and what came with its beginning
        self._reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head, or refuse the connection."""
        super().connection_made(transport)
        if len(self.connections) > self._doors.connections:
            self._refuse(503, "overloaded", f"{self._doors.connections} connections are open, which is the limit; try again")
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self._stop_watching()
        super().connection_lost(exc)
        self.pipeline.clear()  # requests that will not be begun hold this connection, and it them
        self.cycle = Answered  # type: ignore[assignment]
        if self._let_in is not None:
            cycle, begin = self._let_in
            self._let_in = None  # which holds this connection
            cycle.disconnected = not cycle.response_complete  # uvicorn tells the last of several that came together
            cycle.message_event.set()
            self._shed.leave(cycle.scope, begin)

    def pause_writing(self) -> None:
        """Begin to watch a reader who is slower than the answer comes: the answer is held in memory for as long."""
        super().pause_writing()
        self._watch_reader(unread_bytes(self.transport))

    def resume_writing(self) -> None:
        """Stop watching a reader who has caught up."""
        self._stop_watching()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take in what came, unless it makes a head too long."""
        if self.transport.is_closing():
            return
        self._just_read = len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        # uvicorn stops its own clock for idle connections at any byte, and winds it up with an answer.
        if (self.cycle is None or self.cycle.response_complete) and self.timeout_keep_alive_task is None:
            self._wait_for_head()
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(*TOO_LARGE)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, "invalid_http", f"got what is no HTTP/1.1 request ({msg}), wanted one")

    def on_message_begin(self) -> None:
        """Begin to count a head."""
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop waiting, and refuse the request or hand it on: from here on the application has the limits."""
        self._is_in_head = False
        self._stop_waiting()
        # One by one, however many came together; and no more of them to a caller who reads none, for they would all be held.
        if (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused:
            if self._head_bytes + self._just_read > HEAD_BYTES and head_bytes(self.url, self.headers) > HEAD_BYTES:
                return self._answer(self._refusal(*TOO_LARGE))
            answer = self._shed.refuse(self.parser.get_method(), self.url, self.headers, self.client)
            if answer is not None:
                return self._answer(answer)
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Let a request in that was not refused."""
        self._unset_keepalive_if_required()  # which the answer to one before it may have wound up
        begin = partial(super()._start_asgi_task, cycle, app)
        self._let_in = cycle, begin
        self._shed.let_in(cycle.scope, begin)

    def _answer(self, answer: Refused) -> None:
        """Refuse the request whose head has come: here, where it is not handled at all, that takes a twentieth of the time."""
        self._unset_keepalive_if_required()
        self._let_in = None  # the one before, with its body
        self.cycle = Answered  # type: ignore[assignment]
        self._write(answer, is_last=self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive())
        self.on_response_complete()

    def _write(self, answer: Refused, *, is_last: bool) -> None:
        """Write a refusal; the last one ends the connection."""
        lines = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        lines += [answer.lines, b"connection: close\r\n" * is_last]
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[answer.status], b"".join(lines), answer.body))
        if is_last:
            self.transport.close()

    def _watch_reader(self, unread: int) -> None:
        self._reader_timer = self.loop.call_later(self._doors.patience_s, self._check_reader, unread)

    def _stop_watching(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _check_reader(self, unread_before: int) -> None:
        unread = unread_bytes(self.transport)
        if unread_before - unread >= READ_SHARE * SLOWEST_BYTES_S * self._doors.patience_s:
            return self._watch_reader(unread)
        self._reader_timer = None
        log.warning("gave up an answer that is not read", extra={"fields": {"unread": unread, "client": self.client}})
        self.transport.abort()

    def _wait_for_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._doors.patience_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._is_in_head:
            self._refuse(408, "receive_timeout", f"got no whole head within {self._doors.patience_s:g} s; send it faster")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer, and close."""
        self._write(self._refusal(status, code, message), is_last=True)

    def _refusal(self, status: int, code: str, message: str) -> Refused:
        """Note a refusal, and word it in the form of all errors, below the application."""
        request_id = new_request_id()
        self._refusals.note(code, client=self.client, request_id=request_id)
        lines = LINES + b"retry-after: 1\r\n" * (status == 503)  # the least that makes sense, as nothing tells when there is room
        return refused(status, lines, code=code, message=message, request_id=request_id)


def head_bytes(url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int:
    """Count the bytes of a whole head, but for its method and spaces."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def unread_bytes(transport: asyncio.Transport) -> int:
    """Count what the other side has not taken yet: what waits here, and on Linux what waits in the kernel.

    Without the kernel's part a steady reader seems to rest: the kernel takes more in only when a third of its buffer is free.
    """
    waiting: int = transport.get_write_buffer_size()
    if sys.platform != "linux":
        return waiting
    queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return waiting + int.from_bytes(queued, sys.byteorder)
