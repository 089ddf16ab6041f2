"""What the server asks from a request's head alone: is it refused, as the queue is full, when is it begun, and may the loop rest?

Nine in ten requests of a tenfold overload are refused, so what a refusal costs decides what is left for the others, and no
request or response of the framework's is made for one. The routes ask the same of everything that was not refused here, and are
the ones that any other server reaches.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fastapi import FastAPI
from starlette.types import Scope

from service.access import Access
from service.answers import retry_after
from service.doors import LINES, Refused, refused
from service.entrance import Begin
from service.errors import ClientGone, ModelNotReady, Overloaded, ServiceError, status_and_code
from service.middleware import new_request_id, request_id_of
from service.parts import Parts
from service.pipeline import Pipeline
from service.refusals import Refusals

REST_S = 0.015  # of the event loop, while the runtime has enough to do
GAP_S = 0.005  # between two rests
WRITES = {"/embed": False, "/search": False, "/gallery": True}  # whose POSTs bring crops, and whether they want a full key

Headers = Mapping[bytes, str]  # by lower-case name


class Reason(NamedTuple):
    """Why requests are refused, and what all such answers' headers have in common."""

    status: int
    code: str
    message: str
    lines: bytes


class Shedding:
    """Refuses requests from their heads, and begins those that it does not refuse.

    Who may not call at all is left to the routes, which say so. What is refused is counted like any other answer; the log tells
    of all that were refused in a second together.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._refusals = Refusals("refused requests")
        self._rested_at = -math.inf  # infinite while a rest is due
        self._looked_at = -math.inf
        self._reason: Reason | None = None  # what was seen then

    def refuse(self, method: bytes, url: bytes, headers: Sequence[tuple[bytes, bytes]], client: object) -> Refused | None:
        """Look at one request, whose body may not have come."""
        path = url.partition(b"?")[0].decode("latin-1")
        parts: Parts = self._app.state.parts
        first = headers_of(method.decode("latin-1"), path, headers, parts.access)
        if first is None:
            return None
        now = asyncio.get_running_loop().time()
        if self._reason is None or now != self._looked_at:  # uvloop's clock stands still for a millisecond: many may come in it
            self._looked_at, self._reason = now, self._look(parts)
        if self._reason is None:
            return None
        request_id = request_id_of(first.get(b"x-request-id", ""))
        status, code, message, lines = self._reason
        parts.telemetry.count_refused(route=path, status=status, code=code)
        self._refusals.note(code, route=path, client=client, request_id=request_id)
        return refused(status, lines, code=code, message=message, request_id=request_id)

    def let_in(self, scope: Scope, begin: Begin) -> None:
        """See to it that a request is begun; one that finds no room is begun at once, to be told so by its route."""
        parts: Parts = self._app.state.parts
        may_wait = headers_of(scope["method"], scope["path"], scope["headers"], parts.access) is not None
        if not may_wait or not has_room(parts.pipeline):
            return begin()
        scope["state"]["arrived_at"] = time.monotonic()
        parts.pipeline.entrance.let_in(begin)
        if parts.pipeline.batcher.is_behind:
            self._rest_soon(parts)

    def leave(self, scope: Scope, begin: Begin) -> None:
        """Drop and count a request that waits to be begun and whose caller has left."""
        parts: Parts = self._app.state.parts
        took_s = parts.pipeline.entrance.leave(begin)
        if took_s is not None:
            path, (status, code) = scope["path"], status_and_code(ClientGone)
            parts.telemetry.observe_request(method="POST", route=path, status=status, took_s=took_s, code=code)
            self._refusals.note(code, route=path, client=scope["client"], request_id=new_request_id())

    def _look(self, parts: Parts) -> Reason | None:
        """Tell why one who comes now is refused, if he is, and let the loop rest where that is best."""
        pipeline = parts.pipeline
        try:
            pipeline.check_room(ahead=len(pipeline.entrance))
        except ModelNotReady as error:
            return Reason(*status_and_code(ModelNotReady), str(error), LINES)
        except Overloaded as error:
            if pipeline.batcher.is_behind or pipeline.batcher.has_enough(0):
                self._rest_soon(parts)
            lines = b"%bretry-after: %b\r\n" % (LINES, retry_after(error).encode())
            return Reason(*status_and_code(Overloaded), str(error), lines)
        return None

    def _rest_soon(self, parts: Parts) -> None:
        """After what has come by now, let the event loop rest until more has come, or the batch under way is done.

        A thousand requests a second, each on its own, take the processor from the runtime a thousand times, and its caches too;
        while the runtime has enough to do they are refused, or wait, anyway. Others are served too, so there are gaps.
        """
        if time.monotonic() - self._rested_at >= GAP_S:  # the loop's own clock is a millisecond's
            self._rested_at = math.inf
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._rest, parts)  # a turn later: the decoding threads that are wanted wake first

    def _rest(self, parts: Parts) -> None:
        parts.pipeline.batcher.rest(REST_S)
        self._rested_at = time.monotonic()


def headers_of(method: str, path: str, headers: Sequence[tuple[bytes, bytes]], access: Access) -> Headers | None:
    """Give the first header of each name of a request with crops, where key and origin allow it; None of any other."""
    if method != "POST" or path not in WRITES:
        return None
    first = {name: value.decode("latin-1") for name, value in reversed(headers)}
    try:
        access.check(first.get(b"authorization"), writes=WRITES[path])
        access.check_origin(origin=first.get(b"origin"), host=first.get(b"host"), is_change=True)
    except ServiceError:
        return None
    return first


def has_room(pipeline: Pipeline) -> bool:
    """Tell whether a request with one crop would find room behind all who were let in."""
    try:
        pipeline.check_room(ahead=len(pipeline.entrance))
    except (Overloaded, ModelNotReady):
        return False
    return True
