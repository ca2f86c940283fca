"""The server's application with the chat in it."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import BaseRoute

from ..errors import ArgumentError
from ..server.app import create_app
from ..server.engine import Engine, LoadOptions
from ..server.guard import Limits
from .routes import IMPORT, PUBLIC, chat_routes
from .routes.json import body, route, take
from .service import Service

IMPORT_BYTES = 512 << 20
TICKET = "/api/chat/ticket"


class Ticket:
    """A word that is worth the token once, within two minutes.

    A window is started by a command line, which others of this machine can read: it carries a
    ticket, never the token.
    """

    def __init__(self, seconds: float = 120.0) -> None:
        self.word = secrets.token_urlsafe(24)
        self._until = monotonic() + seconds

    def redeem(self, word: str) -> bool:
        """Whether `word` is the ticket; it is then used up."""
        if monotonic() > self._until or not hmac.compare_digest(word.encode(), self.word.encode()):
            return False
        self._until = 0.0
        return True


def create_chat_app(
    engine: Engine,
    directory: Path,
    *,
    token: str | None,
    ticket: Ticket | None = None,
    first_model: str | None = None,
    load_options: LoadOptions | None = None,
    hosts: Sequence[str] = (),
) -> Starlette:
    """The ASGI application of `turbosparse chat`: OpenAI's routes, the chat's, and the page.

    Args:
        directory: with the conversations; see paths.open_data_dir.
        token: that requests must carry; None asks for none (tests).
        ticket: for which the page gets the token.
        first_model: path, or "bundled:NAME", opened as soon as the server runs.
        load_options: of every model that is opened, where the page does not say otherwise.

    Raises:
        FileError: the conversation store cannot be opened.
    """
    service = Service(directory, engine, load_options)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if first_model is not None:
            service.loading.load(first_model)
        try:
            yield
        finally:
            await service.close()

    app = create_app(
        engine,
        token=token,
        hosts=hosts,
        extra_routes=[_redeem(ticket, token), *chat_routes(service)],
        public=(*PUBLIC, TICKET),
        limits=Limits(body_for={IMPORT: IMPORT_BYTES}),
        lifespan=lifespan,
    )
    app.state.chat = service
    return app


def _redeem(ticket: Ticket | None, token: str | None) -> BaseRoute:
    async def redeem(request: Request) -> Any:
        word = take(await body(request), "ticket", str)
        if ticket is None or not ticket.redeem(word):
            raise ArgumentError("this window's ticket was used already; start turbosparse chat again", where="ticket")
        return {"token": token}

    return route("/ticket", redeem, "POST")
