"""The application: routes behind the guard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..errors import TurboSparseError
from . import completions, views
from .engine import Engine
from .guard import Guard, Limits
from .problem import Problem, ProblemError, from_exception

log = logging.getLogger("turbosparse.server")

PUBLIC = ("/health", "/v1/health")
Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def routes() -> list[BaseRoute]:
    """llama-server's and OpenAI's paths."""
    get: dict[str, Any] = {
        "/health": views.health,
        "/v1/health": views.health,
        "/models": views.models,
        "/v1/models": views.models,
        "/v1/models/{id:path}": views.model,
        "/props": views.props,
        "/slots": views.slots,
        "/metrics": views.metrics,
    }
    post: dict[str, Any] = {
        "/v1/chat/completions": completions.chat_completions,
        "/chat/completions": completions.chat_completions,
        "/v1/completions": completions.completions,
        "/completion": completions.native_completion,
        "/completions": completions.native_completion,
        "/v1/embeddings": completions.embeddings,
        "/embeddings": completions.embeddings,
        "/tokenize": views.tokenize,
        "/detokenize": views.detokenize,
        "/apply-template": views.apply_template,
    }
    return [
        *(Route(path, endpoint, methods=["GET"]) for path, endpoint in get.items()),
        *(Route(path, endpoint, methods=["POST"]) for path, endpoint in post.items()),
    ]


def create_app(
    engine: Engine,
    *,
    token: str | None,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    extra_routes: Sequence[BaseRoute] = (),
    public: Sequence[str] = (),
    limits: Limits | None = None,
    lifespan: Lifespan | None = None,
) -> Starlette:
    """The ASGI application; `app.state.engine` and `app.state.limits` are there for extra routes.

    Args:
        engine: is closed when the application shuts down.
        token: that requests must carry as `Authorization: Bearer` or `X-Api-Key`; None asks for none.
        hosts: names that the Host header may have besides those of the loopback interface; see Guard.
        origins: of pages that may use the server besides its own; "*" is every one.
        extra_routes: tried before ours.
        public: paths that need no token, besides /health: exact, or a prefix that ends in "/".
        lifespan: entered before, and left after, the engine is closed.
    """
    limits = limits or Limits()
    guard = Middleware(Guard, token=token, hosts=hosts, origins=origins, public=(*PUBLIC, *public), limits=limits)
    app = Starlette(
        routes=[*extra_routes, *routes()],
        middleware=[guard],
        lifespan=_closing(engine, lifespan),
        exception_handlers={
            ProblemError: _answer,
            TurboSparseError: _answer,
            HTTPException: _answer_http,
            ClientDisconnect: _answer_gone,
            Exception: _answer_unforeseen,
        },
    )
    app.state.engine = engine
    app.state.limits = limits
    return app


def _closing(engine: Engine, inner: Lifespan | None) -> Lifespan:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            if inner is None:
                yield
            else:
                async with inner(app):
                    yield
        finally:
            await asyncio.shield(engine.close())

    return lifespan


async def _answer(request: HttpRequest, error: Exception) -> Response:
    problem = from_exception(error)
    if problem.status == 500:
        log.error("%s %s failed: %s", request.method, request.url.path, error)
    return problem.response()


async def _answer_http(request: HttpRequest, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    kinds = {404: "not_found_error", 405: "invalid_request_error"}
    text = {404: f"there is nothing at {request.url.path[:80]}", 405: f"{request.method} is not possible here"}
    problem = Problem(status, kinds.get(status, "invalid_request_error"), text.get(status, str(error)))
    response = problem.response()
    response.headers.update(getattr(error, "headers", None) or {})
    return response


async def _answer_gone(request: HttpRequest, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _answer_unforeseen(request: HttpRequest, error: Exception) -> Response:
    return from_exception(error).response()
