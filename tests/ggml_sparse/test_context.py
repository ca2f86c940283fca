"""One sequence and its limits: overflow, sliding window, truncation, cancelling, state after errors."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from tests.conftest import Case
from tests.ggml_sparse.test_logits import assert_close, decode


def test_overflow_names_both_numbers_and_truncates_nothing(mistral: Case) -> None:
    import turbosparse

    tokens = mistral.tokens(40)
    with mistral.open(n_ctx=32, mode="exact") as model:
        n_ctx = model.n_ctx
        first = decode(model, tokens[:30])
        assert model.n_past == 30
        surplus = tokens[:1] * (n_ctx - 30 + 1)
        with pytest.raises(turbosparse.ContextOverflowError) as caught:
            model.eval(surplus)
        assert (caught.value.needed, caught.value.available) == (n_ctx + 1, n_ctx)
        assert str(n_ctx + 1) in str(caught.value)
        assert str(n_ctx) in str(caught.value)
        assert model.n_past == 30
        expected = mistral.run(tuple(tokens), "dense").logits
        assert_close(np.array([first, decode(model, tokens[30:31])]), expected[29:31])


def test_context_can_be_filled_to_the_last_token(mistral: Case) -> None:
    tokens = mistral.tokens(256)
    with mistral.open(n_ctx=256, mode="exact") as model:
        assert model.n_ctx == 256
        decode(model, tokens[:255])
        assert_close(decode(model, tokens[255:])[None], mistral.run(tuple(tokens), "dense").logits[255:])
        assert model.n_past == 256


@pytest.mark.parametrize("tokens", [[], [-1], [384], [2**31 - 1], [5, 400]])
def test_bad_tokens_are_refused(mistral: Case, tokens: list[int]) -> None:
    import turbosparse

    with mistral.open(n_ctx=32) as model:
        decode(model, [1, 5])
        with pytest.raises(turbosparse.ArgumentError):
            model.eval(tokens)
        assert model.n_past == 2


def test_sliding_window_is_refused_with_both_numbers(cases: Any) -> None:
    import turbosparse

    case = cases("mistral", sliding_window=64, n_ctx=512)
    with pytest.raises(turbosparse.UnsupportedModelError) as caught, case.open(n_ctx=128):
        pass
    assert "128" in str(caught.value)
    assert "64" in str(caught.value)
    assert "ignore" in str(caught.value), "says what to do"
    with case.open(n_ctx=64) as model:
        assert model.info.sliding_window == 64
        tokens = case.tokens(64)
        assert_close(model.logits(tokens, mode="exact"), case.run(tuple(tokens), "dense").logits)
    with case.open(n_ctx=128, ignore_swa=True) as model:
        assert model.n_ctx >= 128


def test_default_context_of_a_windowed_model_works(cases: Any) -> None:
    """Without n_ctx a user gets a context that fits the window, not an error about a number they never chose."""
    case = cases("mistral", sliding_window=64, n_ctx=512)
    with case.open() as model:
        assert model.n_ctx <= 64


def test_truncate_keeps_the_prefix(mistral: Case) -> None:
    tokens = mistral.tokens(24)
    other = mistral.tokens(24, seed=1)
    mixed = tuple(tokens[:10] + other[10:20])
    with mistral.open(n_ctx=64, mode="exact") as model:
        decode(model, tokens)
        model.truncate(10)
        assert model.n_past == 10
        rows = [decode(model, [t]) for t in other[10:20]]
    assert_close(np.array(rows), mistral.run(mixed, "dense").logits[10:])


def test_truncate_beyond_the_sequence_is_refused(mistral: Case) -> None:
    import turbosparse

    with mistral.open(n_ctx=64) as model:
        decode(model, mistral.tokens(5))
        for n in (6, -1):
            with pytest.raises(turbosparse.ArgumentError):
                model.truncate(n)
        assert model.n_past == 5


def test_reset_forgets_everything(mistral: Case) -> None:
    tokens = mistral.tokens(24)
    with mistral.open(n_ctx=64) as model:
        first = decode(model, tokens)
        model.reset()
        assert model.n_past == 0
        np.testing.assert_array_equal(decode(model, tokens), first)


def test_cancel_from_another_thread(cases: Any) -> None:
    """A long prompt is stopped well before its end; n_past counts whole batches; the context goes on."""
    import turbosparse

    case = cases("mistral", n_layer=4, n_embd=256, n_ff=1024, n_ctx=2048, seed=9, with_predictor=False)
    tokens = np.random.default_rng(0).integers(3, 360, 2000).tolist()
    with case.open(n_ctx=2048, n_batch=16, n_ubatch=16, n_threads=1, mode="reference") as model:
        cancelled_at = []

        def cancel() -> None:
            cancelled_at.append(time.monotonic())
            model.cancel()

        timer = threading.Timer(0.3, cancel)
        timer.start()
        with pytest.raises(turbosparse.CancelledError):
            model.eval(tokens)
        waited = time.monotonic() - cancelled_at[0]
        timer.join()
        assert waited < 2.0
        n_past = model.n_past
        assert n_past < 2000
        assert n_past % 16 == 0
        model.mode = "exact"
        after = decode(model, [7])
        assert model.n_past == n_past + 1
        model.reset()
        assert_close(after[None], np.array([decode(model, [*tokens[:n_past], 7])], np.float64))


def test_cancel_flag_stops_one_evaluation_only(mistral: Case) -> None:
    """The C call also stops the evaluation to come, once."""
    from turbosparse._native import ffi, lib

    tokens, error = ffi.new("int32_t[]", [1, 5, 9]), ffi.new("struct ggml_sparse_error *")
    with mistral.open(n_ctx=64) as model:
        context = model._context
        lib.ggml_sparse_context_cancel(context)
        assert lib.ggml_sparse_context_eval(context, tokens, 3, ffi.NULL, error) == lib.GGML_SPARSE_ERR_CANCELLED
        assert model.n_past == 0
        assert lib.ggml_sparse_context_eval(context, tokens, 3, ffi.NULL, error) == lib.GGML_SPARSE_OK
        assert model.n_past == 3


def test_closed_model_is_a_typed_error(mistral: Case) -> None:
    import turbosparse

    model = mistral.open(n_ctx=32)
    model.close()
    model.close()
    with pytest.raises(turbosparse.TurboSparseError):
        model.eval([1])


@pytest.mark.parametrize(
    "options",
    [{"n_ctx": -1}, {"n_threads": -1}, {"n_batch": -5}, {"kv_type": "q3_k"}, {"flash_attn": "maybe"}, {"isa": "mmx"}],
)
def test_bad_options_are_typed_errors(mistral: Case, options: dict[str, Any]) -> None:
    import turbosparse

    with pytest.raises(turbosparse.ArgumentError), mistral.open(**options):
        pass


def test_biases_without_an_array_are_refused(mistral: Case) -> None:
    from turbosparse import _native as native
    from turbosparse.errors import ArgumentError

    with mistral.open() as model:
        error, out = native.new_error(), native.ffi.new("struct ggml_sparse_sampler **")
        values = native.ffi.new("struct ggml_sparse_sampler_params *", native.lib.ggml_sparse_sampler_default_params())
        values.n_bias = 1
        with pytest.raises(ArgumentError, match="bias must not be NULL"):
            native.check(native.lib.ggml_sparse_sampler_create(model._model_handle, values, out, error), error)
