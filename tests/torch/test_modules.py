"""The modules against the numpy float64 oracle: both families, with and without mask."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from turbosparse.torch import Place, load
from turbosparse.torch.checkpoint import build
from turbosparse.torch.layers import Run

from tests.torch.common import WRITERS, logits, pair, tokens

pytestmark = pytest.mark.torch
FAMILIES = sorted(WRITERS)


class Recorder:
    wants_logits = True

    def __init__(self):
        self.masks, self.routes = {}, {}

    def ffn(self, place, act, logits):
        self.masks[place] = logits > 0

    def router(self, layer, probs, chosen):
        self.routes[layer] = probs, chosen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["dense", "predicted"])
@pytest.mark.parametrize("shape", [{}, {"n_ff": 320, "n_embd": 96}, {"wild_norms": True}, {"n_head_kv": 1}], ids=str)
def test_logits_equal_the_oracle(tmp_path, family, mode, shape):
    model, oracle = pair(tmp_path, family, **shape)
    prompt = tokens(33)
    expected = oracle.logits(prompt, mode)
    found = logits(model, prompt, dense=mode == "dense")
    assert np.abs(found - expected).max() <= 1e-9 * np.ptp(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mask_matters(tmp_path, family):
    """Guards the test above: with and without mask are different functions here."""
    model, _ = pair(tmp_path, family)
    prompt = tokens(17)
    dense, masked = logits(model, prompt, dense=True), logits(model, prompt, dense=False)
    assert np.abs(dense - masked).max() > 1e-3 * np.ptp(dense)


def test_mistral_masks_equal_the_oracle(tmp_path):
    model, oracle = pair(tmp_path, "mistral", wild_norms=True)
    prompt, seen = tokens(25), Recorder()
    model(torch.tensor([prompt]), Run(observer=seen))
    for il, mask in enumerate(oracle.masks(prompt)):
        assert np.array_equal(seen.masks[Place(il, 0)][0].numpy(), mask)
        assert 0 < mask.mean() < 1


def test_mixtral_masks_and_routes_equal_the_oracle(tmp_path):
    model, oracle = pair(tmp_path, "mixtral")
    prompt, seen = tokens(25), Recorder()
    model(torch.tensor([prompt]), Run(observer=seen))
    for il, trace in enumerate(oracle.run(prompt, "predicted").layers):
        probs, chosen = seen.routes[il]
        assert np.array_equal(chosen.numpy().reshape(-1), trace.expert)
        assert torch.allclose(probs.sum(-1), torch.ones(len(prompt), dtype=probs.dtype))
        assert {p.expert for p in seen.masks if p.layer == il} == set(trace.expert)
        for e in set(trace.expert):
            assert np.array_equal(seen.masks[Place(il, e)].numpy(), trace.mask[trace.expert == e])


@pytest.mark.parametrize(("family", "tap"), [("mistral", "residual"), ("mixtral", "x")])
def test_predictors_tap_their_familys_input(tmp_path, family, tap):
    """Mistral: the residual before the norm; Mixtral: the normalised input. The other one has no say."""
    model, _ = pair(tmp_path, family)
    torch.manual_seed(0)
    inputs = {"residual": torch.randn(1, 9, 64).double(), "x": torch.randn(1, 9, 64).double()}

    def masks(**changed):
        seen = Recorder()
        model.model.layers[0].feed_forward(**{**inputs, **changed}, run=Run(observer=seen))
        return {place: mask.tolist() for place, mask in seen.masks.items()}

    moved = {name for name in inputs if masks(**{name: -inputs[name]}) != masks()}
    assert moved == {tap}


def test_a_model_without_predictors_has_no_mask(tmp_path):
    model, oracle = pair(tmp_path, "mistral", with_predictor=False)
    prompt = tokens(9)
    assert np.array_equal(logits(model, prompt, dense=True), logits(model, prompt, dense=False))
    expected = oracle.logits(prompt)
    assert np.abs(logits(model, prompt, dense=False) - expected).max() <= 1e-9 * np.ptp(expected)


def test_the_sliding_window_hides_older_tokens(tmp_path):
    """With window w and one layer, the last logits depend on the last w tokens and on no older one."""
    WRITERS["mistral"](tmp_path, n_layer=1, sliding_window=8, ranks=(32,))
    model, prompt = load(tmp_path, torch.float64), tokens(20)
    reference = logits(model, prompt, dense=True)[-1]
    older, inside = list(prompt), list(prompt)
    older[11] += 1  # 8 before the last token: just outside
    inside[12] += 1
    assert np.array_equal(logits(model, older, dense=True)[-1], reference)
    assert not np.array_equal(logits(model, inside, dense=True)[-1], reference)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_causal(tmp_path, family):
    model, _ = pair(tmp_path, family)
    prompt = tokens(12)
    changed = [*prompt[:-1], prompt[-1] + 1]
    before, after = logits(model, prompt, dense=True), logits(model, changed, dense=True)
    assert np.abs(before - after)[:-1].max() < 1e-12 * np.ptp(before)
    assert np.abs(before - after)[-1].max() > 1e-3 * np.ptp(before)


def test_ranks_must_match_the_layers(tmp_path):
    model, _ = pair(tmp_path, "mistral")
    with pytest.raises(ValueError, match="expected 2 values"):
        build(model.config, [32])


def test_eps_counts(tmp_path):
    """RMSNorm adds eps to the mean square: on a near-zero stream it decides the result."""
    model, _ = pair(tmp_path, "mistral")
    norm = model.model.norm
    tiny_x = torch.full((1, 64), 1e-3, dtype=torch.float64)
    expected = norm.weight * tiny_x / (1e-6 + norm.eps) ** 0.5
    assert torch.allclose(norm(tiny_x), expected, rtol=1e-12)
    assert dataclasses.replace(model.config, rms_norm_eps=1e-6).rms_norm_eps != norm.eps
