"""The modes among themselves: `exact` is `dense` bit for bit, modes switch at run time, defaults come from the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from turbosparse import ops

from tests.conftest import Case
from tests.ggml_sparse.test_logits import MODES, assert_close, decode

FAMILIES = ["mistral", "mistral_hot", "mixtral", "reglu"]


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_equals_dense_bitwise(request: pytest.FixtureRequest, family: str) -> None:
    """In prefill and, above all, in decode: skipped neurons would have added exact zeros."""
    case: Case = request.getfixturevalue(family)
    tokens = case.tokens(40)
    rows = {}
    for mode in ("dense", "exact"):
        with case.open(n_ctx=64, mode=mode) as model:
            rows[mode] = np.vstack([model.logits(tokens[:20]), *(decode(model, [t]) for t in tokens[20:])])
    np.testing.assert_array_equal(rows["exact"], rows["dense"])


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("outtype", ["f32", "f16", "q8_0", "q4_0"])
def test_exact_equals_dense_on_every_instruction_set(cases: Any, outtype: str, isa: str) -> None:
    case = cases("mistral", outtype, hot=True)
    tokens = case.tokens(12)
    with case.open(n_ctx=64, isa=isa) as model:
        np.testing.assert_array_equal(model.logits(tokens, mode="exact"), model.logits(tokens, mode="dense"))


@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_modes_switch_at_run_time(request: pytest.FixtureRequest, family: str) -> None:
    """One context, four modes, back and forth: each gives what a fresh context gives."""
    case: Case = request.getfixturevalue(family)
    tokens = case.tokens(24)
    alone = {}
    for mode in MODES:
        with case.open(n_ctx=64, mode=mode) as model:
            alone[mode] = model.logits(tokens)
    with case.open(n_ctx=64) as model:
        for mode in ("predicted", "dense", "reference", "exact", "predicted", "reference", "dense"):
            np.testing.assert_array_equal(model.logits(tokens, mode=mode), alone[mode], err_msg=mode)


@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_mode_can_change_within_a_sequence(request: pytest.FixtureRequest, family: str) -> None:
    """Dense prompt, predicted answer: from the switch on, tokens use the new mode, earlier ones are not recomputed."""
    case: Case = request.getfixturevalue(family)
    tokens = case.tokens(24)
    dense = case.run(tuple(tokens), "dense").logits
    with case.open(n_ctx=64, mode="dense") as model:
        before = decode(model, tokens[:20])
        model.mode = "predicted"
        assert model.mode == "predicted"
        after = decode(model, tokens[20:21])
        model.mode = "dense"
    assert_close(before[None], dense[19:20])
    assert np.abs(after - dense[20]).max() > 1e-3 * np.ptp(dense), "the mask had no effect"


def test_predicted_differs_from_dense(mistral: Case, mixtral: Case) -> None:
    for case in (mistral, mixtral):
        tokens = case.tokens(24)
        with case.open(n_ctx=64) as model:
            gap = np.abs(model.logits(tokens, mode="predicted") - model.logits(tokens, mode="dense")).max()
        assert gap > 1e-2 * np.ptp(case.run(tuple(tokens), "dense").logits)


def test_default_mode_is_the_files(mistral: Case, mixtral: Case, reglu: Case) -> None:
    for case, expected in ((mistral, "predicted"), (mixtral, "predicted"), (reglu, "exact")):
        with case.open(n_ctx=64) as model:
            assert model.mode == model.info.default_mode == expected
            tokens = case.tokens(12)
            np.testing.assert_array_equal(model.logits(tokens), model.logits(tokens, mode=expected))


def test_unknown_mode_is_a_typed_error(mistral: Case) -> None:
    import turbosparse

    with pytest.raises(turbosparse.ArgumentError) as caught, mistral.open(mode="fast"):
        pass
    assert "fast" in str(caught.value)


def test_hot_first_order_changes_nothing_but_rounding(mistral: Case, mistral_hot: Case) -> None:
    tokens = mistral.tokens(40)
    with mistral.open(n_ctx=64) as plain, mistral_hot.open(n_ctx=64) as hot:
        assert hot.info.hot_first
        assert not plain.info.hot_first
        for mode in ("dense", "exact", "predicted"):
            a, b = plain.logits(tokens, mode=mode), hot.logits(tokens, mode=mode)
            assert_close(b, a.astype(np.float64), tolerance=1e-5)
