"""The unmodified openai client: against the fake for shapes, against the bundled model for the rest."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from turbosparse.server.engine import LoadOptions
from turbosparse.server.fake import FakeEngine
from turbosparse.server.live import LiveEngine

from tests.server.conftest import TOKEN, Serve, Server, running
from tests.server.test_dialect import SCHEMA, TOOL

USER: Any = [{"role": "user", "content": "Hello! How are you today?"}]


def connect(server: Server, token: str = TOKEN) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key=token, max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def fake(server: Server) -> Iterator[openai.OpenAI]:
    with connect(server) as client:
        yield client


@pytest.fixture(scope="module")
def live(micro: Path) -> Iterator[Server]:
    engine = LiveEngine(LoadOptions(n_ctx=1024, n_parallel=3, n_threads=1, flash_attn="off"))

    @asynccontextmanager
    async def loaded(app: Any) -> Any:
        await engine.load(micro)
        yield

    with running(engine, lifespan=loaded) as server:
        yield server


@pytest.fixture(scope="module")
def real(live: Server) -> Iterator[openai.OpenAI]:
    with connect(live) as client:
        yield client


# --- shapes ---------------------------------------------------------------------------


def test_models(fake: openai.OpenAI, server: Server) -> None:
    (model,) = fake.models.list().data
    assert fake.models.retrieve(model.id).id == server.engine.card.id
    with pytest.raises(openai.NotFoundError) as caught:
        fake.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_errors_have_their_classes(fake: openai.OpenAI, server: Server, serve: Serve) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        fake.chat.completions.create(model="x", messages=USER, temperature=-1)
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.AuthenticationError), connect(server, "wrong") as client:
        client.models.list()
    with pytest.raises(openai.InternalServerError), connect(serve(FakeEngine(loaded=False))) as client:
        client.chat.completions.create(model="x", messages=USER)


def test_an_error_in_a_stream_is_raised(serve: Serve) -> None:
    with connect(serve(FakeEngine(fail_at=3))) as client:
        stream = client.chat.completions.create(model="x", messages=USER, stream=True)
        with pytest.raises(openai.APIError, match="server failed"):
            list(stream)


def test_tools_through_the_streaming_helper(fake: openai.OpenAI) -> None:
    tools: Any = [TOOL]
    with fake.chat.completions.stream(model="x", messages=USER, tools=tools) as stream:
        final = stream.get_final_completion()
    (choice,) = final.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Paris"}


def test_embeddings_and_legacy_completions(fake: openai.OpenAI) -> None:
    found = fake.embeddings.create(model="x", input=["a", "b"])  # asks for base64 by itself
    assert len(found.data) == 2
    assert sum(x * x for x in found.data[0].embedding) == pytest.approx(1.0)
    text = fake.completions.create(model="x", prompt="say: hello the", logprobs=1)
    assert text.choices[0].text == "hello the"
    assert text.choices[0].logprobs is not None
    assert text.choices[0].logprobs.tokens == ["hello", " the"]


# --- the bundled model -----------------------------------------------------------------


def test_streaming_chat(real: openai.OpenAI) -> None:
    given: dict[str, Any] = {"model": "x", "messages": USER, "seed": 1, "max_tokens": 20}
    whole = real.chat.completions.create(**given)
    stream = real.chat.completions.create(**given, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert chunks[-1].usage.prompt_tokens_details is not None


def test_a_conversation_is_cached(real: openai.OpenAI) -> None:
    first = real.chat.completions.create(model="x", messages=USER, seed=1, max_tokens=20)
    messages = [*USER, {"role": "assistant", "content": first.choices[0].message.content}, *USER]
    second = real.chat.completions.create(model="x", messages=messages, seed=1, max_tokens=5)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= first.usage.prompt_tokens


def test_json_schema(real: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
    for seed in range(4):
        answer = real.chat.completions.create(
            model="x", messages=USER, response_format=form, seed=seed, max_tokens=60, stop=None
        )
        value = json.loads(answer.choices[0].message.content or "")
        assert list(value) == ["answer"]
        assert isinstance(value["answer"], int)


def test_any_json(real: openai.OpenAI) -> None:
    answer = real.chat.completions.create(
        model="x", messages=USER, response_format={"type": "json_object"}, seed=2, max_tokens=200, temperature=0.3
    )
    text = answer.choices[0].message.content or ""
    assert text.lstrip().startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_a_required_tool(real: openai.OpenAI) -> None:
    """A model that has never seen a tool calls one, because the grammar leaves it no choice."""
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    for stream in (False, True):
        given: dict[str, Any] = {"model": "x", "messages": USER, "tools": [tool], "tool_choice": "required", "seed": 3}
        given |= {"max_tokens": 300, "parallel_tool_calls": False}
        if stream:
            with real.chat.completions.stream(**given) as found:
                choice: Any = found.get_final_completion().choices[0]
        else:
            choice = real.chat.completions.create(**given).choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


def test_logprobs(real: openai.OpenAI) -> None:
    given: dict[str, Any] = {"model": "x", "messages": USER, "max_tokens": 8, "logprobs": True, "top_logprobs": 3}
    answer = real.chat.completions.create(**given, temperature=0)
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content or []
    assert b"".join(bytes(item.bytes or []) for item in content).decode() == answer.choices[0].message.content
    for item in content:
        assert item.logprob == max(other.logprob for other in item.top_logprobs)
        assert len(item.top_logprobs) == 3


def test_several_answers(real: openai.OpenAI) -> None:
    """Like single ones with the next seeds; the prompt is read once and counts once."""
    given: dict[str, Any] = {"model": "x", "messages": USER, "max_tokens": 12, "temperature": 1.0}
    answer = real.chat.completions.create(**given, n=3, seed=7)
    alone = [real.chat.completions.create(**given, seed=7 + i) for i in range(3)]
    assert [c.message.content for c in answer.choices] == [one.choices[0].message.content for one in alone]
    assert answer.usage is not None
    assert alone[0].usage is not None
    assert answer.usage.prompt_tokens == alone[0].usage.prompt_tokens


def test_logit_bias(real: openai.OpenAI, live: Server) -> None:
    given: dict[str, Any] = {"model": "x", "messages": USER, "max_tokens": 4, "temperature": 0, "logprobs": True}
    free = real.chat.completions.create(**given).choices[0]
    assert free.logprobs is not None
    first = (free.logprobs.content or [])[0]
    token = (first.model_extra or {})["id"]
    banned = real.chat.completions.create(**given, logit_bias={str(token): -100}).choices[0]
    assert banned.logprobs is not None
    assert (banned.logprobs.content or [])[0].token != first.token
    dog = live.engine.tokenize(" dog", add_special=False)[-1]
    forced = real.chat.completions.create(**given, logit_bias={str(dog): 100}).choices[0]
    assert forced.message.content == live.engine.piece(dog).decode() * 4


def test_aborting_a_stream(real: openai.OpenAI, live: Server) -> None:
    before = live.metric("turbosparse:requests_cancelled_total")
    extra = {"ignore_eos": True}
    stream = real.chat.completions.create(model="x", messages=USER, stream=True, extra_body=extra)
    for i, _ in enumerate(stream):
        if i == 3:
            break
    stream.close()
    end = time.monotonic() + 2
    while any(slot.busy for slot in live.engine.slots()):
        assert time.monotonic() < end
        time.sleep(0.005)
    assert live.metric("turbosparse:requests_cancelled_total") == before + 1


def test_a_prompt_that_does_not_fit(real: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        real.chat.completions.create(model="x", messages=[{"role": "user", "content": "dog " * 2000}])
    body: Any = caught.value.body
    assert body["type"] == "exceed_context_size_error"
    assert body["n_prompt_tokens"] > body["n_ctx"] == 1024
