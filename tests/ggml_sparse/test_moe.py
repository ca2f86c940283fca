"""Mixtral: routing, per-expert predictors, experts that nobody chose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import ggufedit, tiny
from tests.conftest import Case
from tests.ggml_sparse.test_logits import assert_close
from tests.ggml_sparse.test_masks import counted, numbers


@pytest.mark.parametrize(("n_expert", "n_expert_used"), [(4, 1), (4, 2), (4, 4), (8, 2), (5, 3)])
def test_expert_counts(cases: Any, n_expert: int, n_expert_used: int) -> None:
    case = cases("mixtral", n_expert=n_expert, n_expert_used=n_expert_used, hot=True)
    tokens = case.tokens(24)
    with case.open(n_ctx=64) as model:
        assert (model.info.n_expert, model.info.n_expert_used) == (n_expert, n_expert_used)
        for mode, reference in (("exact", "dense"), ("predicted", "predicted")):
            assert_close(model.logits(tokens, mode=mode), case.run(tuple(tokens), reference).logits)
            assert [s.n_neuron for s in model.layer_stats()] == [24 * n_expert_used * model.info.n_ff] * 2


def test_every_expert_is_used_by_some_token(mixtral: Case) -> None:
    """Else the tests above would not see an expert mixed up; columns in the profile equal the oracle's routing."""
    tokens = mixtral.tokens(40)
    run = mixtral.run(tuple(tokens), "dense")
    with mixtral.open(n_ctx=64, mode="exact") as model:
        profile = model.profile(tokens)
    for trace, (_, columns) in zip(run.layers, profile, strict=True):
        expected = np.bincount(trace.expert, minlength=4)
        assert (expected > 0).all()
        np.testing.assert_array_equal(np.ravel(columns), expected)


def test_swapped_experts_are_noticed(mixtral: Case, tmp_path: Any) -> None:
    """Exchanging two experts' gate rows in the file changes the logits: experts are not interchangeable."""
    file = ggufedit.GgufEdit(mixtral.gguf)
    gate = file.array("blk.0.ffn_gate_exps.weight").reshape(4, -1)
    file.set_array("blk.0.ffn_gate_exps.weight", gate[[1, 0, 2, 3]])
    tokens = mixtral.tokens(24)
    with Case(mixtral.hf, file.write(tmp_path / "swapped.gguf")).open(n_ctx=64) as model:
        error = np.abs(model.logits(tokens, mode="exact") - mixtral.run(tuple(tokens), "dense").logits).max()
    assert error > 1e-2


def test_one_expert_of_one_is_the_dense_ffn(cases: Any) -> None:
    """A single expert always has weight 1."""
    case = cases("mixtral", n_expert=1, n_expert_used=1)
    tokens = counted(case)
    run = case.run(tuple(tokens), "predicted")
    with case.open(n_ctx=64) as model:
        assert_close(model.logits(tokens, mode="predicted"), run.logits)
        assert [numbers(s)["n_selected"] for s in model.layer_stats()] == [t.n_selected for t in run.layers]


@pytest.mark.parametrize("model_type", tiny.MIXTRAL_TYPES)
def test_historical_names(cases: Any, model_type: str) -> None:
    case = cases("mixtral", model_type=model_type, n_layer=1)
    tokens = case.tokens(12)
    with case.open(n_ctx=64) as model:
        assert_close(model.logits(tokens, mode="predicted"), case.run(tuple(tokens), "predicted").logits)


@pytest.mark.parametrize("n_ubatch", [1, 3, 16, 512])
def test_routing_does_not_depend_on_the_batch(mixtral: Case, n_ubatch: int) -> None:
    tokens = mixtral.tokens(40)
    with mixtral.open(n_ctx=64, n_batch=max(n_ubatch, 16), n_ubatch=n_ubatch) as model:
        assert_close(model.logits(tokens, mode="predicted"), mixtral.run(tuple(tokens), "predicted").logits)
