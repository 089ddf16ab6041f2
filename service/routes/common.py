"""What the routes share: access, strict parameters, and the way from a body to embeddings."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Security
from fastapi.responses import Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from service.answers import error_answer
from service.errors import ClientGone, InvalidRequest, status_and_code
from service.parts import Parts

T = TypeVar("T")


async def get_parts(request: Request) -> Parts:
    """Hand the running service's parts to a handler."""
    parts: Parts = request.app.state.parts
    return parts


PartsDep = Annotated[Parts, Depends(get_parts)]


async def check_origin(request: Request) -> None:
    """Refuse what a page of another site makes a browser send."""
    parts, headers = await get_parts(request), request.headers
    is_change = request.method not in ("GET", "HEAD")
    parts.access.check_origin(origin=headers.get("origin"), host=headers.get("host"), is_change=is_change)


class Key(HTTPBearer):
    """Refuses a caller without a key, or without one that may write; to FastAPI it is what the document says of keys."""

    def __init__(self, *, writes: bool) -> None:
        super().__init__(scheme_name="HTTPBearer", auto_error=False, description="A key, where the service has any.")
        self._writes = writes

    async def __call__(self, request: Request) -> None:  # type: ignore[override]  # nobody wants to know the key
        """Let the caller of a request pass, or raise MissingKey or ReadOnlyKey."""
        (await get_parts(request)).access.check(request.headers.get("authorization"), writes=self._writes)


# Each of these and each that one of them asks for is looked up anew in every request: they ask for none.
SAME_ORIGIN = Depends(check_origin)
READS = Security(Key(writes=False))
WRITES = Security(Key(writes=True))


def only(model: type[BaseModel]) -> Any:
    """Refuse query parameters that `model` does not name, and those given twice that stand for one value."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    lists = {name for name, field in fields.items() if "list" in str(field.annotation)}

    async def check(request: Request) -> None:
        for name in request.query_params:
            if name not in fields:
                wanted = ", ".join(fields) or "none"
                raise InvalidRequest(f"{name}: got an unknown query parameter, wanted {wanted}")
            given = len(request.query_params.getlist(name))
            if given > 1 and name not in lists:
                raise InvalidRequest(f"{name}: got {given} values, wanted one")

    return Depends(check)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, dropping it when the caller hangs up first.

    Raises:
        ClientGone: when the caller hung up.
    """
    worker = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(hung_up(request))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            return worker.result()
        raise ClientGone("the caller hung up")
    finally:
        await drop(worker, watcher)


async def hung_up(request: Request) -> None:
    """Return when the caller has hung up; the body must have been read, or never be wanted."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def drop(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what still runs and wait until it has let go."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def model_header(parts: Parts) -> dict[str, str]:
    """Name the model that was used."""
    return {"X-Model-ID": parts.model.model_id}


def all_failed(request: Request, parts: Parts, errors: Sequence[Exception], extra: Mapping[str, object]) -> Response:
    """Answer a request in which every crop or entry failed: 422; 413 when all were too large, 500 when the model failed."""
    statuses = {status_and_code(type(error))[0] for error in errors}
    status = statuses.pop() if statuses in ({413}, {500}) else 422
    message = str(errors[0]) if len(errors) == 1 else f"all {len(errors)} failed; the first: {errors[0]}"
    code = status_and_code(type(errors[0]))[1]
    return error_answer(request, status=status, code=code, message=message, extra=extra, headers=model_header(parts))


def failures(outcomes: Sequence[object]) -> list[Exception]:
    """Pick the errors out of a request's outcomes."""
    return [outcome for outcome in outcomes if isinstance(outcome, Exception)]
