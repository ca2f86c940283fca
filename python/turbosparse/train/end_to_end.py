"""End-to-end distillation: the student's distribution and its hidden states against a teacher's answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run, drelu
from turbosparse.train.losses import Meter
from turbosparse.train.surgery import TEACHER, token_error
from turbosparse.train.walk import walk

Activation = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Answers:
    """What a teacher says to one batch: int64 [B, T + 1], of which it saw all but the last column.

    `logits` are float32 [B, T, n_vocab], `states` its residual streams [B, T, E] by depth: the number of layers passed.
    """

    tokens: Tensor
    logits: Tensor
    states: dict[int, Tensor]


@dataclass(frozen=True)
class Compared:
    """Scalars with gradient: mean KL(teacher || student) in nats per token, mean token_error of the residuals."""

    kl: Tensor
    hidden: Tensor


def forward(model: CausalLM, tokens: Tensor, run: Run) -> tuple[Tensor, list[Tensor]]:
    """Logits [B, T, n_vocab] and the residual stream [B, T, E] after every layer."""
    states = [place.finish(run) for place in walk(model, tokens, run)]
    logits: Tensor = model.lm_head(model.model.norm(states[-1]))
    return logits, states


def ask(teacher: CausalLM, rows: Tensor, depths: Iterable[int]) -> Answers:
    """The answers of a teacher that is here, without gradient; `rows` int64 [B, T + 1]."""
    with torch.no_grad():
        logits, states = forward(teacher, rows[:, :-1], TEACHER)
    return Answers(rows, logits.float(), {depth: states[depth - 1] for depth in depths})


def pair_depths(kept: list[int], depths: Iterable[int]) -> dict[int, int]:
    """For each depth of the teacher the depth of a student that has its layers `kept`: the layers passed by then."""
    passed = {depth: sum(layer < depth for layer in kept) for depth in depths}
    return {depth: mine for depth, mine in passed.items() if mine > 0}


def compare(
    answers: Answers,
    student: CausalLM,
    meter: Meter | None = None,
    masked: bool = False,
    activation: Activation = drelu,
    depths: dict[int, int] | None = None,
) -> Compared:
    """One batch; `masked`: the predictors' mask is applied. `meter` sees the student's FFNs.

    `depths`: which of the student's depths is compared with each of the answers' (default: the same).
    """
    run = Run(dense=not masked, observer=meter, unit_tap=True, activation=activation)
    ours, states = forward(student, answers.tokens[:, :-1], run)
    pairs = {depth: depth for depth in answers.states} if depths is None else depths
    errors = [token_error(states[mine - 1], answers.states[depth]) for depth, mine in pairs.items()]
    hidden = torch.stack(errors).mean() if errors else torch.zeros((), device=ours.device)
    return Compared(_kl(ours, answers.logits), hidden)


def _kl(logits: Tensor, wanted: Tensor) -> Tensor:
    ours = functional.log_softmax(logits.float(), dim=-1)
    target = functional.log_softmax(wanted, dim=-1)
    return functional.kl_div(ours.flatten(0, 1), target.flatten(0, 1), log_target=True, reduction="batchmean")
