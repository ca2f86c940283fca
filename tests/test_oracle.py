"""The oracle against a second formulation that shares nothing with it: loops over scalars, one layer, pure Python."""

from __future__ import annotations

import cmath
import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests import oracle, tiny

SMALL = {"n_layer": 1, "n_embd": 16, "n_ff": 24, "n_head": 4, "n_head_kv": 2, "n_vocab": 384, "ranks": (8,)}
TOKENS = [1, 17, 42, 42, 7, 300]


def _dot(a, b):
    return math.fsum(float(p) * float(q) for p, q in zip(a, b, strict=True))


def _matvec(w, x):
    return [_dot(row, x) for row in w]


def _norm(h, w, eps=1e-5):
    rms = math.sqrt(_dot(h, h) / len(h) + eps)
    return [float(a) / rms * float(b) for a, b in zip(h, w, strict=True)]


def _turn(vector, position, theta):
    """RoPE by complex numbers: pair i is (v[i], v[i + d/2])."""
    half = len(vector) // 2
    z = [complex(vector[i], vector[i + half]) for i in range(half)]
    z = [a * cmath.exp(1j * position * theta ** (-i / half)) for i, a in enumerate(z)]
    return [a.real for a in z] + [a.imag for a in z]


def _heads(flat, n, d, position=None, theta=0.0):
    heads = [flat[i * d : (i + 1) * d] for i in range(n)]
    return heads if position is None else [_turn(h, position, theta) for h in heads]


def _neuron_ffn(w, names, x, tap, masked):
    gate, up, down = (w[n] for n in names[:3])
    r = [max(v, 0.0) for v in _matvec(w[names[3]], tap)] if masked else []
    y = [0.0] * len(x)
    for j in range(len(gate)):
        if masked and not _dot(w[names[4]][j], r) > 0.0:
            continue
        product = max(_dot(gate[j], x), 0.0) * max(_dot(up[j], x), 0.0)
        for i in range(len(y)):
            y[i] += product * float(down[i][j])
    return y


def _moe(w, x, masked, k=2):
    base = "model.layers.0.block_sparse_moe."
    score = [math.exp(v) for v in _matvec(w[base + "gate.weight"], x)]
    best = sorted(range(len(score)), key=lambda e: -score[e])[:k]
    y = [0.0] * len(x)
    for e in best:
        names = [f"{base}experts.{e}.{n}.weight" for n in ("w1", "w3", "w2", "predictor.fc1", "predictor.fc2")]
        share = score[e] / math.fsum(score[b] for b in best)
        y = [a + share * b for a, b in zip(y, _neuron_ffn(w, names, x, x, masked), strict=True)]
    return y


def _loops(w, config, tokens, masked):
    """Logits of a one-layer model, token by token with a growing list of keys and values."""
    n_head, n_kv, theta = config["num_attention_heads"], config["num_key_value_heads"], config["rope_theta"]
    d = config["hidden_size"] // n_head
    keys, values, logits = [], [], []
    attn, mlp = "model.layers.0.self_attn.", "model.layers.0.mlp."
    for position, token in enumerate(tokens):
        h = [float(v) for v in w["model.embed_tokens.weight"][token]]
        x = _norm(h, w["model.layers.0.input_layernorm.weight"])
        q = _heads(_matvec(w[attn + "q_proj.weight"], x), n_head, d, position, theta)
        keys.append(_heads(_matvec(w[attn + "k_proj.weight"], x), n_kv, d, position, theta))
        values.append(_heads(_matvec(w[attn + "v_proj.weight"], x), n_kv, d))
        mixed = []
        for head in range(n_head):
            kv = head // (n_head // n_kv)
            e = [math.exp(_dot(q[head], key[kv]) / math.sqrt(d)) for key in keys]
            mixed += [math.fsum(e[t] * values[t][kv][i] for t in range(len(e))) / math.fsum(e) for i in range(d)]
        h = [a + b for a, b in zip(h, _matvec(w[attn + "o_proj.weight"], mixed), strict=True)]
        x = _norm(h, w["model.layers.0.post_attention_layernorm.weight"])
        if "num_local_experts" in config:
            y = _moe(w, x, masked)
        else:
            names = [
                f"{mlp}{n}.weight" for n in ("gate_proj", "up_proj", "down_proj", "predictor.fc1", "predictor.fc2")
            ]
            y = _neuron_ffn(w, names, x, h, masked)
        h = _norm([a + b for a, b in zip(h, y, strict=True)], w["model.norm.weight"])
        logits.append(_matvec(w["lm_head.weight"], h))
    return np.array(logits)


@pytest.mark.parametrize("wild", [False, True], ids=["plain", "wild_norms"])
@pytest.mark.parametrize("family", ["mistral", "mixtral"])
@pytest.mark.parametrize("mode", ["dense", "predicted"])
def test_oracle_equals_scalar_loops(tmp_path: Path, family: str, mode: str, wild: bool) -> None:
    n_expert = 4 if family == "mixtral" else 0
    getattr(tiny, f"write_{family}")(tmp_path, seed=3, wild_norms=wild, **SMALL)
    shape = tiny.Shape(**SMALL, n_expert=n_expert, seed=3, wild_norms=wild)
    expected = _loops(tiny.tensors(shape), json.loads((tmp_path / "config.json").read_text()), TOKENS, mode != "dense")
    found = oracle.Oracle.from_hf(tmp_path).logits(TOKENS, mode)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.ptp(expected))


@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_tiny_checkpoints_are_sparse_and_their_predictors_imperfect(tmp_path: Path, family: str) -> None:
    getattr(tiny, f"write_{family}")(tmp_path, sparsity=0.85)
    model = oracle.Oracle.from_hf(tmp_path)
    tokens = np.random.default_rng(0).integers(3, 360, 40).tolist()
    dense, predicted = model.run(tokens), model.run(tokens, "predicted")
    for full, masked in zip(dense.layers, predicted.layers, strict=True):
        assert 0.5 < np.mean(full.hidden == 0) < 0.95
        truth = (masked.gate > 0) & (masked.up > 0)
        recall = (truth & masked.mask).sum() / truth.sum()
        assert 0.5 < recall < 1.0
        assert masked.n_active < masked.n_selected < 0.8 * masked.mask.size
    difference = np.abs(dense.logits - predicted.logits).max() / np.ptp(dense.logits)
    assert difference > 1e-2, "a dropped mask must be visible"


def test_bf16_checkpoint_holds_rounded_weights(tmp_path: Path) -> None:
    tiny.write_mistral(tmp_path / "a", dtype="bf16", n_shards=1, **SMALL)
    tiny.write_mistral(tmp_path / "b", dtype="f32", n_shards=3, **SMALL)
    name = "model.layers.0.mlp.gate_proj.weight"
    rounded, full = (oracle.WeightFile(tmp_path / d)[name] for d in "ab")
    assert 0 < np.abs(rounded / full - 1).max() <= 2**-8
    assert np.all(rounded.astype(np.float32).view(np.uint32) & 0xFFFF == 0)


def test_exact_zero_logits_stay_unselected(tmp_path: Path) -> None:
    tiny.write_mistral(tmp_path, zero_rows=tuple(range(12)), **SMALL)
    layer = oracle.Oracle.from_hf(tmp_path).run(TOKENS, "predicted").layers[0]
    assert not layer.mask[:, :12].any()
    assert layer.mask[:, 12:].any()
    assert ((layer.gate > 0) & (layer.up > 0))[:, :12].any(), "a threshold of >= must change the output"


def test_reglu_keeps_negative_up(tmp_path: Path) -> None:
    tiny.write_reglu(tmp_path, n_layer=1)
    layer = oracle.Oracle.from_hf(tmp_path).run(TOKENS).layers[0]
    assert (layer.hidden < 0).any()
    assert (layer.gate >= 0).all()


def test_oracle_refuses_silu(tmp_path: Path) -> None:
    tiny.write_reglu(tmp_path, n_layer=1, hidden_act="silu")
    with pytest.raises(ValueError, match="silu"):
        oracle.Oracle.from_hf(tmp_path)
