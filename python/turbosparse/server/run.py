"""The application on a socket: uvicorn, bounded."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, BackendError
from .guard import LOOPBACK, Limits, is_address

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

MAX_HEADERS = 32 << 10  # bytes of request line and headers
KEEP_ALIVE_SECONDS = 20
GRACE_SECONDS = 3  # for requests under way when the server stops


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach `host`."""
    from ipaddress import ip_address

    return host in LOOPBACK or (is_address(host) and ip_address(host).is_loopback)


def check_host(host: str, token: str | None) -> None:
    """Raises ArgumentError for a host that others reach when there is no token."""
    if token is None and not is_loopback(host):
        raise ArgumentError(
            f"--host {host} is reachable from other machines, and without a token anyone there could use the "
            "server: leave out --no-auth, or listen on 127.0.0.1",
            where="--host",
            expected="127.0.0.1, or a token",
            found=host,
        )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ArgumentError when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(128)
    except OSError as error:
        found.close()
        raise ArgumentError(
            f"cannot listen on {host} port {port}: {error.strerror}. Take another --port; 0 finds a free one.",
            where="--port",
            expected="a free port",
            found=str(port),
        ) from error
    return found


def url(listening: socket.socket) -> str:
    """Address of the server for programs of this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP/1.1, but a connection whose headers do not arrive within `seconds` is closed."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._deadline = self.loop.call_later(seconds, self._expire)

        def _expire(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            super().connection_lost(exc)

    return Impatient


def _server(app: Starlette) -> uvicorn.Server:
    import uvicorn

    limits: Limits = app.state.limits
    config = uvicorn.Config(
        app,
        http=_protocol(limits.header_seconds),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADERS,
        limit_concurrency=limits.connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def serve(
    app: Starlette,
    listening: socket.socket,
    ready: Callable[[str], None] | None = None,
    start: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        listening: of `bind`; is closed at the end.
        ready: called with the URL once requests are answered and `start` has ended.
        start: awaited while requests are answered already, for what takes long: they see an engine
            that is loading. Its error ends the server and is raised.
    """
    with listening:
        asyncio.run(_serve(app, listening, ready, start))


async def _serve(
    app: Starlette,
    listening: socket.socket,
    ready: Callable[[str], None] | None,
    start: Callable[[], Awaitable[object]] | None,
) -> None:
    server = _server(app)
    task = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    try:
        if server.started and start is not None:
            await start()
        if server.started and ready is not None:
            ready(url(listening))
    except BaseException:
        server.should_exit = True
        await task
        raise
    await task


@contextmanager
def background(app: Starlette, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve from a thread of its own while inside; gives the URL. For windows and tests."""
    with bind(host, port) as listening:
        server = _server(app)
        failures: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(server.serve(sockets=[listening]))
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="turbosparse-server", daemon=True)
        thread.start()
        try:
            _await_start(server, thread, failures)
            yield url(listening)
        finally:
            server.should_exit = True
            thread.join(GRACE_SECONDS + 10)


def _await_start(server: Any, thread: threading.Thread, failures: list[BaseException]) -> None:
    while not server.started:
        thread.join(0.01)
        if not thread.is_alive():
            reason = str(failures[0]) if failures else "see its log"
            raise BackendError(f"the server did not start: {reason}", where="server")
