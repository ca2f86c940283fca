"""round(sigmoid(logit)) with a straight-through gradient."""

from __future__ import annotations

import pytest
import torch
from turbosparse.torch.layers import Run, straight_through

from tests.torch.common import pair, tokens

pytestmark = pytest.mark.torch
EDGES = [-50.0, -1e-30, -0.0, 0.0, 1e-30, 0.3, 50.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_values_are_exactly_zero_or_one(dtype):
    logits = torch.tensor(EDGES, dtype=dtype)
    expected = torch.tensor([0, 0, 0, 0, 1, 1, 1], dtype=dtype)
    assert torch.equal(straight_through(logits), expected)
    assert torch.equal(straight_through(logits.requires_grad_()).detach(), expected)


def test_agrees_with_torch_round_of_the_sigmoid():
    logits = torch.linspace(-3, 3, 601, dtype=torch.float64)  # holds 0: round(0.5) is 0
    assert torch.equal(straight_through(logits), torch.round(torch.sigmoid(logits)))


def test_gradient_is_the_sigmoids():
    logits = torch.tensor(EDGES, dtype=torch.float64, requires_grad=True)
    straight_through(logits).sum().backward()
    soft = torch.sigmoid(logits.detach())
    assert torch.allclose(logits.grad, soft * (1 - soft), rtol=1e-12)


@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_the_loss_reaches_predictors_through_the_mask_only(tmp_path, family):
    model, _ = pair(tmp_path, family)
    x = torch.tensor([tokens(16)])
    masked, dense = (gradients(model, x, run) for run in (Run(), Run(dense=True)))
    assert masked
    assert not any(dense.values())
    assert all(value > 0 for value in masked.values())


def gradients(model, x, run):
    """Largest gradient per predictor matrix that was used."""
    model.zero_grad(set_to_none=True)
    model(x, run).square().mean().backward()
    named = {n: p.grad for n, p in model.named_parameters() if "predictor" in n}
    return {n: float(g.abs().max()) for n, g in named.items() if g is not None}


def test_a_predictors_gradient_equals_finite_differences_of_the_soft_mask():
    """For y = sum(straight_through(l) * a), dy/dl = sigmoid'(l) * a."""
    torch.manual_seed(0)
    logits = torch.randn(40, dtype=torch.float64, requires_grad=True)
    act = torch.rand(40, dtype=torch.float64)
    (straight_through(logits) * act).sum().backward()
    step = 1e-6
    soft = (torch.sigmoid(logits + step) - torch.sigmoid(logits - step)) / (2 * step)
    assert torch.allclose(logits.grad, (soft * act).detach(), rtol=1e-6)
