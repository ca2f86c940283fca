"""The dReLU run: teacher and student, stages, one step, a state on disk that survives interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from turbosparse.torch.checkpoint import build
from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import drelu, swiglu
from turbosparse.train.drelu_recipe import STAGES, DreluRecipe
from turbosparse.train.end_to_end import Compared, compare
from turbosparse.train.faults import DivergedError, SettingsError
from turbosparse.train.ffn_distill import Blend, Knobs, distill_ffns
from turbosparse.train.guide import Guide, LiveGuide
from turbosparse.train.losses import Controller, Meter
from turbosparse.train.memory import lower_instead
from turbosparse.train.precision import autocast
from turbosparse.train.source import Source
from turbosparse.train.state import changed_settings, read_state, write_state
from turbosparse.train.surgery import canonicalise_signs, fresh_predictors, swap_errors
from turbosparse.train.team import Team
from turbosparse.train.trainer import Budget

COLUMNS = (
    "step", "tokens", "seconds", "stage", "loss", "hidden", "zero_rate", "zero_target", "zero_weight", "recall",
    "precision", "blend", "lr",
)  # fmt: skip
PREDICTORS = "predictors"  # key of an optimiser's group: whether it is theirs
CALIBRATION = 1 << 30  # where steps never get, so that calibration windows have a seed of their own


class TokenSource(Protocol):
    """What `turbosparse.train.shards.Shards` has."""

    def sample(
        self, rng: np.random.Generator, batch: int, seq: int, weights: Mapping[str, float] | None = None
    ) -> npt.NDArray[np.int64]:
        """[batch, seq + 1] windows that depend on nothing but the state of `rng`."""


class Distiller:
    """One run; everything `save` writes, `resume` restores. The teacher is made again from its source.

    `surgery` has, per layer: the flipped signs, the error of the bare swap before and after them, its zero rate.
    """

    def __init__(
        self, source: Source, tokens: TokenSource, recipe: DreluRecipe, budget: Budget,
        device: str = "cpu", dtype: torch.dtype = torch.float32, last_weights: Mapping[str, float] | None = None,
        guide: Guide | None = None, team: Team | None = None,
    ) -> None:  # fmt: skip
        torch.manual_seed(recipe.seed)
        self.recipe, self.tokens, self.budget = recipe, tokens, budget
        self.device, self.dtype, self.last_weights = torch.device(device), dtype, last_weights
        self.team = team or Team()
        self.teacher = source.model().to(self.device).eval().requires_grad_(False)
        with self._memory():
            self.surgery = self._operate()
        self.student = self._make_student()
        self.guide: Guide = guide or LiveGuide(self.teacher, source.layers, source.layers)
        self.controller = Controller(recipe.zero_gain, math.log(recipe.zero_weight))
        self.n_steps = self.stage_steps = self.n_masked = 0
        self.seconds = 0.0
        self.stage, _ = recipe.stage_at(0.0)
        self.optimizer = self._make_optimizer()

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.budget.progress(self.n_steps, self.seconds)

    @property
    def n_tokens(self) -> int:
        """Tokens seen so far, by all processes."""
        return self.n_steps * self.recipe.batch * self.recipe.n_tokens * self.team.size

    @property
    def has_predictors(self) -> bool:
        """Whether the model has been trained with its predictors' mask applied."""
        return self.n_masked > 0

    def step(self) -> tuple[dict[str, Any], list[float]]:
        """One optimiser step: its log row and the zero rate per layer.

        Raises DivergedError before a weight changes, OutOfMemoryError with the setting to lower.
        """
        start = time.monotonic()
        local = self._enter_stage()
        lr, rows = self._set_lr(local), self._rows()
        target = self.recipe.zero_target_at(self.stage, local, float(np.mean(self.surgery["zero_rate"])))
        with self._memory():
            local_measured, local_zeros = self._learn(rows, local)
            measured, zeros = self._together(local_measured, local_zeros)
            self._check_finite(measured, local_measured, rows)
            self.optimizer.step()  # its first one allocates as much again as the weights, twice
        if self.is_sparse:
            self.controller.update(float(np.mean(zeros)), target)
        self.n_steps += 1
        self.stage_steps += 1
        self.n_masked += self._applies_mask(local)
        self.seconds = self.team.agree(self.seconds + time.monotonic() - start, self.device)
        row = dict.fromkeys(COLUMNS, 0.0) | measured | {
            "step": self.n_steps, "tokens": self.n_tokens,
            "seconds": round(self.seconds, 1), "stage": STAGES[self.stage], "zero_rate": float(np.mean(zeros)),
            "zero_target": target, "zero_weight": self.controller.weight, "lr": lr,
        }  # fmt: skip
        row.pop("norm")
        return row, zeros

    def _memory(self) -> AbstractContextManager[None]:
        """Lack of memory inside is said as the setting to lower."""
        recipe = self.recipe
        return lower_instead(
            f"not enough memory for batches of {recipe.batch} x {recipe.n_tokens} tokens: lower --batch (or --seq), "
            "and run again with --resume", batch=recipe.batch, n_tokens=recipe.n_tokens,
        )  # fmt: skip

    def save(self, file: Path) -> None:
        """Atomic and on the disk when it returns; DiskFullError leaves the previous state."""
        state = {
            "model": self.student.state_dict(), "optimizer": self.optimizer.state_dict(), "stage": self.stage,
            "stage_steps": self.stage_steps, "n_masked": self.n_masked, "n_steps": self.n_steps,
            "seconds": self.seconds, "log_weight": self.controller.log_weight, "rng": torch.get_rng_state(),
            "settings": self._settings(),
        }  # fmt: skip
        write_state(state, file)

    def _settings(self) -> dict[str, str]:
        """All that makes two runs the same one, apart from source and tokens."""
        budget = {"steps": self.budget.steps, "seconds": self.budget.seconds}
        if self.budget.steps is not None:
            del budget["seconds"]
        return {
            name: repr(value) for name, value in (asdict(self.recipe) | budget | {"processes": self.team.size}).items()
        }

    def resume(self, file: Path) -> dict[str, tuple[str, str]]:
        """Continues where `save` left off; source and tokens must be the same.

        Returns the settings that are other than when the state was saved, as (then, now): without any, the result is
        that of a run which was never interrupted, to the bit.
        """
        state = read_state(file, self.device)
        shapes = {name: t.shape for name, t in self.student.state_dict().items()}
        if {name: t.shape for name, t in state["model"].items()} != shapes:
            raise SettingsError(
                f"{file} is the state of another model: give the same source, --keep-layers and --rank as before, or "
                "another output directory",
                path=str(file),
            )
        self.student.load_state_dict(state["model"])
        self.stage, self.stage_steps, self.n_masked = state["stage"], state["stage_steps"], state["n_masked"]
        self.optimizer = self._make_optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_steps, self.seconds = state["n_steps"], state["seconds"]
        self.controller.log_weight = state["log_weight"]
        torch.set_rng_state(state["rng"].cpu())
        return changed_settings(state.get("settings", {}), self._settings())

    def export(self) -> CausalLM:
        """The student on the CPU; without predictors unless they have been trained."""
        ranks = [self.recipe.rank if self.has_predictors else 0] * self.student.config.num_hidden_layers
        model = build(self.student.config, ranks)
        wanted = model.state_dict()
        model.load_state_dict({name: t.cpu() for name, t in self.student.state_dict().items() if name in wanted})
        model.eval()
        return model

    @property
    def is_sparse(self) -> bool:
        """Whether the student gets dReLU; a control keeps SwiGLU."""
        return self.recipe.activation == "drelu"

    def _operate(self) -> dict[str, list[float]]:
        """Sign canonicalisation, and what the bare swap costs before and after it."""
        if not self.is_sparse:
            return {"zero_rate": [0.0] * self.teacher.config.num_hidden_layers}
        batches = [self._calibration(i) for i in range(self.recipe.calibration_batches)]
        with self._autocast():
            before, zeros = swap_errors(self.teacher, batches)
            if not self.recipe.signs:
                return {"flips": [0] * len(zeros), "before": before, "after": before, "zero_rate": zeros}
            flips = canonicalise_signs(self.teacher, batches)
            after, zeros = swap_errors(self.teacher, batches)
        return {"flips": [float(n) for n in flips], "before": before, "after": after, "zero_rate": zeros}

    def _calibration(self, i: int) -> Tensor:
        """The team's tokens [batch, n_tokens], the same in every process."""
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, CALIBRATION + i))
        rows = self.tokens.sample(rng, recipe.batch * self.team.size, recipe.n_tokens)
        return torch.from_numpy(rows[:, :-1]).to(self.device)

    def _make_student(self) -> CausalLM:
        """The teacher's weights, and fresh predictors if they are ever applied."""
        has_mask = self.recipe.shares[STAGES.index("masked")] > 0
        rank = self.recipe.rank if has_mask else 0
        student = fresh_predictors(self.teacher, [rank] * self.teacher.config.num_hidden_layers)
        student.to(self.device).train()
        return student

    def _trainable(self) -> list[nn.Parameter]:
        """The stage's parameters: the three FFN matrices, all but the predictors, all."""
        stage = STAGES[self.stage]
        named = self.student.named_parameters()
        if stage == "masked":
            return [p for _, p in named]
        if stage == "whole":
            return [p for name, p in named if ".predictor." not in name]
        return [p for name, p in named if ".mlp." in name and ".predictor." not in name]

    def _make_optimizer(self) -> torch.optim.AdamW:
        """A fresh optimiser for the stage; what it does not train needs no gradient."""
        trainable = self._trainable()
        self.student.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
        own = {id(p) for name, p in self.student.named_parameters() if ".predictor." in name}
        rest, decay = [p for p in trainable if id(p) not in own], self.recipe.weight_decay
        groups = [
            {"params": [p for p in rest if p.dim() > 1], "weight_decay": decay, PREDICTORS: False},
            {"params": [p for p in rest if p.dim() == 1], "weight_decay": 0.0, PREDICTORS: False},
            {"params": [p for p in trainable if id(p) in own], "weight_decay": 0.0, PREDICTORS: True},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.95), fused=True)

    def _enter_stage(self) -> float:
        """Moves on to the stage that is due, never back; returns the share of it that is done."""
        stage, local = self.recipe.stage_at(self.progress)
        if stage > self.stage:
            self.stage, self.stage_steps = stage, 0
            self.optimizer = self._make_optimizer()
        return local if stage == self.stage else 1.0

    def _applies_mask(self, local: float) -> bool:
        return STAGES[self.stage] == "masked" and self.recipe.rank > 0 and local >= self.recipe.warm

    def _learn(self, rows: Tensor, local: float) -> tuple[dict[str, float], list[float]]:
        """Fills the gradients of one batch, clipped: measured numbers and the zero rate per layer."""
        self.optimizer.zero_grad(set_to_none=True)
        if STAGES[self.stage] in ("teacher", "drift"):
            return self._learn_ffns(rows, local)
        return self._learn_whole(rows, local)

    def _learn_ffns(self, rows: Tensor, local: float) -> tuple[dict[str, float], list[float]]:
        blend = self.recipe.blend_at(self.stage, local)
        knobs = Knobs(Blend(blend), STAGES[self.stage] == "drift", self.controller.weight)
        with self._autocast():
            losses, zeros = distill_ffns(self.teacher, self.student, rows[:, :-1], knobs)
        self._average_gradients()
        # One norm per layer: the layers are independent problems.
        clip = self.recipe.clip
        norms = [nn.utils.clip_grad_norm_(layer.mlp.parameters(), clip) for layer in self.student.model.layers]
        loss, norm = float(losses.mean()), float(torch.stack(norms).sum())
        return {"loss": loss, "hidden": loss, "blend": blend, "norm": norm}, zeros.tolist()

    def _learn_whole(self, rows: Tensor, local: float) -> tuple[dict[str, float], list[float]]:
        recipe = self.recipe
        predictors = STAGES[self.stage] == "masked" and recipe.rank > 0
        meter = Meter(recipe.pos_weight, predictors) if self.is_sparse else None
        blend = recipe.blend_at(self.stage, local)
        activation = (drelu if blend >= 1.0 else Blend(blend)) if self.is_sparse else swiglu
        with self._autocast():
            answers, depths = self.guide.answers(rows, self.device)
            both = compare(answers, self.student, meter, self._applies_mask(local), activation, depths)
        total = both.kl + recipe.hidden_weight * both.hidden
        if meter is None:
            return self._descend(total, both, 0.0), [0.0] * self.student.config.num_hidden_layers
        terms = meter.terms()
        total = total + self.controller.weight * terms.shrink + recipe.predictor_weight * terms.miss
        measured = self._descend(total, both, blend)
        per_layer = terms.n / len(meter.n_active)
        if predictors:
            measured |= {"recall": terms.recall, "precision": terms.precision}
        return measured, (1.0 - torch.stack(meter.n_active) / per_layer).tolist()

    def _descend(self, total: Tensor, both: Compared, blend: float) -> dict[str, float]:
        """Gradients of the whole model, clipped."""
        total.backward()  # type: ignore[no-untyped-call, unused-ignore]
        self._average_gradients()
        norm = float(nn.utils.clip_grad_norm_(self._trainable(), self.recipe.clip))
        return {"loss": float(both.kl.detach()), "hidden": float(both.hidden.detach()), "blend": blend, "norm": norm}

    def _average_gradients(self) -> None:
        self.team.average(p.grad for p in self._trainable() if p.grad is not None)

    def _together(self, measured: dict[str, float], zeros: list[float]) -> tuple[dict[str, float], list[float]]:
        """The team's means: every process goes on with the same numbers."""
        both = measured | {f"zero {i}": zero for i, zero in enumerate(zeros)}
        both = self.team.average_numbers(both, self.device)
        return {key: both[key] for key in measured}, [both[f"zero {i}"] for i in range(len(zeros))]

    def _rows(self) -> Tensor:
        """This step's windows; a guide that has its own is asked for them where it is needed."""
        if STAGES[self.stage] in ("whole", "masked"):
            with self._autocast():
                given = self.guide.rows(self.n_steps * self.team.size + self.team.rank, self.recipe.batch)
            if given is not None:
                return given
        return self._batch(self.n_steps, self.last_weights if STAGES[self.stage] == "masked" else None)

    def _batch(self, step: int, weights: Mapping[str, float] | None = None) -> Tensor:
        """This process's windows [batch, n_tokens + 1] int64 of a step: a pure function of seed, step and rank."""
        recipe, team = self.recipe, self.team
        rng = np.random.default_rng((recipe.seed, step))
        rows = self.tokens.sample(rng, recipe.batch * team.size, recipe.n_tokens, weights)
        return torch.from_numpy(rows[team.rank * recipe.batch :][: recipe.batch]).to(self.device)

    def _set_lr(self, local: float) -> float:
        """A linear warm-up, then a cosine over the rest of the stage."""
        recipe = self.recipe
        cosine = 0.5 * (1.0 + math.cos(math.pi * local))
        share = recipe.last_lr + (1.0 - recipe.last_lr) * cosine
        share *= min(1.0, max((self.stage_steps + 1) / recipe.warmup_steps, local / recipe.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = share * (recipe.predictor_lr if group[PREDICTORS] else recipe.lrs[self.stage])
        return recipe.lrs[self.stage] * share

    def _check_finite(self, measured: dict[str, float], mine: dict[str, float], rows: Tensor) -> None:
        """`measured` is the team's: all stop at the same step; `mine` tells whose batch it was."""
        found = {name: value for name, value in measured.items() if not math.isfinite(value)}
        if not found:
            return
        whose = f", process {self.team.rank} of {self.team.size}" if self.team.size > 1 else ""
        raise DivergedError(
            f"step {self.n_steps + 1} (stage {STAGES[self.stage]}): {found}. The state on disk is from before it. The "
            f"batch is that of seed {self.recipe.seed}, step {self.n_steps}{whose}; lower --lr, or leave that text out",
            stage=STAGES[self.stage], step=self.n_steps, found=found, batch=rows.cpu().numpy(),
            is_culprit=not all(map(math.isfinite, mine.values())),
        )  # fmt: skip

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.dtype)
