"""Asking for replies, and watching them come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from ...errors import ArgumentError
from ...server.sse import EventStream, data
from ..prompts import checked_shift
from ..service import Service
from .json import body, key, route, take, thread

MAX_SHIFTS = 8  # measured at once


def routes(service: Service) -> list[Route]:
    """See the module. A stream ends with {type: "end", message} (or {type: "end", comparison})."""
    store, replies = service.store, service.replies

    async def send(request: Request) -> Any:
        values = await body(request)
        parent = take(values, "parent_id", (int, type(None)), None)
        user, reply = await replies.send(key(request), take(values, "content", str), parent)
        conversation = await thread(store.conversation, key(request))
        return {"conversation": conversation.as_dict(), "messages": [user.as_dict(), reply.as_dict()]}

    async def regenerate(request: Request) -> Any:
        return (await replies.regenerate(key(request))).as_dict()

    async def proceed(request: Request) -> Any:
        return (await replies.proceed(key(request))).as_dict()

    async def edit(request: Request) -> Any:
        """A user's message: a sibling of it, and a reply to that. A reply: a sibling with the new text."""
        content = take(await body(request), "content", str)
        old = await thread(store.message, key(request))
        if old.role == "user":
            await replies.send(old.conversation_id, content, old.parent_id)
        else:
            stats = {"edited": True}
            await thread(store.add, old.conversation_id, old.role, content, parent=old.parent_id, stats=stats)
        return [message.as_dict() for message in await thread(store.path, old.conversation_id)]

    async def stop(request: Request) -> Any:
        await replies.cancel(key(request))
        return (await thread(store.message, key(request))).as_dict()

    async def watch(request: Request) -> Any:
        await thread(store.message, key(request))

        async def events() -> AsyncIterator[bytes]:
            async for event in replies.follow(key(request), _cursor(request)):
                yield data(event)
            yield data({"type": "end", "message": (await thread(store.message, key(request))).as_dict()})

        return EventStream(events(), _nothing)

    async def compare(request: Request) -> Any:
        mode = take(await body(request), "mode", str, "dense")
        await replies.compare(key(request), mode)

    async def watch_comparison(request: Request) -> Any:
        async def events() -> AsyncIterator[bytes]:
            async for event in replies.follow(-key(request)):
                yield data(event)
            yield data({"type": "end", "comparison": await thread(store.comparison, key(request))})

        return EventStream(events(), _nothing)

    async def stop_comparison(request: Request) -> None:
        await replies.cancel(-key(request))

    async def comparison(request: Request) -> Any:
        return {"comparison": await thread(store.comparison, key(request))}

    async def recall(request: Request) -> Any:
        shifts = take(await body(request), "threshold_shifts", list, [0.0])
        if not 0 < len(shifts) <= MAX_SHIFTS:
            expected = f"1 to {MAX_SHIFTS} numbers"
            raise ArgumentError(f"threshold_shifts must be {expected}", where="threshold_shifts", expected=expected)
        return await replies.recall(key(request), [checked_shift(shift) for shift in shifts])

    async def trace(request: Request) -> Any:
        return {"rows": await thread(store.trace, key(request)) or []}

    one = "/messages/{id:int}"
    return [
        route("/conversations/{id:int}/messages", send, "POST"),
        route("/conversations/{id:int}/recall", recall, "POST"),
        route(one + "/regenerate", regenerate, "POST"),
        route(one + "/continue", proceed, "POST"),
        route(one + "/edit", edit, "POST"),
        route(one + "/stop", stop, "POST"),
        route(one + "/events", watch),
        route(one + "/trace", trace),
        route(one + "/comparison", comparison),
        route(one + "/comparison", compare, "POST"),
        route(one + "/comparison", stop_comparison, "DELETE"),
        route(one + "/comparison/events", watch_comparison),
    ]


def _cursor(request: Request) -> int:
    text = request.query_params.get("from", "0")
    if not text.isdecimal():
        raise ArgumentError(f"from={text} is no number of a token", where="from", expected=">= 0", found=text)
    return int(text)


def _nothing() -> None:
    """A reply does not stop because nobody looks."""
