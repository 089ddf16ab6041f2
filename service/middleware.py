"""What happens to every request: its id, its metrics and log line, and the answer to what nobody expected."""

import logging
import random
import re
import time

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access import Access
from service.answers import error_answer, refusal
from service.errors import ForbiddenOrigin
from service.telemetry import Telemetry

log = logging.getLogger("service")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # any other would be a label of its own
IDS = random.Random()  # of our own, which nobody seeds
NOSNIFF = (b"x-content-type-options", b"nosniff")
SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")


class RequestTrail:
    """Outermost layer: every answer gets X-Request-ID, what is handled here a log line, every surprise a fixed 500."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app, self.telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope, receive)
        request_id = request.state.request_id = request_id_of(request.headers.get("x-request-id", ""))
        request.state.error_code = None
        begun_at, status = time.monotonic(), 0
        arrived_at = getattr(request.state, "arrived_at", begun_at)  # at the entrance, where the server has one
        waited_s = request.state.waited_s = begun_at - arrived_at
        if waited_s:
            self.telemetry.entrance_seconds.observe(waited_s)

        async def send_signed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *signature(request_id)]}
            await send(message)

        with self.telemetry.traces.request(method_of(request), request.headers) as finish:
            try:
                await self.app(scope, receive, send_signed)
            except Exception:
                log.exception("unexpected error", extra={"fields": {"request_id": request_id}})
                if status:
                    raise  # half an answer is out: only closing the connection tells the caller
                await surprise(request)(scope, receive, send_signed)
            finally:
                self._record(request, status, time.monotonic() - arrived_at)
                finish(route_of(request), status)

    def _record(self, request: Request, status: int, took_s: float) -> None:
        route, method = route_of(request), method_of(request)
        code = request.state.error_code
        self.telemetry.observe_request(method=method, route=route, status=status, took_s=took_s, code=code)
        fields = {"method": method, "route": route, "status": status, "ms": round(took_s * 1000, 1)}
        fields |= {"request_id": request.state.request_id} | ({"code": code} if code else {})
        log.info("request", extra={"fields": fields})


class SameOrigin:
    """Layer that refuses what a page of another site makes a browser send, wherever it goes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            request = Request(scope)
            access: Access = request.app.state.parts.access
            headers, is_change = request.headers, request.method not in ("GET", "HEAD")
            try:
                access.check_origin(origin=headers.get("origin"), host=headers.get("host"), is_change=is_change)
            except ForbiddenOrigin as error:
                return await refusal(request, error)(scope, receive, send)
        await self.app(scope, receive, send)


def route_of(request: Request) -> str:
    """Name a request's route, once it is known: the path as it was declared."""
    path: str = getattr(request.scope.get("route"), "path", "none")
    return path


def method_of(request: Request) -> str:
    """Name a request's method, every one that is none of HTTP's alike."""
    return request.method if request.method in METHODS else "other"


def request_id_of(sent: str) -> str:
    """Take the caller's X-Request-ID when it is printable and short, else make one."""
    return sent if SANE_ID.fullmatch(sent) else new_request_id()


def new_request_id() -> str:
    """Make an id that nobody else has; it is no secret, and the system takes its time over its own randomness."""
    return f"{IDS.getrandbits(128):032x}"


def signature(request_id: str) -> list[tuple[bytes, bytes]]:
    """Give the headers that every answer has."""
    return [(b"x-request-id", request_id.encode()), NOSNIFF]


def surprise(request: Request) -> ASGIApp:
    """Answer an unknown exception with a fixed text; its traceback is in the log under the request id."""
    return error_answer(
        request,
        status=500,
        code="internal_error",
        message="something unexpected went wrong; the log has the details under this request_id",
    )
