"""What stands between the network and the application: nothing that it refuses reaches a route.

In this order: the Host header (DNS rebinding), the Origin (pages of other sites), the token, the
size of the body and the time that it takes. A pure ASGI middleware, so that streams pass
through untouched.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from .problem import Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
LINGER_SECONDS = 2.0
LINGER_BYTES = 256 << 20
CORS_METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
CORS_HEADERS = "authorization, content-type, x-api-key"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one request.

    Attributes:
        body: bytes.
        body_for: path -> bytes, instead of `body`.
        body_seconds: until the body must have arrived.
        header_seconds: until the request line and headers must have arrived (kept by server.run).
        connections: open at once (kept by server.run).
    """

    body: int = 8 << 20
    body_for: Mapping[str, int] = field(default_factory=dict)
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    connections: int = 256

    def body_of(self, path: str) -> int:
        """Bytes that a body sent to `path` may have."""
        return self.body_for.get(path, self.body)


class BodyTooLargeError(Exception):
    """More bytes came than the path allows."""


class BodyTooSlowError(Exception):
    """The body did not arrive in time."""


class Guard:
    """See the module.

    Args:
        token: that requests must carry; None asks for none.
        hosts: names that the Host header may have besides those of the loopback interface; "0.0.0.0" or
            "::" stands for every address in numbers (which no DNS rebinding can forge), "*" for anything.
        origins: of pages that may use the server besides its own; "*" is every one.
        public: paths that need no token: exact, or a prefix when it ends in "/" and is longer than that.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str | None,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        public: Sequence[str] = (),
        limits: Limits | None = None,
    ) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(host.lower() for host in (*LOOPBACK, *hosts))
        self._any_address = bool(self._hosts & {"0.0.0.0", "::"})
        self._origins = frozenset(origins)
        self._public = tuple(public)
        self._limits = limits or Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or hand it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await _refuse_websocket(scope, receive, send)
            return
        headers = _headers(scope)
        origin = headers.get("origin", "")
        send = self._stamped(send, origin)
        problem = self._host(headers) or self._origin(headers)
        if problem is None and scope["method"] == "OPTIONS" and origin and "access-control-request-method" in headers:
            await _preflight(send)
            return
        problem = problem or self._authorisation(scope["path"], headers) or self._announced(scope["path"], headers)
        if problem is not None:
            await _refuse(problem, scope, receive, send)
            return
        await self._run(scope, receive, send)

    # --- checks -----------------------------------------------------------------

    def _host(self, headers: Mapping[str, str]) -> Problem | None:
        host = headers.get("host", "")
        name = host_name(host)
        if "," not in host and (name in self._hosts or "*" in self._hosts or (self._any_address and is_address(name))):
            return None
        found = name or "nothing"
        return Problem(403, "permission_error", f"the Host header names {found}, which is not this server", "host")

    def _origin(self, headers: Mapping[str, str]) -> Problem | None:
        origin = headers.get("origin")
        if origin is None:
            foreign = headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
        else:
            foreign = not (self._allowed(origin) or origin_host(origin) == headers.get("host", "").lower())
        if not foreign:
            return None
        found = origin or "another site"
        return Problem(
            403,
            "permission_error",
            f"pages of {found} may not use this server; start it with --cors-origin {found} if they should",
            "origin",
        )

    def _allowed(self, origin: str) -> bool:
        return bool(self._origins) and ("*" in self._origins or origin in self._origins)

    def _authorisation(self, path: str, headers: Mapping[str, str]) -> Problem | None:
        if self._token is None or self._is_public(path):
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        if hmac.compare_digest(given.encode("latin-1", "replace"), self._token):
            return None
        reason = "the token is wrong" if given else "a token is needed: send the header Authorization: Bearer TOKEN"
        return Problem(401, "authentication_error", reason, "authorization", code="invalid_api_key")

    def _is_public(self, path: str) -> bool:
        return any(path == own or (len(own) > 1 and own.endswith("/") and path.startswith(own)) for own in self._public)

    def _announced(self, path: str, headers: Mapping[str, str]) -> Problem | None:
        length = headers.get("content-length", "")
        if not length:
            return None
        if not length.isdecimal():
            return Problem(400, "invalid_request_error", "Content-Length is no number", "content-length")
        return _too_large(self._limits.body_of(path)) if int(length) > self._limits.body_of(path) else None

    # --- the request ---------------------------------------------------------------

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, self._bounded(scope["path"], receive), watched)
        except (BodyTooLargeError, BodyTooSlowError) as error:
            if started:
                raise
            slow = isinstance(error, BodyTooSlowError)
            problem = _too_slow(self._limits.body_seconds) if slow else _too_large(self._limits.body_of(scope["path"]))
            await _refuse(problem, scope, receive, send)

    def _bounded(self, path: str, receive: Receive) -> Receive:
        """`receive` that counts the body while it comes and does not wait for it for ever."""
        limit, seen, complete = self._limits.body_of(path), 0, False
        end = asyncio.get_running_loop().time() + self._limits.body_seconds

        async def bounded() -> Message:
            nonlocal seen, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(end - asyncio.get_running_loop().time(), 0.01))
            except asyncio.TimeoutError:
                raise BodyTooSlowError from None
            seen += len(message.get("body", b""))
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            if seen > limit:
                raise BodyTooLargeError
            return message

        return bounded

    def _stamped(self, send: Send, origin: str) -> Send:
        """`send` that adds the headers of every answer."""
        extra = [(b"x-content-type-options", b"nosniff")]
        if self._origins:
            extra.append((b"vary", b"origin"))
        if origin and self._allowed(origin):
            extra.append((b"access-control-allow-origin", origin.encode("latin-1")))

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        return stamped


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_address(name: str) -> bool:
    """Whether `name` is an IP address in numbers."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def origin_host(origin: str) -> str:
    """ "http://name:port" -> "name:port" in lower case; "" for anything that is no such origin ("null")."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in ("http", "https") and not parts.path else ""


def _headers(scope: Scope) -> dict[str, str]:
    """Names in lower case. One that comes twice has both values, joined by a comma, and so equals neither."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


def _too_large(limit: int) -> Problem:
    return Problem(413, "invalid_request_error", f"the body is larger than {limit} bytes", "body")


def _too_slow(seconds: float) -> Problem:
    return Problem(408, "invalid_request_error", f"the body did not arrive within {seconds:g} s", "body")


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, then read on for a moment without keeping anything: a client that is still sending would
    otherwise see a reset connection instead of the answer."""

    async def held(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await problem.response(close=True)(scope, receive, held)
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_drain(receive), LINGER_SECONDS)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    left = LINGER_BYTES
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


async def _preflight(send: Send) -> None:
    headers = [
        (b"access-control-allow-methods", CORS_METHODS.encode()),
        (b"access-control-allow-headers", CORS_HEADERS.encode()),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1008})
