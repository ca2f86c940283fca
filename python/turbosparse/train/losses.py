"""What one training step measures inside the FFNs, and the loss terms made of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from turbosparse.torch import Place


@dataclass(frozen=True)
class Terms:
    """One step's loss terms (scalars with gradient) and neuron counts, over all FFNs."""

    n: int
    n_active: Tensor
    n_kept: Tensor
    n_hit: Tensor
    shrink: Tensor  # soft share of non-zero neurons, in [0, 1]
    miss: Tensor  # binary cross-entropy of the predictors per neuron, 0 where none ran
    balance: Tensor  # mean router imbalance over layers, 1 when even; 0 without experts

    @property
    def zero_rate(self) -> float:
        """Share of FFN neurons that are zero without any mask."""
        return 1.0 - int(self.n_active) / self.n

    @property
    def recall(self) -> float:
        """Share of the non-zero neurons that the predictors kept."""
        return int(self.n_hit) / max(int(self.n_active), 1)

    @property
    def precision(self) -> float:
        """Share of the kept neurons that are non-zero."""
        return int(self.n_hit) / max(int(self.n_kept), 1)


class Meter:
    """An Observer (see turbosparse.torch.layers) that gathers the Terms of one step. Never waits for a value."""

    def __init__(self, pos_weight: float, wants_logits: bool = True) -> None:
        self.pos_weight, self.wants_logits = pos_weight, wants_logits
        self.n = 0
        self.n_active: list[Tensor] = []
        self.n_kept: list[Tensor] = []
        self.n_hit: list[Tensor] = []
        self.shrink: list[Tensor] = []
        self.miss: list[Tensor] = []
        self.balance: list[Tensor] = []

    def ffn(self, place: Place, act: Tensor, logits: Tensor | None) -> None:
        """Adds the terms of one FFN: how much is non-zero, and how wrong its predictor is about that."""
        del place
        act = act.float()
        fixed = act.detach()
        active = fixed > 0
        n_active = active.sum()
        self.n += act.numel()
        self.n_active.append(n_active)
        # a / (a + s), s the mean active value: counts the non-zeros, pulls hardest at the small ones, and scaling
        # the whole FFN does not cheat it.
        scale = fixed.sum() / n_active.clamp(min=1) + 1e-9
        self.shrink.append((act / (act + scale)).sum())
        if logits is not None:
            logits = logits.float()
            kept = logits.detach() > 0
            self.n_kept.append(kept.sum())
            self.n_hit.append((kept & active).sum())
            self.miss.append(self._bce(logits, active.to(logits.dtype)))

    def router(self, layer: int, probs: Tensor, chosen: Tensor) -> None:
        """Switch-style balance: n_expert * sum over experts of (share of picks * mean probability)."""
        del layer
        n_expert = probs.shape[-1]
        picks = torch.bincount(chosen.flatten(), minlength=n_expert).to(probs.dtype) / chosen.numel()
        self.balance.append(n_expert * (picks * probs.mean(0)).sum())

    def terms(self) -> Terms:
        """What was gathered."""
        return Terms(
            n=self.n,
            n_active=_sum(self.n_active),
            n_kept=_sum(self.n_kept),
            n_hit=_sum(self.n_hit),
            shrink=_sum(self.shrink) / self.n,
            miss=_sum(self.miss) / self.n,
            balance=_sum(self.balance) / max(len(self.balance), 1),
        )

    def _bce(self, logits: Tensor, label: Tensor) -> Tensor:
        weight = torch.tensor(self.pos_weight, device=logits.device)
        return functional.binary_cross_entropy_with_logits(logits, label, pos_weight=weight, reduction="sum")


def _sum(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum() if parts else torch.tensor(0.0)


class Controller:
    """Feedback on the weight of the sparsity term: it rises while the measured zero rate is below its target."""

    def __init__(self, gain: float, log_weight: float = math.log(1e-2)) -> None:
        self.gain, self.log_weight = gain, log_weight

    @property
    def weight(self) -> float:
        """What the sparsity term is multiplied by."""
        return math.exp(self.log_weight)

    def update(self, zero_rate: float, target: float) -> None:
        """One step of integral control in log space, kept within 1e-4..10."""
        step = self.gain * (target - zero_rate)
        self.log_weight = min(max(self.log_weight + step, math.log(1e-4)), math.log(10.0))
