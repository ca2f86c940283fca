"""Conversations, branches, search, the bin."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from ... import __version__
from ..records import Message
from ..search import search
from ..service import Service
from .json import body, key, route, take, thread

KINDS = {"title": str, "folder": str, "pinned": bool, "system_prompt": str, "settings": dict}


def routes(service: Service) -> list[Route]:
    """See the module."""
    store, replies = service.store, service.replies

    async def start(_: Request) -> Any:
        """All that the first paint needs, in one answer."""
        conversations = await thread(store.conversations)
        return {
            "version": __version__,
            "conversations": [each.as_dict() for each in conversations],
            "settings": await thread(store.settings),
            "presets": await thread(store.presets),
            "model": service.model(),
            "replying": replies.keys(),
        }

    async def listed(request: Request) -> Any:
        deleted = request.query_params.get("deleted") == "1"
        return [each.as_dict() for each in await thread(store.conversations, deleted=deleted)]

    async def create(request: Request) -> Any:
        values = await body(request)
        given = {name: take(values, name, kind) for name, kind in KINDS.items() if name in values and name != "pinned"}
        return (await thread(store.create, **given)).as_dict()

    async def show(request: Request) -> Any:
        conversation = await thread(store.conversation, key(request))
        return {"conversation": conversation.as_dict(), "messages": _list(await thread(store.path, conversation.id))}

    async def change(request: Request) -> Any:
        values = await body(request)
        given = {name: take(values, name, kind) for name, kind in KINDS.items() if name in values}
        return (await thread(store.update, key(request), **given)).as_dict()

    async def delete(request: Request) -> None:
        await thread(store.conversation, key(request))
        await replies.cancel_conversation(key(request))
        await thread(store.delete, key(request))

    async def restore(request: Request) -> Any:
        return (await thread(store.restore, key(request))).as_dict()

    async def purge(_: Request) -> Any:
        return {"purged": await thread(store.purge)}

    async def select(request: Request) -> Any:
        return _list(await thread(store.select, key(request)))

    async def delete_message(request: Request) -> Any:
        message = await thread(store.message, key(request))
        await replies.cancel_conversation(message.conversation_id)
        stamp = await thread(store.delete_message, message.id)
        return {"stamp": stamp, "messages": _list(await thread(store.path, message.conversation_id))}

    async def restore_messages(request: Request) -> Any:
        stamp = take(await body(request), "stamp", (int, float))
        return _list(await thread(store.restore_messages, key(request), float(stamp)))

    async def find(request: Request) -> Any:
        return [hit.as_dict() for hit in await thread(search, store, request.query_params.get("q", ""))]

    one = "/conversations/{id:int}"
    return [
        route("/start", start),
        route("/search", find),
        route("/conversations", listed),
        route("/conversations", create, "POST"),
        route(one, show),
        route(one, change, "PATCH"),
        route(one, delete, "DELETE"),
        route(one + "/restore", restore, "POST"),
        route(one + "/restore-messages", restore_messages, "POST"),
        route("/bin", purge, "DELETE"),
        route("/messages/{id:int}/select", select, "POST"),
        route("/messages/{id:int}", delete_message, "DELETE"),
    ]


def _list(path: list[Message]) -> list[dict[str, Any]]:
    return [message.as_dict() for message in path]
