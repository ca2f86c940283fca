"""The public Model: text in, text out; cancelling; vectors; conversations."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import turbosparse
from turbosparse import (
    ArgumentError,
    CancelToken,
    ContextOverflowError,
    FileError,
    Model,
    ModelFormatError,
    SamplingParams,
    UnknownArgumentError,
    UnsupportedModelError,
)
from turbosparse.generate import generate

from tests import ggufedit
from tests.conftest import Case

GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def talker(micro: Path) -> Iterator[Model]:
    with Model(micro, n_ctx=512, n_threads=1) as model:
        yield model


# --- text ------------------------------------------------------------------------------


def test_methods_are_the_functions(model: Model) -> None:
    assert isinstance(model, turbosparse.model.Model)
    result = model.generate("ab", max_tokens=5, **GREEDY)
    assert result.tokens == generate(model, "ab", max_tokens=5, **GREEDY).tokens
    stream = model.stream("ab", SamplingParams(temperature=0.0, ignore_eos=True), max_tokens=5)
    assert [chunk.token_id for chunk in stream][:-1] == result.tokens
    assert stream.result().tokens == result.tokens
    assert str(result) == result.text


def test_chat_is_the_template(model: Model) -> None:
    prompt = turbosparse.generate.encode(model, HELLO)
    assert model.chat(HELLO, max_tokens=3, **GREEDY).prompt_tokens == prompt
    assert model.chat(HELLO, max_tokens=3, **GREEDY).tokens == model.generate(prompt, max_tokens=3, **GREEDY).tokens
    tools = [{"type": "function", "function": {"name": "f"}}]
    shown = model.chat(HELLO, tools=tools, template="{{ tools | tojson }}", max_tokens=0)
    assert json.loads(model.detokenize(shown.prompt_tokens[1:])) == tools


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}}},
        {"type": "json_object", "schema": {"enum": ["yes", "no"]}},
    ],
)
def test_response_format(talker: Model, response_format: dict[str, Any]) -> None:
    assert talker.chat(HELLO, response_format=response_format, max_tokens=8).text in ('"yes"', '"no"')


@pytest.mark.parametrize("response_format", [{"type": "xml"}, {}, {"type": "json_schema"}])
def test_response_formats_are_checked(model: Model, response_format: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError) as caught:
        model.chat(HELLO, response_format=response_format)
    assert caught.value.where == "response_format"


def test_plain_text_and_one_grammar(model: Model) -> None:
    assert model.chat(HELLO, response_format={"type": "text"}, max_tokens=1).prompt_tokens
    with pytest.raises(ArgumentError, match="not both"):
        model.chat(HELLO, response_format={"type": "json_object"}, grammar='root ::= "a"')


def test_unknown_names_are_told_with_the_nearest(model: Model) -> None:
    with pytest.raises(UnknownArgumentError, match="did you mean temperature") as caught:
        model.generate("a", temprature=1)
    assert caught.value.where == "temprature"
    assert isinstance(caught.value, TypeError)
    with pytest.raises(TypeError):
        Model("x.gguf", nctx=3)


def test_two_streams_at_once_are_refused(model: Model) -> None:
    """One sequence: interleaving them would give wrong text."""
    first = model.stream("ab", max_tokens=8, **GREEDY)
    next(first)
    second = model.stream("cd", max_tokens=8, **GREEDY)
    next(second)
    with pytest.raises(ArgumentError, match="another generation"):
        next(first)
    assert second.result().tokens == model.generate("cd", max_tokens=8, **GREEDY).tokens


def test_two_threads_are_refused(cases: Any) -> None:
    """One of them works, the other is told; nothing crashes, and the model is usable afterwards."""
    case = cases("mistral", n_layer=4, n_embd=256, n_ff=1024, n_ctx=2048, seed=9, with_predictor=False)
    with case.open(n_ctx=2048, n_batch=16, n_ubatch=16, mode="reference") as model:
        found: list[Any] = []
        prompt = np.random.default_rng(0).integers(3, 360, 2000).tolist()
        thread = threading.Thread(target=lambda: found.append(model.generate(prompt)))
        thread.start()
        while not model.canceller._evaluating:
            time.sleep(0.001)
        for forbidden in (lambda: model.eval([1]), model.reset, lambda: model.generate("ab"), lambda: model.embed("a")):
            with pytest.raises(ArgumentError, match="another thread"):
                forbidden()
        model.cancel()
        thread.join()
        assert found[0].finish_reason == "cancelled"
        model.mode = "exact"
        assert model.generate("ab", max_tokens=2, **GREEDY).tokens


def test_vectors_end_a_stream_too(model: Model) -> None:
    stream = model.stream("ab", max_tokens=8, **GREEDY)
    next(stream)
    model.embed("x")
    with pytest.raises(ArgumentError, match="another generation"):
        next(stream)


def test_close_gives_up(model: Model) -> None:
    stream = model.stream("ab", max_tokens=8, **GREEDY)
    next(stream)
    stream.close()
    result = stream.result()
    assert result.finish_reason == "cancelled"
    assert len(result.tokens) == 1
    done = model.stream("ab", max_tokens=2, **GREEDY)
    assert done.result().finish_reason == "length"
    done.close()
    assert done.result().finish_reason == "length"


def test_vram_is_no_promise(mistral: Case) -> None:
    for vram in (None, 0):
        Model(mistral.gguf, n_ctx=16, n_threads=1, vram=vram).close()
    with pytest.raises(UnsupportedModelError, match="CPU only") as caught:
        Model(mistral.gguf, vram=1 << 30)
    assert caught.value.where == "vram"


def test_repr(model: Model) -> None:
    model.eval([1, 5])
    assert "2/256 tokens" in repr(model)
    assert model.path.name in repr(model)
    model.close()
    assert "closed" in repr(model)


# --- probabilities -----------------------------------------------------------------------


def test_logprobs_are_the_models(model: Model) -> None:
    result = model.generate("ab", max_tokens=4, logprobs=3, seed=5, ignore_eos=True)
    assert [entry.token_id for entry in result.logprobs] == result.tokens
    logits = model.logits([*result.prompt_tokens, *result.tokens])[len(result.prompt_tokens) - 1 : -1].astype(float)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for entry, row in zip(result.logprobs, logprobs, strict=True):
        assert entry.logprob == pytest.approx(row[entry.token_id], abs=1e-4)
        assert [a.token_id for a in entry.top] == np.argsort(-row, kind="stable")[:3].tolist()
        assert entry.token == model.piece(entry.token_id, special=True)
    json.dumps(result.as_dict()["sparsity"])


def test_logprobs_cost_nothing_unasked(model: Model) -> None:
    assert model.generate("ab", max_tokens=2).logprobs == ()
    assert model.generate("ab", max_tokens=1, logprobs=0, ignore_eos=True).logprobs[0].top == ()


# --- cancelling --------------------------------------------------------------------------


def test_a_token_cancelled_before_stops_at_once(model: Model) -> None:
    token = CancelToken()
    token.cancel()
    result = model.generate("ab", max_tokens=50, cancel=token, **GREEDY)
    assert (result.finish_reason, result.tokens) == ("cancelled", [])
    assert "cancelled" in repr(token)


def test_a_token_stops_its_own_generation_only(model: Model) -> None:
    token = CancelToken()
    stream = model.stream("ab", max_tokens=50, cancel=token, **GREEDY)
    next(stream)
    token.cancel()
    assert [chunk.finish_reason for chunk in stream][-1] == "cancelled"
    token.cancel()
    assert model.generate("ab", max_tokens=3, **GREEDY).finish_reason == "length"


def test_a_token_from_another_thread_stops_a_prompt(cases: Any) -> None:
    case = cases("mistral", n_layer=4, n_embd=256, n_ff=1024, n_ctx=2048, seed=9, with_predictor=False)
    with case.open(n_ctx=2048, n_batch=16, n_ubatch=16, mode="reference") as model:
        token = CancelToken()
        timer = threading.Timer(0.3, token.cancel)
        timer.start()
        result = model.generate(np.random.default_rng(0).integers(3, 360, 2000).tolist(), cancel=token)
        timer.join()
        assert result.finish_reason == "cancelled"
        assert result.timings.predicted_n == 0


# --- vectors -----------------------------------------------------------------------------


def test_hidden_states_times_the_head_are_the_logits(cases: Any) -> None:
    case = cases("mistral")
    tokens = case.tokens(24)
    head = ggufedit.GgufEdit(case.gguf).array("output.weight")
    with case.open(n_ctx=64, n_batch=10) as model:
        states = model.hidden_states(tokens)
        assert states.shape == (24, model.info.n_embd)
        assert model.n_past == 0
        np.testing.assert_allclose(states @ head.T, model.logits(tokens), atol=2e-3)
        model.reset()
        after = model.eval(tokens)
        np.testing.assert_allclose(after, states[-1] @ head.T, atol=2e-3)


def test_embed(model: Model) -> None:
    one = model.embed("abc")
    assert one.shape == (model.info.n_embd,)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    two = model.embed(["abc", "", "zyx"], normalize=False)
    states = model.hidden_states(model.tokenize("abc"))
    np.testing.assert_allclose(two[0], states.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.embed("abc", pooling="last", normalize=False), states[-1])
    assert not np.allclose(two[0], two[2])
    assert model.embed([]).shape == (0, model.info.n_embd)
    with pytest.raises(ArgumentError, match="pooling"):
        model.embed("a", pooling="max")  # type: ignore[call-overload]
    with pytest.raises(ContextOverflowError):
        model.embed("x y " * 300)
    assert model.generate("ab", max_tokens=2, **GREEDY).tokens


def test_likeness(talker: Model) -> None:
    a, b, c = talker.embed(["She was very happy.", "She was so happy.", "The Congress of the United States"])
    assert a @ b > a @ c


# --- conversations -----------------------------------------------------------------------


def test_a_conversation_remembers_and_evaluates_only_what_is_new(talker: Model) -> None:
    talk = talker.conversation(system="Be brief.", params=SamplingParams(temperature=0.0, max_tokens=6))
    first = talk.ask("Hello!")
    second = talk.ask("And you?")
    assert [m["role"] for m in talk.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert talk.messages[2]["content"] == first.text
    assert second.timings.cache_n >= len(first.prompt_tokens) - 4
    assert second is talk.last
    assert talker.conversation().system is None
    assert "5 messages" in repr(talk)


def test_a_stopped_answer_is_kept_as_far_as_it_came(talker: Model) -> None:
    talk = talker.conversation(params=SamplingParams(temperature=0.0, ignore_eos=True))
    shown = ""
    for chunk in talk.stream("Hello!"):
        shown += chunk.text
        if len(shown) > 5:
            break
    del chunk
    import gc

    gc.collect()
    assert talk.messages[-1]["content"].startswith(shown)
    assert talk.last is not None
    assert talk.last.finish_reason == "cancelled"


def test_a_question_that_cannot_be_asked_is_not_kept(model: Model) -> None:
    talk = model.conversation()
    with pytest.raises(ContextOverflowError):
        talk.ask("too long " * 200)
    assert talk.messages == []
    talk.ask("short", max_tokens=2)
    assert len(talk.messages) == 2


def test_undo_and_reset(model: Model) -> None:
    talk = model.conversation(system="s")
    assert talk.undo() is None
    talk.ask("one", max_tokens=1)
    talk.ask("two", max_tokens=1)
    assert talk.undo() == "two"
    assert [m["content"] for m in talk.messages][:2] == ["s", "one"]
    talk.reset()
    assert talk.messages == [{"role": "system", "content": "s"}]
    talk.system = None
    assert talk.messages == []


def test_save_and_load(model: Model, tmp_path: Path) -> None:
    talk = model.conversation(system="naïve")
    talk.ask("one", max_tokens=2)
    talk.save(tmp_path / "talk.json")
    other = model.conversation()
    other.load(tmp_path / "talk.json")
    assert other.messages == talk.messages
    with pytest.raises(FileError):
        other.load(tmp_path / "absent.json")
    with pytest.raises(FileError):
        other.save(tmp_path / "absent" / "talk.json")
    for broken in ("{", "3", '{"messages": [{"role": "nobody", "content": "x"}]}', '{"messages": [1]}', "\udcff"):
        (tmp_path / "broken.json").write_bytes(broken.encode("utf-8", "surrogateescape"))
        with pytest.raises(ModelFormatError, match=r"broken\.json"):
            other.load(tmp_path / "broken.json")
    assert other.messages == talk.messages


def test_names_are_listed() -> None:
    assert set(turbosparse.__all__) <= set(dir(turbosparse))
    for name in turbosparse.__all__:
        assert getattr(turbosparse, name) is not None
