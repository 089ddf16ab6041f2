"""What the server asks from a request's head alone: is it refused, as the queue is full, and may the event loop rest?

Nine in ten requests of a tenfold overload are refused, so what a refusal costs decides what is left for the others. The routes
ask the same of everything that was not refused here, and are the ones that any other server reaches.
"""

import asyncio
import math
import time

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.types import Scope

from service.access import Access
from service.answers import refusal
from service.errors import ModelNotReady, Overloaded, ServiceError
from service.middleware import request_id_of, signature
from service.parts import Parts
from service.refusals import Refusals

REST_S = 0.005  # of the event loop, while nothing is gained by its work
WRITES = {"/embed": False, "/search": False, "/gallery": True}  # whose POSTs bring crops, and whether they want a full key


class Shedding:
    """Tells of every request, from its head, how it is refused; None where it is not.

    Who may not call at all is left to the routes, which say so. What is refused is counted like any other answer; the log tells
    of all that were refused in a second together.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._refusals = Refusals("refused requests")
        self._rested_at = -math.inf  # infinite while a rest is due

    def __call__(self, scope: Scope) -> Response | None:
        """Look at one request, whose body may not have come."""
        path: str = scope["path"]
        if scope["method"] != "POST" or path not in WRITES:
            return None
        parts: Parts = self._app.state.parts
        try:
            parts.pipeline.check_room()
        except (Overloaded, ModelNotReady) as error:
            request = Request(scope)
            if may_call(request, parts.access):
                if isinstance(error, Overloaded):
                    self._rest_soon(parts)
                return self._refuse(request, error, parts)
        else:
            if parts.pipeline.batcher.is_behind:
                self._rest_soon(parts)
        return None

    def _rest_soon(self, parts: Parts) -> None:
        """After what has come by now, let the event loop rest until more has come, or the batch under way is done.

        A thousand requests a second, each on its own, take the processor from the runtime a thousand times, and its caches too;
        while the runtime has enough to do they are refused, or wait, anyway. Half of the time at most is rested, for others are
        served too.
        """
        if time.monotonic() - self._rested_at >= REST_S:  # a loop's own clock stands still within a turn
            self._rested_at = math.inf
            asyncio.get_running_loop().call_soon(self._rest, parts)

    def _rest(self, parts: Parts) -> None:
        parts.pipeline.batcher.rest(REST_S)
        self._rested_at = time.monotonic()

    def _refuse(self, request: Request, error: ServiceError, parts: Parts) -> Response:
        started, path = time.perf_counter(), request.scope["path"]
        request_id = request.state.request_id = request_id_of(request)
        answer = refusal(request, error)
        answer.raw_headers.extend(signature(request_id))
        code, took_s = request.state.error_code, time.perf_counter() - started
        parts.telemetry.observe_request(method="POST", route=path, status=answer.status_code, took_s=took_s, code=code)
        self._refusals.note(code, route=path, client=request.scope["client"], request_id=request_id)
        return answer


def may_call(request: Request, access: Access) -> bool:
    """Tell whether a request's key and origin are those of somebody who may make this call."""
    headers = request.headers
    try:
        access.check(headers.get("authorization"), writes=WRITES[request.scope["path"]])
        access.check_origin(origin=headers.get("origin"), host=headers.get("host"), is_change=True)
    except ServiceError:
        return False
    return True
