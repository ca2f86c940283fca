"""Reading what a page sends, answering in JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from json import JSONDecodeError
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...errors import ArgumentError
from ...server.engine import NotReadyError
from ..live import describe
from ..records import NotFoundError

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Any]]
MISSING: Any = object()


def route(path: str, handler: Handler, method: str = "GET") -> Route:
    """A route below /api/chat whose handler returns a Response, or something for JSON; None is an empty answer."""

    async def endpoint(request: Request) -> Response:
        try:
            found = await handler(request)
        except Exception as error:
            return refused(error)
        if callable(found):  # a Response, or another ASGI application
            answer: Response = found
            return answer
        return Response(status_code=204) if found is None else JSONResponse(found)

    return Route("/api/chat" + path, endpoint, methods=[method])


def refused(error: Exception) -> JSONResponse:
    """{"error": ...} with a fitting status; what nobody foresaw is raised again."""
    from ...errors import TurboSparseError

    if not isinstance(error, TurboSparseError):
        raise error
    status = 404 if isinstance(error, NotFoundError) else 409 if isinstance(error, NotReadyError) else 400
    return JSONResponse({"error": describe(error)}, status_code=status)


async def body(request: Request) -> Mapping[str, Any]:
    """The JSON object of a request; {} when there is none."""
    try:
        value = await request.json() if await request.body() else {}
    except (JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArgumentError(f"the body is not JSON: {error}", where="body", expected="a JSON object") from error
    if not isinstance(value, dict):
        raise ArgumentError("the body is not a JSON object", where="body", expected="a JSON object")
    return value


def take(values: Mapping[str, Any], name: str, kind: type[T] | tuple[type, ...], default: Any = MISSING) -> Any:
    """values[name], which must be of `kind`; `default` when it is not there."""
    if name not in values:
        if default is MISSING:
            raise ArgumentError(f"{name} is missing", where=name, expected=str(kind), found="nothing")
        return default
    value = values[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        found = type(value).__name__
        raise ArgumentError(f"{name} has the wrong type {found}", where=name, expected=str(kind), found=found)
    return value


def key(request: Request) -> int:
    """The number in the path."""
    return int(request.path_params["id"])


async def thread(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """The store works in threads."""
    return await asyncio.to_thread(function, *arguments, **named)
