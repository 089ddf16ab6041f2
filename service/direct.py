"""The calls that bring crops, handled without FastAPI's way to a handler: they come hundreds of times a second.

FastAPI declares them, checks their declarations and documents them, like all others. But its routers, stacks and dependencies
took a third of the event loop's time that a request with one crop does. What it finds out for each request is found out once
here, from the same declarations.
"""

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, get_type_hints

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from service.answers import EXPECTED, expected_answer
from service.routes.common import Key


@dataclass(frozen=True)
class Call:
    """A route whose handler wants the request, `query`, which is a model of the query's parameters, and the parts."""

    route: APIRoute
    handle: Callable[..., Coroutine[Any, Any, Response]]
    query: type[BaseModel]
    enter: Key  # the dependency that gives the parts, or refuses


class Direct:
    """Layer that answers the calls of some routers with POST as FastAPI would, and leaves every other request to it."""

    def __init__(self, app: ASGIApp, routers: Iterable[APIRouter]) -> None:
        routes = (route for router in routers for route in router.routes)
        posts = (route for route in routes if isinstance(route, APIRoute) and route.methods == {"POST"})
        self.app, self._calls = app, {route.path: call_of(route) for route in posts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        call = self._calls.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if call is None:
            return await self.app(scope, receive, send)
        scope["route"] = call.route
        response = await answer(call, Request(scope, receive, send))
        await response(scope, receive, send)


def call_of(route: APIRoute) -> Call:
    """Read off a handler's signature what FastAPI reads there, where that is all there is."""
    hints = get_type_hints(route.endpoint, include_extras=True)
    is_all = hints.keys() == {"request", "query", "parts", "return"} and not route.dependencies
    assert is_all, f"This is a bug: {route.path} wants more than its request, query and parts, which nothing here would see to."
    return Call(route, route.endpoint, hints["query"].__origin__, hints["parts"].__metadata__[0].dependency)


async def answer(call: Call, request: Request) -> Response:
    """Handle one request; errors that nobody expects are raised, as FastAPI raises them."""
    try:
        parts = await call.enter(request)
        return await call.handle(request=request, query=read_query(call, request.query_params), parts=parts)
    except EXPECTED as error:
        return await expected_answer(request, error)


def read_query(call: Call, given: QueryParams) -> BaseModel:
    """Make the model of the query's parameters; raises RequestValidationError."""
    lists = call.enter.lists
    try:
        return call.query.model_validate({name: given.getlist(name) if name in lists else given[name] for name in given})
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None
