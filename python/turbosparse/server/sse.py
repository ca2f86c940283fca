"""Server-sent events, and noticing that the reader has gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from .guard import Message, Receive, Scope, Send

T = TypeVar("T")

PING_SECONDS = 15.0
WRITE_SECONDS = 60.0
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-store"),
    (b"x-accel-buffering", b"no"),
]


def data(value: Mapping[str, Any] | str) -> bytes:
    """One event: a JSON object, or text as it is."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


class EventStream:
    """A response that sends events as they come, comments while none come, and stops when nobody reads.

    Args:
        events: encoded (see `data`). It is closed in every case; its errors must have been turned
            into events.
        on_disconnect: called once when the client has gone or has read nothing for write_seconds.
        ping_seconds: between comments.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        on_disconnect: Callable[[], None],
        *,
        ping_seconds: float = PING_SECONDS,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        self._events = events
        self._on_disconnect = on_disconnect
        self._ping_seconds = ping_seconds
        self._write_seconds = write_seconds
        self._pending: asyncio.Future[bytes | None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run as an ASGI application."""
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await self._write(send, {"type": "http.response.start", "status": 200, "headers": HEADERS})
            while (event := await self._next(gone)) is not None:
                await self._write(send, {"type": "http.response.body", "body": event, "more_body": True})
            if gone.done():
                self._on_disconnect()
            else:
                await self._write(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.TimeoutError:
            self._on_disconnect()
        except BaseException:
            self._on_disconnect()
            raise
        finally:
            gone.cancel()
            await self._close()

    async def _next(self, gone: asyncio.Future[None]) -> bytes | None:
        """The next event or a comment; None at the end."""
        pending = self._pending = self._pending or asyncio.ensure_future(_anext(self._events))
        waiting: set[asyncio.Future[Any]] = {pending, gone}
        await asyncio.wait(waiting, timeout=self._ping_seconds, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            return None
        if not pending.done():
            return b": ping\n\n"
        self._pending = None
        return pending.result()

    async def _close(self) -> None:
        """Let go of the events, whatever they are at."""
        if self._pending is not None:
            self._pending.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._pending
        close = getattr(self._events, "aclose", None)
        if close is not None:
            await close()

    async def _write(self, send: Send, message: Message) -> None:
        await asyncio.wait_for(send(message), self._write_seconds)


async def _anext(events: AsyncIterator[bytes]) -> bytes | None:
    return await anext(events, None)


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(work: Awaitable[T], receive: Receive, on_disconnect: Callable[[], None]) -> T:
    """The result of `work`; `on_disconnect` is called when the client goes away meanwhile."""
    gone = asyncio.ensure_future(_disconnected(receive))
    task = asyncio.ensure_future(work)
    try:
        waiting: set[asyncio.Future[Any]] = {task, gone}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            on_disconnect()
        return await task
    except asyncio.CancelledError:
        on_disconnect()
        raise
    finally:
        gone.cancel()
