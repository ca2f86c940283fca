"""Model: what the file says, text to tokens and back, one sequence, counters, life."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turbosparse import (
    ArgumentError,
    ContextOverflowError,
    FileError,
    Model,
    ModelFormatError,
    UnsupportedModelError,
    stream,
)

from tests.conftest import Case

PROMPT = "The quick brown fox"


# --- the file ----------------------------------------------------------------


def test_info(model: Model) -> None:
    info = model.info
    assert (info.n_layer, info.n_embd, info.n_ff, info.n_head, info.n_head_kv) == (2, 64, 160, 4, 2)
    assert (info.activation, info.default_mode, info.base_architecture) == ("drelu", "predicted", "llama")
    assert (info.n_expert, info.branches, info.n_neuron) == (0, 3, 320)
    assert info.bytes_ffn == 2 * 3 * 160 * 64 * 4
    assert info.bytes_file == model.path.stat().st_size
    assert info.ffn_bytes_read_at_load == 0


def test_layers(model: Model) -> None:
    assert [layer.rank for layer in model.layers] == [32, 48]
    assert {layer.type_gate for layer in model.layers} == {"f32"}
    assert {layer.first_branch for layer in model.layers} <= {"gate", "up"}
    assert all(layer.threshold == 0 for layer in model.layers)


def test_meta(model: Model) -> None:
    assert model.meta("general.architecture") == "turbosparse"
    assert model.meta("turbosparse.block_count") == "2"
    assert model.meta("no.such.key") is None


def test_default_context(mistral: Case, tmp_path: Path) -> None:
    with Model(mistral.gguf) as model:
        assert model.n_ctx == min(4096, model.info.n_ctx_train)
        assert model.mode == model.info.default_mode
    with Model(mistral.gguf, n_ctx=0) as model:
        assert model.n_ctx == model.info.n_ctx_train


def test_default_context_keeps_to_the_sliding_window(cases: Any) -> None:
    path = cases("mistral", sliding_window=48).gguf
    with Model(path) as model:
        assert model.n_ctx == model.info.sliding_window == 48
    with pytest.raises(UnsupportedModelError) as caught:
        Model(path, n_ctx=64)
    assert "48" in str(caught.value)
    assert "64" in str(caught.value)
    with Model(path, n_ctx=64, ignore_swa=True) as model:
        assert model.n_ctx == 64


# --- what is refused -----------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.gguf") as caught:
        Model(tmp_path / "none.gguf")
    assert caught.value.exit_code == 4


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(bytes(range(256)) * 64)
    with pytest.raises(ModelFormatError, match=r"noise\.gguf"):
        Model(path)


@pytest.mark.parametrize(
    ("option", "value"), [("mode", "fast"), ("kv_type", "q4_0"), ("flash_attn", "yes"), ("isa", "sse")]
)
def test_choices_are_listed(mistral: Case, option: str, value: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        Model(mistral.gguf, **{option: value})  # type: ignore[arg-type]
    assert (caught.value.where, caught.value.found) == (option, value)
    assert caught.value.expected in str(caught.value)


def test_predicted_needs_a_predictor(reglu: Case) -> None:
    with pytest.raises(UnsupportedModelError, match="predicted"):
        Model(reglu.gguf, mode="predicted")
    with Model(reglu.gguf) as model:
        assert model.mode == "exact"
        with pytest.raises(UnsupportedModelError):
            model.mode = "predicted"
        assert model.mode == "exact"


@pytest.mark.parametrize("tokens", [[], [1.5], [-1], [10**6], [[1, 2]], ["a"], [2**40]])
def test_tokens_are_checked(model: Model, tokens: Any) -> None:
    with pytest.raises(ArgumentError, match="tokens must"):
        model.eval(tokens)
    assert model.n_past == 0


# --- text ------------------------------------------------------------------------


def test_tokenize_adds_bos_where_the_file_says_so(model: Model) -> None:
    tokens = model.tokenize(PROMPT)
    assert model.info.add_bos
    assert tokens[0] == model.info.token_bos
    assert model.tokenize(PROMPT, add_special=False) == tokens[1:]


@pytest.mark.parametrize("text", [PROMPT, "two  spaces", " led", "caf\u00e9 \U0001f642 \u20ac", "line\nbreak\t.", ""])
def test_text_comes_back(model: Model, text: str) -> None:
    assert model.detokenize(model.tokenize(text)) == text


def test_control_tokens_are_read_only_on_request(model: Model) -> None:
    plain = model.tokenize("<|im_end|>", add_special=False)
    special = model.tokenize("<|im_end|>", add_special=False, parse_special=True)
    assert len(plain) > 1
    assert special[-1] == model.info.token_eot
    assert model.is_end(special[-1])
    assert not model.is_end(plain[0])
    assert model.piece(special[-1]) == b""
    assert model.piece(special[-1], special=True) == b"<|im_end|>"


def test_long_text(model: Model) -> None:
    text = PROMPT * 500
    assert model.detokenize(model.tokenize(text)) == text


# --- the sequence -----------------------------------------------------------------


def test_logits_start_afresh(model: Model) -> None:
    tokens = model.tokenize(PROMPT)
    first = model.logits(tokens)
    assert first.dtype == np.float32
    assert first.shape == (len(tokens), model.info.n_vocab)
    model.eval([5, 6])
    np.testing.assert_array_equal(model.logits(tokens), first)
    assert model.tokens == tokens


def test_logits_in_another_mode_leave_the_mode(model: Model) -> None:
    tokens = model.tokenize(PROMPT)
    model.mode = "predicted"
    dense = model.logits(tokens, mode="dense")
    assert model.mode == "predicted"
    assert (dense != model.logits(tokens)).any()
    with pytest.raises(ArgumentError):
        model.logits(tokens, mode="none")
    assert model.mode == "predicted"


def test_eval_appends_and_returns_the_last_logits(model: Model) -> None:
    tokens = model.tokenize(PROMPT)
    last = model.eval(tokens[:4])
    np.testing.assert_array_equal(last, model.last_logits())
    model.eval(np.array(tokens[4:]))
    assert model.n_past == len(tokens)
    assert model.tokens == tokens
    expected = model.logits(tokens)
    np.testing.assert_allclose(last, expected[3], rtol=0, atol=1e-4 * np.ptp(expected))


def test_truncate(model: Model) -> None:
    tokens = model.tokenize(PROMPT)
    expected = model.eval(tokens)
    model.truncate(3)
    assert model.tokens == tokens[:3]
    with pytest.raises(ArgumentError, match="before the first"):
        model.last_logits()
    np.testing.assert_allclose(model.eval(tokens[3:]), expected, rtol=0, atol=1e-4 * np.ptp(expected))
    with pytest.raises(ArgumentError):
        model.truncate(len(tokens) + 1)


def test_nothing_is_truncated_silently(model: Model) -> None:
    model.eval([1] * 250)
    with pytest.raises(ContextOverflowError) as caught:
        model.eval([1] * 7)
    assert (caught.value.needed, caught.value.available) == (257, 256)
    assert (model.n_past, len(model.tokens)) == (250, 250)
    model.eval([1] * 6)


def test_threads_can_be_set(model: Model) -> None:
    model.set_threads(1)
    one = model.logits([1, 2, 3])
    model.set_threads(2)
    np.testing.assert_array_equal(model.logits([1, 2, 3]), one)
    with pytest.raises(ArgumentError):
        model.set_threads(-1)


# --- counters ----------------------------------------------------------------------


def test_stats_are_drained(model: Model) -> None:
    model.eval([1, 2, 3])
    model.eval([4])
    records = model.stats()
    assert [record.n_tokens for record in records] == [3, 1]
    assert records[1].i_eval == records[0].i_eval + 1
    assert records[0].mode == model.mode
    assert model.stats() == []


def test_more_records_than_one_read_takes(model: Model) -> None:
    for token in range(70):
        model.eval([token])
    assert len(model.stats()) == 70


def test_layer_stats_sum_to_the_record(model: Model) -> None:
    model.eval([1, 2, 3])
    layers, total = model.layer_stats(), model.stats()[-1].total
    assert len(layers) == 2
    for name in ("n_neuron", "n_selected", "n_active", "bytes_ffn", "bytes_predictor", "rows"):
        assert sum(getattr(layer, name) for layer in layers) == getattr(total, name)


def test_profile_counts_are_those_of_the_records(model: Model) -> None:
    """600 tokens: windows of the 256 that the context holds; the library's last layer may skip columns."""
    model.stats()
    profile = model.profile([3 + i % 300 for i in range(600)])
    active = sum(record.total.n_active for record in model.stats())
    assert sum(int(layer.counts.sum()) for layer in profile) == active > 0
    assert profile[0].counts.shape == (1, 160)
    assert profile[0].columns.tolist() == [600]
    assert all((layer.counts <= layer.columns[:, None]).all() for layer in profile)


# --- life ---------------------------------------------------------------------------


def test_a_closed_model_says_so(mistral: Case) -> None:
    with Model(mistral.gguf, n_ctx=16) as model:
        pass
    model.close()
    for use in (lambda: model.eval([1]), lambda: model.n_past, lambda: model.tokenize("a"), model.stats):
        with pytest.raises(ArgumentError, match="closed"):
            use()


def test_the_last_reference_frees_it(mistral: Case) -> None:
    """Without waiting for the cycle collector: models are large."""
    model = Model(mistral.gguf, n_ctx=16)
    model.eval([1, 2])
    alive = weakref.ref(model)
    del model
    assert alive() is None


def test_a_stream_may_outlive_its_model(mistral: Case) -> None:
    with mistral.open(n_ctx=32) as model:
        chunks = stream(model, PROMPT, temperature=0, grammar='root ::= "a"*')
        next(chunks)
    with pytest.raises(ArgumentError, match="closed"):
        next(chunks)


def test_two_models_at_once(mistral: Case, mixtral: Case) -> None:
    tokens = [1, 20, 30, 40]
    with mistral.open(n_ctx=32) as one:
        alone = one.logits(tokens)
    with mistral.open(n_ctx=32) as one, mixtral.open(n_ctx=32) as two, mistral.open(n_ctx=32, mode="dense") as three:
        two.eval(tokens)
        three.eval(tokens)
        np.testing.assert_array_equal(one.logits(tokens), alone)


def test_it_is_exported_lazily() -> None:
    import turbosparse

    assert turbosparse.Model is Model
    with pytest.raises(AttributeError, match="no_such_name"):
        turbosparse.no_such_name  # noqa: B018
