"""Counters against the oracle's per-token masks: which neurons ran, in which layer, for which token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import ggufedit
from tests.conftest import Case
from tests.ggml_sparse.test_logits import assert_close, decode
from tests.oracle import LayerTrace

FAMILIES = ["mistral", "mistral_hot", "mixtral"]


def counted(case: Case, n: int = 24) -> list[int]:
    """Tokens none of whose branches is so close to zero that float32 could count it differently."""
    for seed in range(100):
        tokens = case.tokens(n, seed)
        if min(case.run(tuple(tokens), mode).margin() for mode in ("predicted", "dense")) > 1e-6:
            return tokens
    raise AssertionError("no tokens with a margin")


def first_branch(case: Case, il: int) -> int:
    return int(ggufedit.GgufEdit(case.gguf).key("turbosparse.ffn.first_branch").value[il])


def numbers(stats: Any) -> dict[str, int]:
    names = ("n_neuron", "n_selected", "n_active", "rows_gate", "rows_up", "rows_down")
    return {name: int(getattr(stats, name)) for name in names}


def expected_numbers(trace: LayerTrace, branch: int) -> dict[str, int]:
    counts = {"n_neuron": trace.mask.size, "n_selected": trace.n_selected, "n_active": trace.n_active}
    return counts | trace.rows(branch)


@pytest.mark.parametrize(("mode", "oracle_mode"), [("predicted", "predicted"), ("exact", "dense")])
@pytest.mark.parametrize("family", FAMILIES)
def test_counters_of_a_batch_equal_the_oracles(
    request: pytest.FixtureRequest, family: str, mode: str, oracle_mode: str
) -> None:
    case: Case = request.getfixturevalue(family)
    tokens = counted(case)
    run = case.run(tuple(tokens), oracle_mode)
    with case.open(n_ctx=64) as model:
        model.logits(tokens, mode=mode)
        found = [numbers(s) for s in model.layer_stats()]
    assert found == [expected_numbers(t, first_branch(case, il)) for il, t in enumerate(run.layers)]


@pytest.mark.parametrize("family", FAMILIES)
def test_counters_token_by_token(request: pytest.FixtureRequest, family: str) -> None:
    """A mask belongs to its token: decode step i selects exactly the neurons of the oracle's row i."""
    case: Case = request.getfixturevalue(family)
    tokens = counted(case)
    run = case.run(tuple(tokens), "predicted")
    with case.open(n_ctx=64, mode="predicted") as model:
        for i, token in enumerate(tokens):
            decode(model, [token])
            for stats, trace in zip(model.layer_stats(), run.layers, strict=True):
                rows = slice(i * len(trace.mask) // len(tokens), (i + 1) * len(trace.mask) // len(tokens))
                assert stats.n_selected == trace.mask[rows].sum()
                assert stats.n_active == np.count_nonzero(trace.hidden[rows])


def test_dense_computes_every_row(mistral: Case) -> None:
    tokens = counted(mistral)
    run = mistral.run(tuple(tokens), "dense")
    with mistral.open(n_ctx=64) as model:
        model.logits(tokens, mode="dense")
        for stats, trace in zip(model.layer_stats(), run.layers, strict=True):
            size = trace.mask.size
            assert numbers(stats) == {
                "n_neuron": size, "n_selected": size, "n_active": trace.n_active,
                "rows_gate": size, "rows_up": size, "rows_down": size,
            }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_profile_counts_each_stored_neuron(request: pytest.FixtureRequest, family: str) -> None:
    """Stored row i is the checkpoint's neuron perm[i]: its count is that neuron's in the oracle's dense run."""
    case: Case = request.getfixturevalue(family)
    tokens = counted(case)
    file = ggufedit.GgufEdit(case.gguf)
    names = {t.name for t in file.tensors}
    with case.open(n_ctx=64, mode="exact") as model:
        profile = model.profile(tokens)
    for il, trace in enumerate(case.run(tuple(tokens), "dense").layers):
        counts, columns = (np.asarray(a) for a in profile[il])
        n_set, n_ff = counts.reshape(-1, trace.mask.shape[1]).shape
        perm = np.tile(np.arange(n_ff), (n_set, 1))
        if f"blk.{il}.ffn_neuron_perm" in names:
            perm = file.array(f"blk.{il}.ffn_neuron_perm").reshape(n_set, n_ff)
        for e in range(n_set):
            active = trace.hidden[trace.expert == e] != 0
            assert np.ravel(columns)[e] == len(active)
            np.testing.assert_array_equal(counts.reshape(n_set, n_ff)[e], active.sum(0)[perm[e]])


def test_hot_first_files_really_are_permuted(mistral_hot: Case, mixtral: Case) -> None:
    """Otherwise the permutation tests prove nothing."""
    for case in (mistral_hot, mixtral):
        perm = ggufedit.GgufEdit(case.gguf).array("blk.1.ffn_neuron_perm")
        assert (perm != np.arange(perm.shape[-1])).mean() > 0.9


def test_logits_exactly_at_the_threshold_are_not_computed(cases: Any) -> None:
    """logit > threshold, strictly: 16 neurons whose fc2 row is zero have logit 0 and never run in predicted mode."""
    case = cases("mistral", zero_rows=tuple(range(16)), hot=True)
    tokens = counted(case)
    run = case.run(tuple(tokens), "predicted")
    assert all(not t.mask[:, :16].any() and ((t.gate > 0) & (t.up > 0))[:, :16].any() for t in run.layers)
    with case.open(n_ctx=64) as model:
        for mode in ("predicted", "reference"):
            assert_close(model.logits(tokens, mode=mode), run.logits)
            assert [s.n_selected for s in model.layer_stats()] == [t.n_selected for t in run.layers]


def test_last_neuron_counts(cases: Any) -> None:
    """The last stored row is computed: alone in passing the predictor, it alone makes the FFN's output."""
    case = cases("mistral", n_ff=33, zero_rows=tuple(range(32)), sparsity=0.3, ranks=(32,), seed=5)
    tokens = counted(case)
    run = case.run(tuple(tokens), "predicted")
    assert run.layers[0].mask[:, 32].any()
    assert not run.layers[0].mask[:, :32].any()
    with case.open(n_ctx=64) as model:
        assert_close(model.logits(tokens, mode="predicted"), run.logits)
        assert [s.n_active for s in model.layer_stats()] == [t.n_active for t in run.layers]


@pytest.mark.parametrize("ranks", [(32, 0), (0, 48)])
@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_layers_without_predictor_run_exactly(cases: Any, family: str, ranks: tuple[int, ...]) -> None:
    """A predictor in one layer only: the other selects every neuron and reads no predictor byte."""
    case = cases(family, ranks=ranks, hot=True)
    tokens = case.tokens(24)
    run = case.run(tuple(tokens), "predicted")
    assert [bool(t.mask.all()) for t in run.layers] == [r == 0 for r in ranks]
    with case.open(n_ctx=64) as model:
        assert model.mode == "predicted"
        assert [la.rank for la in model.layers] == list(ranks)
        for mode in ("predicted", "reference"):
            assert_close(model.logits(tokens, mode=mode), run.logits)
            assert [s.n_selected for s in model.layer_stats()] == [t.n_selected for t in run.layers]
            assert [s.bytes_predictor > 0 for s in model.layer_stats()] == [r > 0 for r in ranks]


@pytest.mark.parametrize("threshold", [-0.2, 0.1, 0.5])
def test_other_thresholds(cases: Any, tmp_path: Any, threshold: float) -> None:
    """A post-norm file (one tap, no 1/rms) with thresholds written into it, one per layer."""
    case = cases("mixtral", hot=True)
    file = ggufedit.GgufEdit(case.gguf)
    file.key("turbosparse.predictor.threshold").value = [threshold] * case.oracle.n_layer
    edited = Case(case.hf, file.write(tmp_path / "t.gguf"))
    tokens = case.tokens(24)
    run = case.oracle.run(tokens, "predicted", threshold)
    gap = min(float(np.abs(t.logit - threshold).min()) for t in run.layers)
    assert gap > 1e-6, "pick another seed"
    with edited.open(n_ctx=64) as model:
        assert_close(model.logits(tokens, mode="predicted"), run.logits)
        assert [s.n_selected for s in model.layer_stats()] == [t.n_selected for t in run.layers]


def test_stats_records_add_up(mixtral: Case) -> None:
    """One record per batch, totals = sum over layers, numbered without gaps, drained once."""
    tokens = mixtral.tokens(12)
    with mixtral.open(n_ctx=64, mode="predicted") as model:
        model.stats()
        for token in tokens:
            decode(model, [token])
        layers = [numbers(s) for s in model.layer_stats()]
        records = model.stats()
        assert model.stats() == []
    assert [r.n_tokens for r in records] == [1] * len(tokens)
    assert np.diff([r.i_eval for r in records]).tolist() == [1] * (len(tokens) - 1)
    assert numbers(records[-1].total) == {name: sum(la[name] for la in layers) for name in layers[0]}
    assert all(r.mode == "predicted" and r.ns_total > 0 for r in records)
