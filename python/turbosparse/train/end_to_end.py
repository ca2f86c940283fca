"""End-to-end distillation: the student's distribution and its hidden states against the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run
from turbosparse.train.losses import Meter
from turbosparse.train.surgery import TEACHER, token_error
from turbosparse.train.walk import walk


@dataclass(frozen=True)
class Compared:
    """Scalars with gradient: mean KL(teacher || student) in nats per token, mean token_error of the layers' outputs."""

    kl: Tensor
    hidden: Tensor


def forward(model: CausalLM, tokens: Tensor, run: Run) -> tuple[Tensor, list[Tensor]]:
    """Logits [B, T, n_vocab] and the residual stream [B, T, E] after every layer."""
    states = [place.finish(run) for place in walk(model, tokens, run)]
    logits: Tensor = model.lm_head(model.model.norm(states[-1]))
    return logits, states


def compare(teacher: CausalLM, student: CausalLM, tokens: Tensor, meter: Meter, masked: bool) -> Compared:
    """One batch, int64 [B, T]; `masked`: the predictors' mask is applied. `meter` sees the student's FFNs."""
    with torch.no_grad():
        logits, states = forward(teacher, tokens, TEACHER)
        target = functional.log_softmax(logits.float(), dim=-1)
    ours, our_states = forward(student, tokens, Run(dense=not masked, observer=meter, unit_tap=True))
    kl = _kl(ours, target)
    errors = [token_error(made, wanted) for made, wanted in zip(our_states, states, strict=True)]
    return Compared(kl, torch.stack(errors).mean())


def _kl(logits: Tensor, target: Tensor) -> Tensor:
    ours = functional.log_softmax(logits.float(), dim=-1)
    return functional.kl_div(ours.flatten(0, 1), target.flatten(0, 1), log_target=True, reduction="batchmean")
