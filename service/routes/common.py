"""What the routes share: access, strict parameters, and the way from a body to embeddings."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar, get_origin

from fastapi import Depends, Request, Security
from fastapi.responses import Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from service.access import Access
from service.answers import error_answer
from service.errors import ClientGone, InvalidRequest, status_and_code
from service.parts import Parts

T = TypeVar("T")


class Anyone:
    """Hands a handler the running service's parts, once the names of the query's parameters make sense.

    Everything that is looked at before a handler begins is looked at here, by one dependency: FastAPI looks each up anew.
    """

    def __init__(self, query: type[BaseModel]) -> None:
        self._fields = {field.alias or name: field for name, field in query.model_fields.items()}
        self.lists = {name for name, field in self._fields.items() if get_origin(field.annotation) is list}  # several values

    async def __call__(self, request: Request) -> Parts:
        """Refuse query parameters that the model does not name, and those given twice that stand for one value."""
        for name in request.query_params:
            if name not in self._fields:
                wanted = ", ".join(self._fields) or "none"
                raise InvalidRequest(f"{name}: got an unknown query parameter, wanted {wanted}")
            given = len(request.query_params.getlist(name))
            if given > 1 and name not in self.lists:
                raise InvalidRequest(f"{name}: got {given} values, wanted one")
        parts: Parts = request.app.state.parts
        return parts


class Key(HTTPBearer):
    """The same for callers with a key, or with one that may write; to FastAPI it is what the document says of keys."""

    def __init__(self, query: type[BaseModel], *, writes: bool) -> None:
        super().__init__(scheme_name="HTTPBearer", auto_error=False, description="A key, where the service has any.")
        self._anyone, self._writes = Anyone(query), writes
        self.lists = self._anyone.lists

    async def __call__(self, request: Request) -> Parts:  # type: ignore[override]  # nobody wants to know the key
        """Raise MissingKey or ReadOnlyKey, or do as Anyone does."""
        access: Access = request.app.state.parts.access
        access.check(request.headers.get("authorization"), writes=self._writes)
        return await self._anyone(request)


def anyone(query: type[BaseModel]) -> Any:
    """Give a handler the parts, whoever calls, with the parameters that `query` names."""
    return Depends(Anyone(query))


def reads(query: type[BaseModel]) -> Any:
    """Give a handler the parts when the caller may read."""
    return Security(Key(query, writes=False))


def writes(query: type[BaseModel]) -> Any:
    """Give a handler the parts when the caller may write."""
    return Security(Key(query, writes=True))


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, dropping it when the caller hangs up first; the body must have been read.

    Raises:
        ClientGone: when the caller hung up.
    """
    patience = asyncio.timeout(None)  # without end, until there is nobody left to be patient for

    async def watch() -> None:
        await hung_up(request)
        patience.reschedule(0)

    try:
        async with patience:
            watcher = asyncio.ensure_future(watch())
            try:
                return await work
            finally:
                watcher.cancel()
    except TimeoutError:
        if patience.expired():
            raise ClientGone("the caller hung up") from None
        raise


async def hung_up(request: Request) -> None:
    """Return when the caller has hung up; the body must have been read, or never be wanted."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


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
