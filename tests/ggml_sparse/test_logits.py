"""Whole-model logits against the float64 oracle: F32 file, F32 KV, flash attention off.

The requirement is a max abs error <= 1e-4 x (max - min) of the oracle's logits; what is measured is 3e-7 (one F32
rounding per operation), so the bound here is a tenth of what is required.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from turbosparse import ops

from tests.conftest import Case

TOLERANCE = 1e-5  # of the logit range
MODES = {"dense": "dense", "exact": "dense", "predicted": "predicted", "reference": "predicted"}  # engine -> oracle
PAIRS = [
    (family, mode)
    for family in ("mistral", "mistral_hot", "mixtral", "reglu")
    for mode in MODES
    if (family, mode) != ("reglu", "predicted")
]


def oracle_mode(case: Case, mode: str) -> str:
    return MODES[mode] if case.oracle.has_predictor else "dense"


def assert_close(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], tolerance: float = TOLERANCE) -> None:
    """Largest error relative to the range of the expected logits, with the place of the worst in the message."""
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    error = np.abs(found - expected) / np.ptp(expected)
    worst = np.unravel_index(np.argmax(error), error.shape)
    assert error[worst] <= tolerance, f"error {error[worst]:.2e} of the range at (token, id) {tuple(map(int, worst))}"


@pytest.mark.parametrize(("family", "mode"), PAIRS)
def test_prefill(request: pytest.FixtureRequest, family: str, mode: str) -> None:
    case: Case = request.getfixturevalue(family)
    tokens = case.tokens(40)
    with case.open(n_ctx=64) as model:
        found = model.logits(tokens, mode=mode)
    assert found.dtype == np.float32
    assert_close(found, case.run(tuple(tokens), oracle_mode(case, mode)).logits)


@pytest.mark.parametrize(("family", "mode"), PAIRS)
def test_decode_after_prefill(request: pytest.FixtureRequest, family: str, mode: str) -> None:
    """7 tokens in one batch, then one at a time."""
    case: Case = request.getfixturevalue(family)
    tokens = case.tokens(40)
    expected = case.run(tuple(tokens), oracle_mode(case, mode)).logits
    with case.open(n_ctx=64, mode=mode) as model:
        rows = [decode(model, tokens[:7])] + [decode(model, [t]) for t in tokens[7:]]
    assert_close(np.array(rows), expected[6:])


def decode(model: Any, tokens: list[int]) -> np.ndarray[Any, Any]:
    """Append tokens; the last one's logits, [n_vocab]."""
    model.eval(tokens)
    logits: np.ndarray[Any, Any] = model.last_logits()
    return logits


@pytest.mark.parametrize(("n_batch", "n_ubatch"), [(1, 1), (2, 2), (17, 17), (512, 512), (512, 17), (512, 128)])
@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_batch_sizes(request: pytest.FixtureRequest, family: str, n_batch: int, n_ubatch: int) -> None:
    """530 tokens: every size is cut by the end of the prompt, 512 once."""
    case: Case = request.getfixturevalue(family)
    tokens = case.tokens(530)
    for mode in ("exact", "predicted"):
        with case.open(n_ctx=1024, n_batch=n_batch, n_ubatch=n_ubatch) as model:
            found = model.logits(tokens, mode=mode)
        assert_close(found, case.run(tuple(tokens), oracle_mode(case, mode)).logits)


@pytest.mark.parametrize("mode", ["dense", "exact", "predicted"])
@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_one_batch_equals_token_by_token(request: pytest.FixtureRequest, family: str, mode: str) -> None:
    """Flash attention off: the FFN gives the same bits, libllama's attention may sum in another order."""
    case: Case = request.getfixturevalue(family)
    tokens = case.tokens(40)
    with case.open(n_ctx=64, mode=mode) as model:
        together = model.logits(tokens)
        model.reset()
        alone = np.array([decode(model, [t]) for t in tokens])
    assert_close(together, alone.astype(np.float64), tolerance=1e-5)


def test_two_layers_of_depth_are_really_two(mistral: Case) -> None:
    """The oracle's own sensitivity: without the second layer's FFN the bound would be broken a hundredfold."""
    tokens = mistral.tokens(40)
    run = mistral.run(tuple(tokens), "dense")
    ffn = mistral.oracle.ffn(1)
    contribution = run.layers[1].hidden @ ffn.down.T
    assert np.abs(contribution).max() > 0.1


def test_f16_kv_and_flash_attention_stay_near(mistral: Case) -> None:
    """The defaults users run with: F16 rounding of K and V, nothing worse."""
    tokens = mistral.tokens(40)
    expected = mistral.run(tuple(tokens), "dense").logits
    for options in ({"kv_type": "f16"}, {"kv_type": "f16", "flash_attn": "on"}, {"flash_attn": "auto"}):
        with mistral.open(n_ctx=64, **options) as model:
            assert_close(model.logits(tokens, mode="exact"), expected, tolerance=5e-3)


def test_quantised_kv(cases: Any) -> None:
    """q8_0 KV (head size 32, a whole block) with flash attention."""
    case = cases("mistral", n_embd=128)
    tokens = case.tokens(40)
    with case.open(n_ctx=64, kv_type="q8_0", flash_attn="on") as model:
        found = model.logits(tokens, mode="exact")
    assert_close(found, case.run(tuple(tokens), "dense").logits, tolerance=5e-2)


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_every_instruction_set(request: pytest.FixtureRequest, family: str, isa: str) -> None:
    case: Case = request.getfixturevalue(family)
    tokens = case.tokens(24)
    with case.open(n_ctx=64, isa=isa) as model:
        for mode in ("exact", "predicted"):
            assert_close(model.logits(tokens, mode=mode), case.run(tuple(tokens), oracle_mode(case, mode)).logits)


@pytest.mark.parametrize(("family", "dtype"), [("mistral", "bf16"), ("mixtral", "bf16"), ("mistral", "f16")])
def test_sixteen_bit_checkpoints_as_f32_files(cases: Any, family: str, dtype: str) -> None:
    """The published checkpoints are bf16; widening to F32 is exact."""
    case = cases(family, dtype=dtype)
    tokens = case.tokens(24)
    with case.open(n_ctx=64) as model:
        for mode in ("exact", "predicted"):
            assert_close(model.logits(tokens, mode=mode), case.run(tuple(tokens), MODES[mode]).logits)


def test_tied_head(cases: Any) -> None:
    case = cases("mistral", tied=True)
    tokens = case.tokens(24)
    with case.open(n_ctx=64) as model:
        assert_close(model.logits(tokens, mode="exact"), case.run(tuple(tokens), "dense").logits)


def test_layers_without_predictor_run_exactly(cases: Any) -> None:
    """Bamboo-base: dReLU without any predictor; default mode is exact and "predicted" is refused by name."""
    import turbosparse

    case = cases("mistral", with_predictor=False)
    tokens = case.tokens(24)
    with case.open(n_ctx=64) as model:
        assert model.mode == "exact"
        assert_close(model.logits(tokens), case.run(tuple(tokens), "dense").logits)
        with pytest.raises(turbosparse.UnsupportedModelError):
            model.logits(tokens, mode="predicted")
