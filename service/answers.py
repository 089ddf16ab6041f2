"""How answers leave: JSON by orjson, arrays as npy or base64, and every error in one form."""

import base64
import io
import math
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.errors import DOMAIN_ERRORS, Overloaded, status_and_code

JSON, NPY = "application/json", "application/x-npy"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
QUALITY = re.compile(r"q=([01](?:\.\d{0,3})?)")


def json_answer(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Encode `content` (numpy arrays allowed) as JSON."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status_code=status, media_type=JSON, headers=headers)


def npy_answer(rows: npt.NDArray[np.float32], *, headers: Mapping[str, str] | None = None) -> Response:
    """Send float32 [N, D] as one .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(rows, dtype="<f4"), allow_pickle=False)
    return Response(buffer.getvalue(), media_type=NPY, headers=headers)


def wants_npy(accept: str) -> bool:
    """Tell whether an Accept header names npy, and JSON with no higher quality."""
    qualities = dict(map(quality_of, accept.lower().split(",")))
    return 0 < qualities.get(NPY, 0.0) >= qualities.get(JSON, 0.0)


def quality_of(media_range: str) -> tuple[str, float]:
    """Split one part of an Accept header into its type and its quality, which is 1 where it makes no sense."""
    kind, *parameters = (part.strip() for part in media_range.split(";"))
    found = [QUALITY.fullmatch(parameter) for parameter in parameters]
    return kind, next((float(one[1]) for one in found if one), 1.0)


def encoded(row: npt.NDArray[np.float32], encoding_format: str) -> object:
    """Give one embedding as a list of floats or as base64 of little-endian float32."""
    row = np.ascontiguousarray(row, dtype="<f4")
    return base64.b64encode(row.tobytes()).decode() if encoding_format == "base64" else row


def error_answer(
    request: Request,
    *,
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, object] | None = None,
) -> Response:
    """Build the answer of an error and note its code for the log and the metrics."""
    request.state.error_code = code
    body = error_body(code=code, message=message, request_id=getattr(request.state, "request_id", ""), extra=extra)
    return Response(body, status_code=status, media_type=JSON, headers=headers)


def error_body(*, code: str, message: str, request_id: str, extra: Mapping[str, object] | None = None) -> bytes:
    """Encode the one form of all errors."""
    error = {"code": code, "message": message, "request_id": request_id}
    return orjson.dumps({"error": error, **(extra or {})}, option=orjson.OPT_SERIALIZE_NUMPY)


async def domain_error(request: Request, error: Exception) -> Response:
    """Answer a ServiceError or a GalleryError."""
    return refusal(request, error)


def refusal(request: Request, error: Exception) -> Response:
    """Build the answer to a ServiceError or a GalleryError by the table."""
    status, code = status_and_code(type(error))
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = retry_after(error)
    return error_answer(request, status=status, code=code, message=str(error), headers=headers)


def retry_after(error: Overloaded) -> str:
    """Give whole seconds, the least that makes sense being one."""
    return str(max(1, math.ceil(error.retry_after_s)))


async def validation_error(request: Request, error: Exception) -> Response:
    """Answer a parameter that FastAPI refused: its name, the reason and what was got."""
    assert isinstance(error, RequestValidationError)
    return error_answer(request, status=422, code="invalid_request", message=first_problem(error.errors()))


def first_problem(problems: object) -> str:
    """Put pydantic's first complaint into one sentence."""
    assert isinstance(problems, list | tuple) and problems
    first = problems[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body"))
    try:
        got = repr(first.get("input"))
    except RecursionError:  # orjson reads deeper than repr writes
        got = f"a {type(first['input']).__name__} nested too deep to show"
    got = got if len(got) <= 80 else got[:77] + "..."
    return f"{place or 'request'}: {first['msg']}, got {got}"


async def http_error(request: Request, error: Exception) -> Response:
    """Answer what the framework raises itself: no such path, no such method."""
    assert isinstance(error, HTTPException)
    message, headers = str(error.detail), dict(error.headers or {})
    if error.status_code == 404:
        message = f"no such path: {request.url.path}; GET /docs lists the calls"
    if error.status_code == 405:
        message = f"{request.method} is not offered on {request.url.path}; GET /docs lists the calls"
        headers["Allow"] = ", ".join(offered(request))
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    return error_answer(request, status=error.status_code, code=code, message=message, headers=headers)


def offered(request: Request) -> list[str]:
    """Name the methods of a path; the framework knows only those of the first route that has it."""
    plain = {"type": "http", "path": request.scope["path"], "root_path": request.scope.get("root_path", ""), "headers": []}
    return [
        method
        for method in METHODS
        if any(route.matches({**plain, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


Handler = Callable[[Request, Exception], Coroutine[Any, Any, Response]]
HANDLERS: dict[type[Exception], Handler] = {
    **dict.fromkeys(DOMAIN_ERRORS, domain_error),
    RequestValidationError: validation_error,
    HTTPException: http_error,
}
EXPECTED = tuple(HANDLERS)


def install_error_handlers(app: FastAPI) -> None:
    """Route every expected error of `app` to its answer; unexpected ones are the middleware's.

    The handlers are coroutines: plain functions would each wait for a thread, just when all of them have too much to do.
    """
    for error_class, handler in HANDLERS.items():
        app.add_exception_handler(error_class, handler)


async def expected_answer(request: Request, error: Exception) -> Response:
    """Answer one of the EXPECTED errors."""
    handler = next(handler for error_class, handler in HANDLERS.items() if isinstance(error, error_class))
    return await handler(request, error)
