"""The training loop: phases, one step, checkpoints that survive interruption, a CSV log."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from turbosparse.torch.checkpoint import build
from turbosparse.torch.layers import Run
from turbosparse.train.losses import Controller, Meter, Terms
from turbosparse.train.recipe import Recipe
from turbosparse.train.state import read_state, write_state
from turbosparse.train.stream import Tokens, batch_at

LOG_COLUMNS = (
    "step", "tokens", "seconds", "phase", "loss", "zero_rate", "zero_target", "zero_weight", "recall", "precision", "lr"
)  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """How long to train: `steps` (reproducible, also across a resume), else `seconds` of training time."""

    steps: int | None = None
    seconds: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is done, in [0, 1]."""
        done = step / self.steps if self.steps is not None else seconds / (self.seconds or 1.0)
        return min(done, 1.0)


class Trainer:
    """One run: model, optimiser, controller and counters; everything `save` writes, `resume` restores."""

    def __init__(self, recipe: Recipe, streams: dict[str, Tokens], budget: Budget, compiled: bool = False) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.streams, self.budget = recipe, streams, budget
        self.model = build(recipe.config, recipe.ranks).train()
        init_by_width(self.model)
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95))
        self._objective = torch.compile(self._forward) if compiled else self._forward
        self.controller = Controller(recipe.zero_gain)
        self.n_steps = 0
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.budget.progress(self.n_steps, self.seconds)

    @property
    def phase(self) -> str:
        """sparse, warm or masked; see Recipe."""
        if self.progress < self.recipe.predictor_from:
            return "sparse"
        return "warm" if self.progress < self.recipe.masked_from else "masked"

    def step(self) -> dict[str, Any]:
        """One optimiser step; returns its log row."""
        start = time.monotonic()
        phase, lr, target = self.phase, self._set_lr(), self._zero_target()
        loss, terms = self._objective(self._batch(phase), phase == "masked", phase != "sparse")
        self.optimizer.zero_grad(set_to_none=True)
        self._total(loss, terms).backward()  # type: ignore[no-untyped-call, unused-ignore]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.controller.update(terms.zero_rate, target)
        self.n_steps += 1
        self.seconds += time.monotonic() - start
        n_tokens = self.n_steps * self.recipe.batch * self.recipe.n_tokens
        head = (self.n_steps, n_tokens, round(self.seconds, 1), phase, loss.item(), terms.zero_rate, target)
        row = (*head, self.controller.weight, terms.recall, terms.precision, lr)
        return dict(zip(LOG_COLUMNS, row, strict=True))

    def _batch(self, phase: str) -> Tensor:
        """This step's windows, int64 [batch, n_tokens + 1]."""
        recipe = self.recipe
        mix = recipe.last_mix if phase == "masked" else recipe.mix
        shape = (recipe.batch, recipe.n_tokens)
        return torch.from_numpy(batch_at(self.streams, mix, shape, recipe.seed, self.n_steps))

    def _forward(self, rows: Tensor, masked: bool, predictors: bool) -> tuple[Tensor, Terms]:
        """Cross-entropy in nats per token, and what the FFNs did."""
        meter = Meter(self.recipe.pos_weight, predictors)
        logits = self.model(rows[:, :-1], Run(dense=not masked, observer=meter))
        return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()), meter.terms()

    def _total(self, loss: Tensor, terms: Terms) -> Tensor:
        """The sum that is minimised."""
        recipe = self.recipe
        total = loss + self.controller.weight * terms.shrink
        return total + recipe.predictor_weight * terms.miss + recipe.balance_weight * terms.balance

    def save(self, file: Path) -> None:
        """Atomic: an interrupted save leaves the previous state."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "log_weight": self.controller.log_weight,
            "n_steps": self.n_steps,
            "seconds": self.seconds,
        }
        write_state(state, file)

    def resume(self, file: Path) -> None:
        """Continues where `save` left off; recipe and streams must be the same."""
        state = read_state(file)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.controller.log_weight = state["log_weight"]
        self.n_steps, self.seconds = state["n_steps"], state["seconds"]

    def _set_lr(self) -> float:
        """Linear warm-up, then a cosine over the rest of the run."""
        recipe = self.recipe
        cosine = 0.5 * (1.0 + math.cos(math.pi * self.progress))
        lr = recipe.last_lr + (recipe.lr - recipe.last_lr) * cosine
        lr *= min(1.0, (self.n_steps + 1) / recipe.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _zero_target(self) -> float:
        start, end = self.recipe.zero_ramp
        share = min(max((self.progress - start) / (end - start), 0.0), 1.0)
        return self.recipe.zero_from + share * (self.recipe.zero_target - self.recipe.zero_from)


def init_by_width(model: nn.Module) -> None:
    """Normal with std 1/sqrt(inputs), half of it for what writes to the residual stream.

    A fixed 0.02 suits width 4096; at width 128 the product of two branches would start out far too small.
    """
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            continue
        std = 0.1 if "embed" in name else weight.shape[1] ** -0.5
        scale = 0.5 if name.endswith(("o_proj.weight", "down_proj.weight", "w2.weight")) else 1.0
        nn.init.normal_(weight, std=std * scale)


class CsvLog:
    """Appends rows; on resume, rows after the restored step are dropped first."""

    def __init__(self, file: Path, keep_steps: int, columns: Sequence[str] = LOG_COLUMNS) -> None:
        kept: list[dict[str, Any]] = []
        if file.exists():
            with file.open(newline="") as old:
                kept = [row for row in csv.DictReader(old) if int(row["step"]) <= keep_steps]
        self._out = file.open("w", newline="")
        self._rows = csv.DictWriter(self._out, columns)
        self._rows.writeheader()
        self._rows.writerows(kept)

    def write(self, row: dict[str, Any]) -> None:
        """Adds one row of `Trainer.step`."""
        self._rows.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
        self._out.flush()

    def close(self) -> None:
        """Ends the log."""
        self._out.close()
