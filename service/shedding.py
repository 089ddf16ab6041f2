"""What the server asks from a request's head alone: is it refused, as the queue is full, when is it begun, and may the loop rest?

Nine in ten requests of a tenfold overload are refused, so what a refusal costs decides what is left for the others, and no
request or response of the framework's is made for one. The routes ask the same of everything that was not refused here, and are
the ones that any other server reaches.
"""

import asyncio
import math
import time
from collections.abc import Mapping

from fastapi import FastAPI
from starlette.types import Scope

from service.access import Access
from service.answers import JSON, error_body, retry_after
from service.doors import Refused
from service.entrance import Begin
from service.errors import ClientGone, ModelNotReady, Overloaded, ServiceError, status_and_code
from service.middleware import new_request_id, request_id_of, signature
from service.parts import Parts
from service.refusals import Refusals

REST_S = 0.005  # of the event loop, while the runtime has enough to do
LONG_REST_S = 0.015  # while requests are refused as well
GAP_S = 0.005  # between two rests
WRITES = {"/embed": False, "/search": False, "/gallery": True}  # whose POSTs bring crops, and whether they want a full key

Headers = Mapping[bytes, str]  # by lower-case name


class Shedding:
    """Tells of every request, from its head, how it is refused; None where it is not, and is begun.

    Who may not call at all is left to the routes, which say so. What is refused is counted like any other answer; the log tells
    of all that were refused in a second together.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._refusals = Refusals("refused requests")
        self._rested_at = -math.inf  # infinite while a rest is due

    def __call__(self, scope: Scope, begin: Begin) -> Refused | None:
        """Look at one request, whose body may not have come."""
        headers = self._headers_of(scope)
        if headers is None:
            begin()
            return None
        parts: Parts = self._app.state.parts
        batcher = parts.pipeline.batcher
        try:
            parts.pipeline.check_room(ahead=len(parts.pipeline.entrance))
        except (Overloaded, ModelNotReady) as error:
            if isinstance(error, Overloaded) and (batcher.is_behind or batcher.has_enough(0)):
                self._rest_soon(parts, LONG_REST_S)
            return self._refuse(scope["path"], headers, error, parts, client=scope["client"])
        self._enter(scope, begin)
        if batcher.is_behind:
            self._rest_soon(parts, REST_S)
        return None

    def let_in(self, scope: Scope, begin: Begin) -> None:
        """See to it that a request is begun; one that finds no room is begun at once, to be told so by its route."""
        if self._headers_of(scope) is None or not self._has_room():
            begin()
        else:
            self._enter(scope, begin)

    def leave(self, scope: Scope, begin: Begin) -> None:
        """Drop and count a request that waits to be begun and whose caller has left."""
        parts: Parts = self._app.state.parts
        waited_s = parts.pipeline.entrance.leave(begin)
        if waited_s is not None:
            self._note(scope["path"], ClientGone, parts, took_s=waited_s, client=scope["client"], request_id=new_request_id())

    def _headers_of(self, scope: Scope) -> Headers | None:
        """Give the headers of a request that brings crops, by somebody who may; None of any other."""
        path: str = scope["path"]
        if scope["method"] != "POST" or path not in WRITES:
            return None
        headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}  # the first of each
        return headers if may_call(path, headers, self._app.state.parts.access) else None

    def _has_room(self) -> bool:
        pipeline = self._app.state.parts.pipeline
        try:
            pipeline.check_room(ahead=len(pipeline.entrance))
        except (Overloaded, ModelNotReady):
            return False
        return True

    def _enter(self, scope: Scope, begin: Begin) -> None:
        scope["state"]["arrived_at"] = time.monotonic()
        self._app.state.parts.pipeline.entrance.let_in(begin)

    def _rest_soon(self, parts: Parts, limit_s: float) -> None:
        """After what has come by now, let the event loop rest until more has come, or the batch under way is done.

        A thousand requests a second, each on its own, take the processor from the runtime a thousand times, and its caches too;
        while the runtime has enough to do they are refused, or wait, anyway. Others are served too, so there are gaps.
        """
        if time.monotonic() - self._rested_at >= GAP_S:  # a loop's own clock stands still within a turn
            self._rested_at = math.inf
            asyncio.get_running_loop().call_soon(self._rest, parts, limit_s)

    def _rest(self, parts: Parts, limit_s: float) -> None:
        parts.pipeline.batcher.rest(limit_s)
        self._rested_at = time.monotonic()

    def _refuse(self, path: str, headers: Headers, error: Overloaded | ModelNotReady, parts: Parts, *, client: object) -> Refused:
        started, request_id = time.perf_counter(), request_id_of(headers.get(b"x-request-id", ""))
        status, code = status_and_code(type(error))
        body = error_body(code=code, message=str(error), request_id=request_id)
        own = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body)), *signature(request_id)]
        if isinstance(error, Overloaded):
            own.append((b"retry-after", retry_after(error).encode()))
        took_s = time.perf_counter() - started
        self._note(path, type(error), parts, took_s=took_s, client=client, request_id=request_id)
        return Refused(status, own, body)

    def _note(
        self, path: str, error: type[ServiceError], parts: Parts, *, took_s: float, client: object, request_id: str
    ) -> None:
        status, code = status_and_code(error)
        parts.telemetry.observe_request(method="POST", route=path, status=status, took_s=took_s, code=code)
        self._refusals.note(code, route=path, client=client, request_id=request_id)


def may_call(path: str, headers: Headers, access: Access) -> bool:
    """Tell whether a request's key and origin are those of somebody who may make this call."""
    try:
        access.check(headers.get(b"authorization"), writes=WRITES[path])
        access.check_origin(origin=headers.get(b"origin"), host=headers.get(b"host"), is_change=True)
    except ServiceError:
        return False
    return True
