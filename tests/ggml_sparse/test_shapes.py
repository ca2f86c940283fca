"""Shapes that are no multiple of anything convenient, and RMSNorm weights that are negative or tiny."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ggml_sparse.test_logits import MODES, assert_close

SHAPES: dict[str, dict[str, Any]] = {
    "n_ff 320": {"n_ff": 320},
    "multiples of 256, other placeholders in the view": {"n_embd": 256, "n_ff": 512, "n_layer": 1},
    "n_embd 96": {"n_embd": 96, "n_ff": 320},
    "n_ff 15, below a piece": {"n_ff": 15},
    "n_ff 16, one piece": {"n_ff": 16},
    "n_ff 257, prime": {"n_ff": 257},
    "n_ff 1000": {"n_ff": 1000, "n_layer": 1},
    "n_embd 40": {"n_embd": 40, "n_head": 2, "n_head_kv": 1},
    "ranks 32, 48, 7": {"n_layer": 3, "ranks": (32, 48, 7)},
    "rank above n_embd": {"ranks": (96,)},
    "one layer": {"n_layer": 1},
    "no GQA": {"n_head": 4, "n_head_kv": 4},
    "one KV head": {"n_head": 8, "n_head_kv": 1},
    "negative and tiny norms": {"wild_norms": True, "seed": 2},
    "wild norms, odd shape": {"wild_norms": True, "n_embd": 96, "n_ff": 320, "n_layer": 3, "seed": 4},
    "nearly dense": {"sparsity": 0.3},
    "very sparse": {"sparsity": 0.97},
}


@pytest.mark.parametrize("hot", [False, True], ids=["original", "hot_first"])
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_layout(cases: Any, shape: str, hot: bool) -> None:
    case = cases("mistral", hot=hot, **SHAPES[shape])
    tokens = case.tokens(20)
    with case.open(n_ctx=64) as model:
        for mode, reference in MODES.items():
            assert_close(model.logits(tokens, mode=mode), case.run(tuple(tokens), reference).logits)


@pytest.mark.parametrize(
    "shape", [name for name in SHAPES if name.startswith(("n_ff 320", "n_embd 96", "n_ff 15", "multiples", "negative"))]
)
def test_moe_layout(cases: Any, shape: str) -> None:
    case = cases("mixtral", hot=True, **SHAPES[shape])
    tokens = case.tokens(20)
    with case.open(n_ctx=64) as model:
        for mode, reference in MODES.items():
            assert_close(model.logits(tokens, mode=mode), case.run(tuple(tokens), reference).logits)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("mistral", {"rms_norm_eps": 0.25}),
        ("mixtral", {"rms_norm_eps": 1e-6, "rope_theta": 500.0}),
        ("reglu", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
        ("reglu", {"rope_scaling": {"rope_type": "linear", "factor": 2.5}}),
    ],
)
def test_hyperparameters_arrive(cases: Any, family: str, config: dict[str, Any]) -> None:
    """Values unlike any default: one that is dropped on the way shows in the logits."""
    case, plain = cases(family, config=config), cases(family)
    tokens = case.tokens(40)
    expected = case.run(tuple(tokens), "dense").logits
    assert np.abs(expected - plain.run(tuple(tokens), "dense").logits).max() > 1e-2 * np.ptp(expected)
    with case.open(n_ctx=64) as model:
        assert_close(model.logits(tokens, mode="exact"), expected)


def test_negative_norms_flip_masks_unless_undone(cases: Any) -> None:
    """The wild case has teeth: reading x instead of x / w would select other neurons."""
    case = cases("mistral", **SHAPES["negative and tiny norms"])
    run = case.run(tuple(case.tokens(20)), "predicted")
    norm = case.oracle.weight("model.layers.0.post_attention_layernorm.weight")
    assert (norm < 0).sum() > 8
    assert (abs(norm) < 1e-3).sum() > 4
    assert 0.1 < run.layers[0].mask.mean() < 0.9
