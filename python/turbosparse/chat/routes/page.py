"""The page and its files, and what it may do: talk to its own origin, nothing else."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from ..service import Service
from .json import thread

STATIC = Path(__file__).resolve().parents[1] / "static"
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-cache",
}


THEMES = ("light", "dark")


def routes(service: Service) -> list[BaseRoute]:
    """See the module."""

    async def page(_: Request) -> Response:
        """With the theme in it, so that nothing flashes."""
        theme = (await thread(service.store.settings)).get("theme")
        text = (STATIC / "index.html").read_text(encoding="utf-8")
        if theme in THEMES:
            text = text.replace('data-theme="system"', f'data-theme="{theme}"', 1)
        return HTMLResponse(text, headers=HEADERS)

    return [Route("/", page), Mount("/static", _Static(directory=STATIC))]


def missing_libraries() -> bool:
    """Whether the page's libraries were never fetched (tools/web-assets.py)."""
    return not (STATIC / "vendor" / "packages.txt").is_file()


class _Static(StaticFiles):
    """Files with the same headers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await super().__call__(scope, receive, with_headers)
