"""What one training step measures inside the FFNs, and the loss terms made of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from turbosparse.torch import Place


class Meter:
    """An Observer (see turbosparse.torch.layers) that sums loss terms and counts over all FFNs of one step."""

    def __init__(self, pos_weight: float, wants_logits: bool = True) -> None:
        self.pos_weight = torch.tensor(pos_weight)
        self.wants_logits = wants_logits
        self.n = self.n_zero = self.n_hit = self.n_marked = 0
        self.shrink: list[Tensor] = []
        self.miss: list[Tensor] = []
        self.balance: list[Tensor] = []

    def ffn(self, place: Place, act: Tensor, logits: Tensor | None) -> None:
        """Adds the terms of one FFN: how much is non-zero, and how wrong its predictor is about that."""
        del place
        active = act.detach() > 0
        n_active = int(active.sum())
        self.n += act.numel()
        self.n_zero += act.numel() - n_active
        # a / (a + s), s the mean active value: counts the non-zeros, pulls hardest at the small ones, and scaling
        # the whole FFN does not cheat it.
        scale = act.detach().sum() / max(n_active, 1) + 1e-9
        self.shrink.append((act / (act + scale)).sum())
        if logits is not None:
            marked = logits.detach() > 0
            self.n_marked += int(marked.sum())
            self.n_hit += int((marked & active).sum())
            self.miss.append(self._bce(logits, active.to(logits.dtype)))

    def router(self, layer: int, probs: Tensor, chosen: Tensor) -> None:
        """Switch-style balance: n_expert * sum over experts of (share of picks * mean probability)."""
        del layer
        n_expert = probs.shape[-1]
        picks = torch.bincount(chosen.flatten(), minlength=n_expert).to(probs.dtype) / chosen.numel()
        self.balance.append(n_expert * (picks * probs.mean(0)).sum())

    def _bce(self, logits: Tensor, label: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, label, pos_weight=self.pos_weight, reduction="sum")

    @property
    def zero_rate(self) -> float:
        """Share of FFN neurons that are zero without any mask."""
        return self.n_zero / max(self.n, 1)

    @property
    def recall(self) -> float:
        """Share of the non-zero neurons that the predictors kept."""
        return self.n_hit / max(self.n - self.n_zero, 1)

    @property
    def precision(self) -> float:
        """Share of the kept neurons that are non-zero."""
        return self.n_hit / max(self.n_marked, 1)

    def shrink_loss(self) -> Tensor:
        return torch.stack(self.shrink).sum() / self.n

    def miss_loss(self) -> Tensor | float:
        return torch.stack(self.miss).sum() / self.n if self.miss else 0.0

    def balance_loss(self) -> Tensor | float:
        return torch.stack(self.balance).mean() if self.balance else 0.0


class Controller:
    """Feedback on the weight of the sparsity term: it rises while the measured zero rate is below its target."""

    def __init__(self, gain: float, log_weight: float = math.log(1e-2)) -> None:
        self.gain, self.log_weight = gain, log_weight

    @property
    def weight(self) -> float:
        return math.exp(self.log_weight)

    def update(self, zero_rate: float, target: float) -> None:
        """One step of integral control in log space, kept within 1e-4..10."""
        step = self.gain * (target - zero_rate)
        self.log_weight = min(max(self.log_weight + step, math.log(1e-4)), math.log(10.0))
