"""Server-sent events: their order, their ends, and readers that go away or do not read."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import Route
from turbosparse.server.engine import Request
from turbosparse.server.fake import FakeEngine
from turbosparse.server.sse import EventStream, data

from tests.server.conftest import TOKEN, Serve, Server, allowed
from tests.server.test_dialect import SPARSITY, TIMINGS, TOOL

CHAT, TEXT, NATIVE = "/v1/chat/completions", "/v1/completions", "/completion"


def say(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"say: {text}"}], **more}


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(chunks))


def until(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Waits for it; returns how long that took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.005)
    return time.monotonic() - start


def busy(server: Server) -> int:
    return sum(slot.busy for slot in server.engine.slots())


# --- what comes -------------------------------------------------------------------------


def test_a_chat_stream(server: Server) -> None:
    chunks = server.stream(CHAT, say("hello the answer"))
    assert deltas(chunks)[0] == {"role": "assistant", "content": None}
    assert text_of(chunks) == "hello the answer"
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert deltas(chunks)[-1] == {}
    last = chunks[-1]
    assert set(last["timings"]) == TIMINGS
    assert set(last["sparsity"]) == SPARSITY
    assert all("timings" not in c and "sparsity" not in c and "usage" not in c for c in chunks[:-1])


def test_the_stream_equals_the_whole(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "tell me"}], "seed": 4}
    whole = server.post(CHAT, body).json()
    assert text_of(server.stream(CHAT, body)) == whole["choices"][0]["message"]["content"]


def test_usage_comes_last_when_asked_for(server: Server) -> None:
    chunks = server.stream(CHAT, say("the", stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 1


def test_records_per_token(server: Server) -> None:
    chunks = server.stream(CHAT, say("the the", sparsity=True, timings_per_token=True))
    tokens = [c for c in chunks if c["choices"][0]["delta"].get("content")]
    assert [c["timings"]["predicted_n"] for c in tokens] == [1, 2]
    assert all(set(c["sparsity"]) == SPARSITY and len(c["sparsity"]["layers"]) == 8 for c in tokens)


def test_logprobs_are_never_held_back(server: Server) -> None:
    """A stop string may be beginning, so the text waits; the token's record does not."""
    chunks = server.stream(CHAT, say("the answer the", logprobs=True, top_logprobs=1, stop=[" answer to"]))
    found = [item["token"] for c in chunks for item in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert found == ["the", " answer", " the"]
    assert text_of(chunks) == "the answer the"


def test_progress_of_the_prompt(server: Server) -> None:
    prompt = "x" * 300
    chunks = server.stream(TEXT, {"prompt": prompt, "return_progress": True, "cache_prompt": False, "max_tokens": 1})
    seen = [c["prompt_progress"] for c in chunks if "prompt_progress" in c]
    assert [p["processed"] for p in seen] == [64, 128, 192, 256, 301]
    assert all(p["total"] == 301 and p["cache"] == 0 for p in seen)


def test_text_and_native_streams(server: Server) -> None:
    chunks = server.stream(TEXT, {"prompt": "say: hello the"})
    assert "".join(c["choices"][0]["text"] for c in chunks) == "hello the"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    objects = server.stream(NATIVE, {"prompt": "say: hello the"})
    assert "".join(o["content"] for o in objects) == "hello the"
    assert [o["stop"] for o in objects] == [False, False, True]
    assert objects[-1]["timings"]["predicted_n"] == 2


def test_a_native_stream_has_no_end_mark(server: Server) -> None:
    with server.client.stream("POST", NATIVE, json={"prompt": "say: the", "stream": True}) as response:
        assert "[DONE]" not in response.read().decode()
    with server.client.stream("POST", TEXT, json={"prompt": "say: the", "stream": True}) as response:
        assert response.read().decode().endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stop", ["stop", ["zzz", "p me"], "o st"])
def test_stop_strings_never_leak(server: Server, stop: Any) -> None:
    """They begin and end inside tokens, and no part of them is shown."""
    text = "hello stop me"
    first = [stop] if isinstance(stop, str) else stop
    expected = text[: min(text.find(s) for s in first if s in text)]
    chunks = server.stream(CHAT, say(text, stop=stop))
    assert text_of(chunks) == expected
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_characters_are_not_split(server: Server) -> None:
    chunks = server.stream(CHAT, say("aé€😀z"))
    assert text_of(chunks) == "aé€😀z"
    assert not any("\ufffd" in (delta.get("content") or "") for delta in deltas(chunks))


def test_a_tool_call_in_a_stream(server: Server) -> None:
    chunks = server.stream(CHAT, {"messages": [{"role": "user", "content": "weather?"}], "tools": [TOOL]})
    calls = [call for delta in deltas(chunks) for call in delta.get("tool_calls", ())]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "weather")]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"city": "Paris"}
    assert text_of(chunks) == ""
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


# --- what goes wrong ----------------------------------------------------------------------


def test_an_error_in_the_middle_is_the_last_event(serve: Serve) -> None:
    server = serve(FakeEngine(fail_at=2))
    chunks = server.stream(CHAT, say("the the the the"))
    assert chunks[-1]["error"]["type"] == "server_error"
    assert "fake" not in chunks[-1]["error"]["message"], "the inside of an unforeseen error is nobody's business"
    assert sum(1 for c in chunks if c.get("choices")) == 3
    assert busy(server) == 0
    assert server.post(CHAT, say("the the the")).status_code == 500


def test_refusals_come_before_the_stream(server: Server) -> None:
    answer = server.post(CHAT, say("x" * 5000, stream=True))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["n_prompt_tokens"] > 4096, error["n_ctx"]) == ("exceed_context_size_error", True, 4096)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["prompt", "answer"])
def test_a_client_that_goes_away(serve: Serve, stream: bool, phase: str) -> None:
    slow = {"prompt_per_second": 100} if phase == "prompt" else {"tokens_per_second": 20}
    server = serve(FakeEngine(**slow))  # type: ignore[arg-type]
    body = json.dumps({"prompt": "x" * 3000, "stream": stream})
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(
            f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        until(lambda: busy(server) == 1)
        time.sleep(0.1)
        assert busy(server) == 1
    assert until(lambda: busy(server) == 0) < allowed(0.2)
    assert server.metric("turbosparse:requests_cancelled_total") == 1


def test_stopping_in_the_middle_with_httpx(serve: Serve) -> None:
    server = serve(FakeEngine(tokens_per_second=50))
    with server.client.stream("POST", CHAT, json=say("the " * 300, stream=True)) as response:
        for i, _ in enumerate(response.iter_lines()):
            if i == 6:
                break
    assert until(lambda: busy(server) == 0) < allowed(0.2)
    assert server.chat("say: the")["choices"][0]["message"]["content"] == "the"


# --- EventStream by itself ------------------------------------------------------------------


class Wire:
    """Both ends of an ASGI connection."""

    def __init__(self, blocks: bool = False) -> None:
        self.sent: list[Any] = []
        self.gone = asyncio.Event()
        self.blocks = blocks
        self.cancelled = 0

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if self.blocks:
            await asyncio.sleep(60)

    def cancel(self) -> None:
        self.cancelled += 1

    @property
    def bodies(self) -> list[bytes]:
        return [m["body"] for m in self.sent if m["type"] == "http.response.body"]


async def slow(seconds: float, closed: list[bool]) -> AsyncIterator[bytes]:
    try:
        for _ in range(3):
            await asyncio.sleep(seconds)
            yield data({"x": 1})
    finally:
        closed.append(True)


def test_comments_while_nothing_comes() -> None:
    wire, closed = Wire(), list[bool]()
    asyncio.run(EventStream(slow(0.05, closed), wire.cancel, ping_seconds=0.02)({}, wire.receive, wire.send))
    assert wire.bodies.count(b'data: {"x":1}\n\n') == 3
    assert wire.bodies.count(b": ping\n\n") >= 3
    assert (wire.bodies[-1], wire.sent[-1]["more_body"]) == (b"", False)
    assert (wire.cancelled, closed) == (0, [True])


def test_a_reader_that_does_not_read() -> None:
    wire, closed = Wire(blocks=True), list[bool]()
    asyncio.run(EventStream(slow(0, closed), wire.cancel, write_seconds=0.05)({}, wire.receive, wire.send))
    assert wire.cancelled == 1


def test_a_reader_that_goes_while_nothing_comes() -> None:
    async def scene() -> tuple[Wire, list[bool]]:
        wire, closed = Wire(), list[bool]()
        task = asyncio.ensure_future(EventStream(slow(30, closed), wire.cancel)({}, wire.receive, wire.send))
        await asyncio.sleep(0.02)
        wire.gone.set()
        await asyncio.wait_for(task, 1)
        return wire, closed

    wire, closed = asyncio.run(scene())
    assert (wire.cancelled, closed) == (1, [True])


def test_cancelling_the_task_cancels_the_job() -> None:
    async def scene() -> Wire:
        wire = Wire()
        task = asyncio.ensure_future(EventStream(slow(30, []), wire.cancel)({}, wire.receive, wire.send))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return wire

    assert asyncio.run(scene()).cancelled == 1


def test_text_with_line_breaks_is_one_event() -> None:
    assert data({"a": "x\ny\r\u2028"}).count(b"\n") == 2
    assert json.loads(data({"a": "x\ny"})[6:]) == {"a": "x\ny"}


# --- the queue --------------------------------------------------------------------------------


def test_a_full_queue(serve: Serve) -> None:
    server = serve(FakeEngine(tokens_per_second=20, n_parallel=1, max_waiting=1))
    with (
        server.client.stream("POST", CHAT, json=say("the " * 500, stream=True)) as first,
        httpx.Client(base_url=server.url, headers=dict(server.client.headers)) as other,
    ):
        lines = first.iter_lines()  # kept: a generator that goes closes the stream
        next(lines)
        with other.stream("POST", CHAT, json=say("the", stream=True)):
            until(lambda: server.engine.metrics().requests_waiting == 1)
            refused = server.post(CHAT, say("the"))
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == "unavailable_error"
    until(lambda: server.engine.metrics().requests_waiting == 0 and busy(server) == 0)
    assert server.post(CHAT, say("the")).status_code == 200


def test_two_at_once(serve: Serve) -> None:
    server = serve(FakeEngine(tokens_per_second=100))
    with server.client.stream("POST", CHAT, json=say("the " * 100, stream=True)) as first:
        lines = first.iter_lines()
        next(lines)
        assert server.chat("say: hello")["choices"][0]["message"]["content"] == "hello"
        until(lambda: busy(server) == 1)


def test_switching_the_model_ends_requests(serve: Serve) -> None:
    engine = FakeEngine(tokens_per_second=50)

    async def switch(request: HttpRequest) -> JSONResponse:
        return JSONResponse((await engine.load("other.gguf")).id)

    server = serve(engine, extra_routes=[Route("/switch", switch, methods=["POST"])])
    chunks = server.events(CHAT, say("the " * 500))
    next(chunks)
    assert server.post("/switch").json() == "other"
    rest = list(chunks)
    assert "error" in rest[-1] or rest[-1]["choices"][0]["finish_reason"] == "cancelled"
    assert server.get("/v1/models").json()["data"][0]["id"] == "other"


def test_a_request_object_is_plain() -> None:
    from turbosparse.sampling import SamplingParams

    assert Request(prompt=(1,), params=SamplingParams()).cache_prompt
