"""Everything under /api/chat/, and the page: routes to add to the server's own."""

from __future__ import annotations

from starlette.routing import BaseRoute

from ..service import Service
from . import conversations, files, models, page, replies, settings

PUBLIC = ("/", "/static/")  # paths that need no token: the page without anybody's data
IMPORT = "/api/chat/import"


def chat_routes(service: Service) -> list[BaseRoute]:
    """Routes that serve `service`."""
    parts = (conversations, replies, models, settings, files)
    return [*(route for part in parts for route in part.routes(service)), *page.routes(service)]


__all__ = ["IMPORT", "PUBLIC", "chat_routes"]
