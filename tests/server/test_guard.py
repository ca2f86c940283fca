"""What is refused, and that nothing of it reaches the engine."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from turbosparse.errors import ArgumentError
from turbosparse.server.fake import FakeEngine
from turbosparse.server.guard import Guard, Limits, host_name, origin_host
from turbosparse.server.run import bind, check_host, is_loopback

from tests.server.conftest import TOKEN, Serve, Server, allowed, authorised

CHAT = "/v1/chat/completions"
SAY = {"messages": [{"role": "user", "content": "say: the"}]}


class Untouched(FakeEngine):
    """An engine that counts what reaches it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls = 0

    def submit(self, request: Any) -> Any:
        self.calls += 1
        return super().submit(request)

    def tokenize(self, text: str, **options: Any) -> list[int]:
        self.calls += 1
        return super().tokenize(text, **options)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    from tests.server.conftest import running

    with running(Untouched(), limits=Limits(body=20_000, body_for={"/large": 200_000})) as server:
        yield server
        assert server.engine.calls == 0


def port(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def raw(server: Server, request: bytes, seconds: float = 5.0) -> bytes:
    """What comes back for bytes on the socket, until the server closes or is silent."""
    with socket.create_connection(("127.0.0.1", port(server)), timeout=seconds) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except TimeoutError:
            pass
        return answer


def head(server: Server, **headers: str) -> httpx.Response:
    return server.post(CHAT, SAY, headers=headers)


# --- Host ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "1.2.3.4", "", "a, b"])
def test_a_forged_host(guarded: Server, host: str) -> None:
    answer = head(guarded, host=host)
    assert answer.status_code == 403
    assert answer.json()["error"]["param"] == "host"


def test_two_hosts(guarded: Server) -> None:
    answer = raw(guarded, b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 2)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8080", "LOCALHOST"])
def test_names_of_this_machine(server: Server, host: str) -> None:
    assert server.get("/health", headers={"host": host}).status_code == 200


def test_more_hosts(serve: Serve) -> None:
    server = serve(FakeEngine(), hosts=["box.lan"])
    assert server.get("/health", headers={"host": "box.lan:1"}).status_code == 200
    assert server.get("/health", headers={"host": "10.0.0.1"}).status_code == 403
    everywhere = serve(FakeEngine(), hosts=["0.0.0.0"])
    assert everywhere.get("/health", headers={"host": "10.0.0.1:8080"}).status_code == 200
    assert everywhere.get("/health", headers={"host": "evil.example"}).status_code == 403


# --- Origin and CORS -------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "file://", "x"])
def test_a_page_of_another_origin(guarded: Server, origin: str) -> None:
    answer = head(guarded, origin=origin)
    assert answer.status_code == 403
    assert answer.json()["error"]["param"] == "origin"
    assert "access-control-allow-origin" not in answer.headers


def test_a_preflight_without_cors(guarded: Server) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = guarded.client.options(CHAT, headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_foreign_page_without_origin(guarded: Server) -> None:
    assert head(guarded, **{"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}).status_code == 403


def test_the_own_origin(server: Server) -> None:
    assert head(server, origin=server.url).status_code == 200


def test_cors_for_those_who_are_named(serve: Serve) -> None:
    server = serve(FakeEngine(), origins=["https://app.example"])
    headers = {"origin": "https://app.example"}
    asked = server.client.options(CHAT, headers={**headers, "access-control-request-method": "POST"})
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in asked.headers["access-control-allow-headers"]
    answer = head(server, **headers)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in answer.headers
    assert head(server, origin="https://app.example.evil").status_code == 403


# --- the token ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"x-api-key": ""},
        {"authorization": "Bearer \xff"},
    ],
)
def test_a_missing_or_wrong_token(guarded: Server, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = httpx.post(guarded.url + CHAT, json=SAY, headers=encoded)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/models", "/slots", "/metrics", "/props", "/nothing"):
        assert httpx.get(guarded.url + path, headers=encoded).status_code == 401


def test_both_headers_carry_it(server: Server) -> None:
    for headers in (authorised(), {"authorization": f"bearer {TOKEN}"}, {"x-api-key": TOKEN}):
        assert httpx.get(server.url + "/v1/models", headers=headers).status_code == 200


def test_health_and_public_paths_need_none(serve: Serve) -> None:
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.url.path)

    routes = [Route("/", page), Route("/static/{x:path}", page), Route("/private", page)]
    server = serve(FakeEngine(), extra_routes=routes, public=["/", "/static/"])
    for path, status in {"/": 200, "/static/a.js": 200, "/private": 401, "/static": 401, "/health": 200}.items():
        assert httpx.get(server.url + path).status_code == status, path
    assert httpx.get(server.url + "/", headers={"host": "evil.example"}).status_code == 403
    assert httpx.get(server.url + "/static/../v1/models").status_code in (401, 404)
    assert raw(server, b"GET /static/../v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 200 OK"
    ), "the page's own route, not ours"


def test_no_token_at_all(serve: Serve) -> None:
    server = serve(FakeEngine(), token=None)
    assert httpx.get(server.url + "/v1/models").status_code == 200
    assert httpx.get(server.url + "/v1/models", headers={"origin": "https://evil.example"}).status_code == 403


def test_other_machines_need_a_token() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        assert is_loopback(host)
        check_host(host, None)
    for host in ("0.0.0.0", "192.168.1.2", "::", "box.lan"):
        check_host(host, TOKEN)
        with pytest.raises(ArgumentError, match="other machines"):
            check_host(host, None)


# --- bodies --------------------------------------------------------------------------------


def test_a_body_that_announces_too_much(guarded: Server) -> None:
    start = time.monotonic()
    answer = raw(
        guarded,
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Length: 104857600\r\n\r\n".encode(),
    )
    assert answer.startswith(b"HTTP/1.1 413")
    assert time.monotonic() - start < allowed(4)


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * 65536


def test_a_body_of_100_megabytes(guarded: Server) -> None:
    """Announced or not, it is refused while it comes, and not kept."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for headers in ({}, {"content-length": str(1600 * 65536)}):
        answer = guarded.client.post(CHAT, content=chunks(1600), headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (413, "body")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024, "kB"


def test_a_path_may_allow_more(serve: Serve) -> None:
    async def take(request: Request) -> JSONResponse:
        return JSONResponse(len(await request.body()))

    limits = Limits(body=1000, body_for={"/large": 3000})
    server = serve(FakeEngine(), limits=limits, extra_routes=[Route("/large", take, methods=["POST"])])
    assert server.client.post("/large", content=b"x" * 2000).json() == 2000
    assert server.client.post("/large", content=b"x" * 4000).status_code == 413
    assert server.client.post("/tokenize", content=b"x" * 2000).status_code == 413


def test_a_body_that_does_not_come(serve: Serve) -> None:
    server = serve(Untouched(), limits=Limits(body_seconds=0.3))
    request = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\n"
    assert raw(server, request.encode() + b'{"me').startswith(b"HTTP/1.1 408")
    assert server.engine.calls == 0


@pytest.mark.parametrize("length", ["-1", "x", "1e3"])
def test_a_content_length_that_is_none(guarded: Server, length: str) -> None:
    request = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n"
    )
    assert raw(guarded, request.encode(), 2).startswith(b"HTTP/1.1 400")


# --- malformed clients -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_nonsense_is_answered_and_forgotten(guarded: Server, request_bytes: bytes) -> None:
    answer = raw(guarded, request_bytes, 1.0)
    assert not answer or answer.split(b" ")[1] in (b"400", b"401", b"404", b"413", b"431"), answer
    assert guarded.get("/health").status_code == 200


def test_headers_that_do_not_come(serve: Serve) -> None:
    server = serve(FakeEngine(), limits=Limits(header_seconds=0.3))
    start = time.monotonic()
    assert raw(server, b"GET /health HTTP/1.1\r\nHost: lo", 5) == b""
    assert time.monotonic() - start < allowed(4)
    assert server.get("/health").status_code == 200


def test_too_many_connections(serve: Serve) -> None:
    server = serve(FakeEngine(), limits=Limits(connections=4))
    held = [socket.create_connection(("127.0.0.1", port(server))) for _ in range(6)]
    try:
        time.sleep(0.1)
        assert httpx.get(server.url + "/health", headers=authorised()).status_code == 503
    finally:
        for connection in held:
            connection.close()
    time.sleep(0.1)
    assert httpx.get(server.url + "/health").status_code == 200


def test_websockets_are_refused(guarded: Server) -> None:
    answer = raw(
        guarded,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        1.0,
    )
    assert b" 101 " not in answer


def test_every_answer_forbids_sniffing(server: Server) -> None:
    for path in ("/health", "/nothing", "/metrics"):
        assert server.get(path).headers["x-content-type-options"] == "nosniff"


# --- small parts -------------------------------------------------------------------------------


def test_names_in_headers() -> None:
    assert [host_name(h) for h in ("A:1", "[::1]:80", "[::1]", "a", "")] == ["a", "::1", "::1", "a", ""]
    assert origin_host("http://A:1") == "a:1"
    assert [origin_host(o) for o in ("null", "file:///x", "http://a/b", "http://[", "a:1")] == [""] * 5


def test_public_prefixes_do_not_open_more() -> None:
    guard = Guard(lambda *_: None, token="t", public=["/", "/static/"])  # type: ignore[arg-type, return-value]
    assert guard._is_public("/")
    assert not guard._is_public("/v1/models")
    assert not guard._is_public("/staticx")


def test_a_port_that_is_taken() -> None:
    with bind("127.0.0.1", 0) as first, pytest.raises(ArgumentError, match="--port"):
        bind("127.0.0.1", first.getsockname()[1])
