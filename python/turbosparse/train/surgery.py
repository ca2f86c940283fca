"""SwiGLU to dReLU without training: which sign each (up, down) pair should have before half of it is cut off."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from turbosparse.torch.checkpoint import build
from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run, drelu, swiglu
from turbosparse.train.walk import walk

TEACHER = Run(dense=True, activation=swiglu)


def canonicalise_signs(model: CausalLM, batches: list[Tensor]) -> list[int]:
    """Flips (up_j, down_j) to (-up_j, -down_j) where that keeps more of the activation's energy; flips per layer.

    silu(g) * u * d is the same after a flip, so the model as a teacher is unchanged. relu(u) keeps only one side of u:
    the flip is made where sum over tokens of (relu(g) * relu(-u))^2 exceeds that of (relu(g) * relu(u))^2.
    `batches` are int64 [B, T] calibration tokens, on the model's device.
    """
    gains: list[Any] = [0.0] * model.config.num_hidden_layers
    with torch.no_grad():
        for tokens in batches:
            for i, place in enumerate(walk(model, tokens, TEACHER)):
                mlp: Any = place.layer.mlp
                up = mlp.up_proj(place.x)
                energy = torch.relu(mlp.gate_proj(place.x)).square() * up.square() * up.sign()
                gains[i] = gains[i] + energy.flatten(0, 1).double().sum(0)
        return [_flip(layer.mlp, gain < 0) for layer, gain in zip(model.model.layers, gains, strict=True)]


def _flip(mlp: Any, which: Tensor) -> int:
    sign = torch.where(which, -1.0, 1.0).to(mlp.up_proj.weight)
    mlp.up_proj.weight.mul_(sign[:, None])
    mlp.down_proj.weight.mul_(sign[None, :])
    return int(which.sum())


def fresh_predictors(model: CausalLM, ranks: list[int]) -> CausalLM:
    """A copy with new predictors of these ranks (0: none) in place of any it has, sized for inputs of unit RMS."""
    out = build(model.config, ranks)
    out.load_state_dict({k: t for k, t in model.state_dict().items() if ".predictor." not in k}, strict=False)
    for name, weight in out.named_parameters():
        if ".predictor." in name:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return out


def token_error(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean over tokens of |made - wanted|^2 / (|wanted|^2 + median |wanted|^2); both [B, T, E], a scalar.

    A few tokens have outputs of ten to a thousand times the usual size: in a plain mean they would be all that counts,
    divided by their own size alone the tiny ones would be.
    """
    size = wanted.float().square().sum(-1)
    error = (made.float() - wanted.float()).square().sum(-1)
    return (error / (size + size.median() + 1e-12)).mean()


def swap_errors(model: CausalLM, batches: list[Tensor]) -> tuple[list[float], list[float]]:
    """Per layer, on the teacher's own inputs: token_error of dReLU in SwiGLU's place, and dReLU's zero rate."""
    errors = torch.zeros(model.config.num_hidden_layers)
    zeros = torch.zeros(model.config.num_hidden_layers)
    with torch.no_grad():
        for tokens in batches:
            for i, place in enumerate(walk(model, tokens, TEACHER)):
                mlp: Any = place.layer.mlp
                gate, up = mlp.gate_proj(place.x), mlp.up_proj(place.x)
                wanted, act = mlp.down_proj(swiglu(gate, up)), drelu(gate, up)
                errors[i] += token_error(mlp.down_proj(act), wanted).cpu() / len(batches)
                zeros[i] += (act == 0).float().mean().cpu() / len(batches)
                place.out = place.residual + wanted
    return errors.tolist(), zeros.tolist()
