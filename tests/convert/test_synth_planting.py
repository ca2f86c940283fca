"""Planted sparsity: what a synthetic model states about itself is what a float64 forward pass measures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from turbosparse.convert.synth import write_checkpoint
from turbosparse.convert.synth_files import planted
from turbosparse.convert.synth_model import SynthModel
from turbosparse.convert.synth_planting import NOISE, SLACK, Planting, frequencies, top_share
from turbosparse.convert.synth_shapes import shape

from tests import oracle

POINT = 0.01
N_TOKENS = 240

SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {"n_layer": 1, "n_embd": 512},
    "four layers": {"n_layer": 4, "n_embd": 384, "n_ff": 1024},
    "deep": {"n_layer": 32, "n_embd": 256, "n_ff": 768, "n_head": 4, "ranks": (64, 96)},
    "experts": {"n_layer": 3, "n_embd": 256, "n_ff": 768, "n_head": 4, "n_expert": 4, "ranks": (64, 96)},
    "odd": {"n_layer": 2, "n_embd": 320, "n_ff": 1000, "n_head": 5, "n_head_kv": 1, "ranks": (48,), "active": 0.2},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Measured:
    """One model, and what the oracle saw of it: `dense` and `predicted` over the same tokens."""

    model: SynthModel
    oracle: oracle.Oracle
    tokens: list[int]
    dense: oracle.Run
    predicted: oracle.Run


def active(layer: oracle.LayerTrace) -> NDArray[np.bool_]:
    """Which products of relu(gate) and relu(up) are not zero, mask or not: [n_col, n_ff]."""
    return (layer.gate > 0) & (layer.up > 0)


@pytest.fixture(scope="module", params=SHAPES)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    model = SynthModel(shape("custom", **SHAPES[request.param]), seed=7)
    path = tmp_path_factory.mktemp("synth") / "hf"
    write_checkpoint(model, path)
    forward = oracle.Oracle.from_hf(path)
    tokens = [1, *np.random.default_rng(3).integers(3, model.shape.n_piece, N_TOKENS - 1).tolist()]
    return Measured(model, forward, tokens, forward.run(tokens), forward.run(tokens, "predicted"))


def test_sparsity_is_within_a_point_in_every_layer(measured: Measured) -> None:
    for il, layer in enumerate(measured.dense.layers):
        assert active(layer).mean() == pytest.approx(measured.model.shape.active, abs=POINT), f"layer {il}"


def test_branches_are_positive_as_often_as_stated(measured: Measured) -> None:
    """gate alone is positive more often than gate and up together, so that which branch goes first matters."""
    stated = planted(measured.model)
    for layer in measured.dense.layers:
        gate, up, both = ((layer.gate > 0).mean(), (layer.up > 0).mean(), active(layer).mean())
        assert gate == pytest.approx(stated["gate_positive"], abs=1.5 * POINT)
        assert up == pytest.approx(stated["up_positive"], abs=1.5 * POINT)
        assert gate > up > both


def test_early_and_late_positions_agree(measured: Measured) -> None:
    """Attention averages over ever more tokens; the planted shares must not drift with the position."""
    per_token = len(measured.dense.layers[0].expert) // N_TOKENS
    for span in (slice(0, 60 * per_token), slice(-60 * per_token, None)):
        shares = [active(layer)[span].mean() for layer in measured.dense.layers]
        assert np.mean(shares) == pytest.approx(measured.model.shape.active, abs=POINT), span


def test_predictor_selects_what_is_stated(measured: Measured) -> None:
    stated = planted(measured.model)
    hits = truths = 0
    for layer in measured.predicted.layers:
        assert layer.mask.mean() == pytest.approx(stated["selected"], abs=1.5 * POINT)
        hits, truths = hits + (active(layer) & layer.mask).sum(), truths + active(layer).sum()
    assert hits / truths == pytest.approx(stated["recall"], abs=POINT)


def test_predictor_is_neither_perfect_nor_idle(measured: Measured) -> None:
    for layer in measured.predicted.layers:
        assert (active(layer) & ~layer.mask).any(), "no active neuron is missed: a dropped mask would go unnoticed"
        assert (layer.mask & ~active(layer)).any()


def test_frequencies_follow_a_power_law_in_random_order(measured: Measured) -> None:
    model = measured.model
    for il, layer in enumerate(measured.dense.layers):
        for e in range(max(model.shape.n_expert, 1)):
            seen, stated = active(layer)[layer.expert == e].mean(axis=0), model.frequency(il, e)
            assert np.corrcoef(seen, stated)[0, 1] > 0.94
            hottest = np.argsort(-stated)[: len(stated) // 5]
            assert seen[hottest].sum() / seen.sum() == pytest.approx(top_share(stated), abs=0.06)
            assert abs(np.corrcoef(np.arange(len(stated)), stated)[0, 1]) < 0.15, "neurons are stored by frequency"


def test_masks_differ_from_token_to_token(measured: Measured) -> None:
    if measured.model.shape.n_expert:
        return  # columns of one expert are not consecutive tokens
    for layer in measured.dense.layers:
        a = active(layer)
        overlap = (a[1:] & a[:-1]).sum() / a[1:].sum()
        assert 0.1 < overlap < 0.6


def test_sparsity_holds_on_generated_tokens(measured: Measured) -> None:
    n = 32 if measured.model.shape.n_layer < 8 else 12
    prompt = measured.tokens[:4]
    tokens = measured.oracle.greedy(prompt, n)
    assert len(set(tokens)) > n // 3, "the model repeats itself"
    assert all(259 <= token < measured.model.shape.n_piece for token in tokens), "a token without text"
    layers = measured.oracle.run([*prompt, *tokens]).layers
    shares = [active(layer).mean() for layer in layers]
    assert np.mean(shares) == pytest.approx(measured.model.shape.active, abs=POINT)
    assert np.max(np.abs(np.array(shares) - measured.model.shape.active)) < 2 * POINT


def test_layers_matter(measured: Measured) -> None:
    """The FFNs move the logits, or no test on this model could notice a wrong one."""
    forward, tokens = measured.oracle, measured.tokens[:32]
    text = slice(259, measured.model.shape.n_piece)
    full = measured.dense.logits[:32, text]
    down = [n for n in forward._cache if n.endswith(("down_proj.weight", "w2.weight"))]
    kept = {name: forward._cache[name] for name in down}
    forward._cache.update({name: np.zeros_like(w) for name, w in kept.items()})
    try:
        without = forward.logits(tokens)[:, text]
    finally:
        forward._cache.update(kept)
    assert np.std(full - without) > 0.05 * np.std(full)


@pytest.mark.parametrize("recall", [0.9, 0.99])
def test_recall_is_a_parameter(recall: float, tmp_path: Path) -> None:
    model = SynthModel(shape("custom", n_layer=2), recall=recall)
    write_checkpoint(model, tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "synth.json").read_text())["recall"] == recall
    tokens = np.random.default_rng(0).integers(3, model.shape.n_piece, 120).tolist()
    layers = oracle.Oracle.from_hf(tmp_path / "hf").run(tokens, "predicted").layers
    found = sum((active(layer) & layer.mask).sum() for layer in layers) / sum(active(layer).sum() for layer in layers)
    assert found == pytest.approx(recall, abs=POINT)


# --- the law itself -----------------------------------------------------------


@pytest.mark.parametrize("mean", [0.02, 0.1, 0.15, 0.4])
def test_frequencies_have_the_mean_and_fall(mean: float) -> None:
    freq = frequencies(14336, mean)
    assert freq.mean() == pytest.approx(mean, rel=1e-6)
    assert np.all(np.diff(freq) <= 0)
    assert 0 < freq[-1] < mean < freq[0] <= 0.9


def test_planting_agrees_with_a_simulation() -> None:
    """Quadrature against 2 million draws of the model in synth_planting's docstring."""
    planting = Planting(n_ff=2000, active=0.1, recall=0.97)
    rng = np.random.default_rng(0)
    t = planting.threshold[rng.integers(0, 2000, 2_000_000)]
    s, n, n2 = rng.standard_normal((3, t.size))
    signal = np.sqrt(1 - NOISE**2) * s
    gate, up = signal + NOISE * n > t - SLACK, signal + NOISE * n2 > t
    chosen = signal > t - planting.margin
    both = gate & up
    assert both.mean() == pytest.approx(planting.active, abs=0.001)
    assert gate.mean() == pytest.approx(planting.gate_positive, abs=0.001)
    assert up.mean() == pytest.approx(planting.up_positive, abs=0.001)
    assert chosen.mean() == pytest.approx(planting.selected, abs=0.001)
    assert (both & chosen).sum() / both.sum() == pytest.approx(planting.recall, abs=0.003)
