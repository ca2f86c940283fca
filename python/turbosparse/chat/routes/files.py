"""Conversations out to files, and in."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import ArgumentError
from ..export import as_json, as_markdown, file_name
from ..importing import import_bytes
from ..service import Service
from .json import key, route, thread


def routes(service: Service) -> list[Route]:
    """See the module."""
    store = service.store

    async def export_all(_: Request) -> Any:
        return _file(json.dumps(await thread(as_json, store), ensure_ascii=False), "conversations.json", "json")

    async def export_one(request: Request) -> Any:
        conversation, form = await thread(store.conversation, key(request)), request.path_params["form"]
        if form == "json":
            text = json.dumps(await thread(as_json, store, [conversation.id]), ensure_ascii=False)
        elif form == "md":
            text = as_markdown(conversation, await thread(store.path, conversation.id))
        else:
            raise ArgumentError(f"there is no export as {form}", where="form", expected="json or md", found=form)
        return _file(text, file_name(conversation, form), "json" if form == "json" else "markdown")

    async def bring_in(request: Request) -> Any:
        return {"conversations": await thread(import_bytes, store, await request.body())}

    return [
        route("/export", export_all),
        route("/conversations/{id:int}/export/{form:str}", export_one),
        route("/import", bring_in, "POST"),
    ]


def _file(text: str, name: str, kind: str) -> Response:
    media = "application/json" if kind == "json" else "text/markdown; charset=utf-8"
    disposition = f"attachment; filename*=UTF-8''{quote(name)}"
    return Response(text, media_type=media, headers={"content-disposition": disposition})
