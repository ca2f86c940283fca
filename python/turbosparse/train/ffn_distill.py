"""FFN distillation: every layer learns its teacher's FFN at once, with no gradient through attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run, drelu, swiglu
from turbosparse.train.surgery import TEACHER, token_error
from turbosparse.train.walk import Place, walk

STUDENT = Run(dense=True)


@dataclass(frozen=True)
class Blend:
    """The annealed activation: (1 - share) * SwiGLU + share * dReLU. Called with gate and up."""

    share: float

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        """gate, up [..., F] -> [..., F]."""
        if self.share >= 1.0:
            return drelu(gate, up)
        return (1.0 - self.share) * swiglu(gate, up) + self.share * drelu(gate, up)


@dataclass(frozen=True)
class Knobs:
    """What changes from step to step. `drift`: the student's own inputs, and targets that undo its drift."""

    blend: Blend
    drift: bool
    zero_weight: float


def distill_ffns(teacher: CausalLM, student: CausalLM, tokens: Tensor, knobs: Knobs) -> tuple[Tensor, Tensor]:
    """Adds the gradients of one batch, int64 [B, T], to the student's FFNs: loss and zero rate, each [n_layer].

    On the teacher's inputs the target is its FFN's output. With drift the student's residual stream runs beside the
    teacher's, and the target is whatever takes the student's stream to where the teacher's is after the layer.
    One layer's graph is alive at a time. The zero rate is dReLU's, also while the activation is still blended.
    """
    losses: list[Tensor] = []
    zeros: list[Tensor] = []
    with torch.no_grad():
        for x, wanted, place in _targets(teacher, student, tokens, knobs.drift):
            with torch.enable_grad():  # type: ignore[no-untyped-call, unused-ignore]
                made, zero = _learn(place.layer.mlp, x, wanted, knobs, losses)
            zeros.append(zero)
            place.out = place.residual + made
    return torch.stack(losses), torch.stack(zeros)


def _targets(
    teacher: CausalLM, student: CausalLM, tokens: Tensor, drift: bool
) -> Iterator[tuple[Tensor, Tensor, Place]]:
    """Per layer the FFN input, the output wanted of it, and the student's place."""
    ours = walk(student, tokens, STUDENT) if drift else None
    for layer, theirs in zip(student.model.layers, walk(teacher, tokens, TEACHER), strict=True):
        out = theirs.finish(TEACHER)
        if ours is None:
            yield theirs.x, out - theirs.residual, Place(layer, theirs.residual, theirs.x)
        else:
            place = next(ours)
            yield place.x, out - place.residual, place


def _learn(mlp: Any, x: Tensor, wanted: Tensor, knobs: Knobs, losses: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Gradients of one FFN; its output and dReLU's zero rate, both without gradient."""
    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    act = drelu(gate, up).float()
    active = act.detach() > 0
    scale = act.detach().sum() / active.sum().clamp(min=1) + 1e-9
    made = mlp.down_proj(knobs.blend(gate, up))
    loss = token_error(made, wanted)
    (loss + knobs.zero_weight * (act / (act + scale)).mean()).backward()  # type: ignore[no-untyped-call, unused-ignore]
    losses.append(loss.detach())
    return made.detach(), 1.0 - active.float().mean()
