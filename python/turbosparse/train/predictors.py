"""New predictors for a dReLU checkpoint: `python -m turbosparse.train.predictors CKPT -o OUT --data SHARDS`.

CKPT is a checkpoint of the Mistral family, with predictors or without; only its predictors are trained, the model stays
what it is, so the exact and the dense mode do not change. They learn which neurons are non-zero by a binary
cross-entropy whose positives weigh --pos-weight, half of it in proportion to how much they add to the output. Each
batch is used for several steps of the optimiser, as making it costs ten times more than they do; from --warm of the run
on the predictors' mask is applied while it is made. OUT gets the checkpoint that `turbosparse convert` takes; OUT/train
the state and log.csv. An interrupted run goes on with --resume. turbosparse.train.heldout measures the result.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from turbosparse.torch import load, save
from turbosparse.torch.config import MISTRAL
from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run, drelu
from turbosparse.train.faults import DivergedError, SettingsError, reported
from turbosparse.train.memory import lower_instead
from turbosparse.train.precision import add_dtype_option, autocast, dtype_for
from turbosparse.train.shards import Shards
from turbosparse.train.source import copy_tokenizer
from turbosparse.train.state import changed_lines, changed_settings, read_state, write_state
from turbosparse.train.surgery import fresh_predictors
from turbosparse.train.trainer import CsvLog
from turbosparse.train.walk import walk

COLUMNS = ("step", "tokens", "seconds", "masked", "loss", "kept", "recall", "weighted", "precision", "lr")
LARGEST = 10.0  # of the weights by value: one outlier is not worth a thousand neurons


@dataclass(frozen=True)
class Plan:
    """One run: `steps` batches of `batch` windows of `n_tokens`; the optimiser takes `inner` tokens at a time."""

    steps: int
    rank: int = 96
    batch: int = 8
    n_tokens: int = 256
    inner: int = 256
    lr: float = 3e-3
    last_lr: float = 0.05  # of lr
    warm: float = 0.6
    pos_weight: float = 6.0
    seed: int = 1


@dataclass(frozen=True)
class Seen:
    """What one layer's predictor has to learn from n tokens: its tap [n, E], the neurons' values act [n, F] >= 0."""

    tap: Tensor
    act: Tensor


def observe(model: CausalLM, tokens: Tensor, masked: bool) -> Iterator[Seen]:
    """Layer by layer for int64 [B, T]; `masked`: the layers before apply their predictors."""
    run = Run(dense=not masked, unit_tap=True)
    for place in walk(model, tokens, run):
        mlp: Any = place.layer.mlp
        tap = place.residual * torch.rsqrt(place.residual.square().mean(-1, keepdim=True) + 1e-12)
        act = drelu(mlp.gate_proj(place.x), mlp.up_proj(place.x))
        kept = (mlp.predictor(tap) > 0) if masked else 1.0
        place.out = place.residual + mlp.down_proj(act * kept)
        yield Seen(tap.flatten(0, 1).float(), act.flatten(0, 1).float())


def miss(logits: Tensor, act: Tensor, sizes: Tensor, pos_weight: float) -> Tensor:
    """The loss per neuron. `sizes` [F]: norms of the down columns; act * sizes is what a neuron adds to the output."""
    active = act > 0
    value = act * sizes
    mean = value.sum() / active.sum().clamp(min=1) + 1e-12
    weight = torch.where(active, pos_weight * (0.5 + 0.5 * (value / mean).clamp(max=LARGEST)), 1.0)
    return functional.binary_cross_entropy_with_logits(logits, active.to(logits.dtype), weight)


class PredictorTraining:
    """One run; everything `save` writes, `resume` restores. `model` is changed in its predictors alone.

    `dtype`: of the products; weights are float32.
    """

    def __init__(self, model: CausalLM, tokens: Shards, plan: Plan, dtype: torch.dtype = torch.float32) -> None:
        if model.family != MISTRAL:
            raise SettingsError(f"predictors are trained alone for the Mistral family only, this is {model.family}")
        torch.manual_seed(plan.seed)
        self.model = fresh_predictors(model, [plan.rank] * model.config.num_hidden_layers).requires_grad_(False)
        self.tokens, self.plan, self.dtype = tokens, plan, dtype
        self.mlps: list[Any] = [layer.mlp for layer in self.model.model.layers]
        self.sizes = [mlp.down_proj.weight.norm(dim=0) for mlp in self.mlps]
        parameters = [p.requires_grad_(True) for mlp in self.mlps for p in mlp.predictor.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.0)
        self.n_steps, self.seconds = 0, 0.0

    def step(self) -> dict[str, Any]:
        """One batch, its log row. DivergedError before the weights take it, OutOfMemoryError with what to lower."""
        start, plan = time.monotonic(), self.plan
        masked = self.n_steps >= plan.warm * plan.steps
        rng = np.random.default_rng((plan.seed, self.n_steps))
        rows = torch.from_numpy(self.tokens.sample(rng, plan.batch, plan.n_tokens)[:, :-1])
        lr = self._set_lr()
        with lower_instead(f"not enough memory for batches of {plan.batch} x {plan.n_tokens} tokens: lower --batch"):
            with torch.no_grad(), autocast(rows.device, self.dtype):
                seen = list(observe(self.model, rows, masked))
            order = torch.from_numpy(rng.permutation(rows.numel()))
            counts = sum((self._learn(seen, part, rows) for part in order.split(plan.inner)), torch.zeros(6))
        loss, active, kept, hit, value, value_hit = (counts / len(order.split(plan.inner))).tolist()
        self.n_steps += 1
        self.seconds += time.monotonic() - start
        return {
            "step": self.n_steps, "tokens": self.n_steps * rows.numel(), "seconds": round(self.seconds, 1),
            "masked": int(masked), "loss": loss, "kept": kept, "recall": hit / active, "weighted": value_hit / value,
            "precision": hit / max(kept, 1e-9), "lr": lr,
        }  # fmt: skip

    def _learn(self, seen: list[Seen], part: Tensor, rows: Tensor) -> Tensor:
        """One optimiser step on the tokens `part`: loss, shares active, kept, both; value of all, of the kept."""
        self.optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(6)
        for mlp, size, layer in zip(self.mlps, self.sizes, seen, strict=True):
            act = layer.act[part]
            with autocast(act.device, self.dtype):
                logits = mlp.predictor(layer.tap[part]).float()
            loss = miss(logits, act, size, self.plan.pos_weight)
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            active, kept = act > 0, logits.detach() > 0
            shares = [m.float().mean() for m in (active, kept, active & kept)]
            totals += torch.stack([loss.detach(), *shares, act.mean(), (act * kept).mean()]) / len(seen)
        if not bool(torch.isfinite(totals).all()):
            raise DivergedError(
                f"step {self.n_steps + 1}: the loss is not finite. The state on disk is from before it. The batch is "
                f"that of seed {self.plan.seed}, step {self.n_steps}; lower --lr, or leave that text out",
                step=self.n_steps, batch=rows.numpy(),
            )  # fmt: skip
        self.optimizer.step()
        return totals

    def _set_lr(self) -> float:
        plan = self.plan
        cosine = 0.5 * (1.0 + math.cos(math.pi * self.n_steps / plan.steps))
        lr = plan.lr * (plan.last_lr + (1.0 - plan.last_lr) * cosine) * min(1.0, (self.n_steps + 1) / 10)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def save(self, file: Path) -> None:
        """Atomic; DiskFullError leaves the previous state."""
        predictors = [mlp.predictor.state_dict() for mlp in self.mlps]
        state = {"predictors": predictors, "optimizer": self.optimizer.state_dict()}
        settings = {"settings": self._settings()}
        write_state(state | settings | {"n_steps": self.n_steps, "seconds": self.seconds}, file)

    def _settings(self) -> dict[str, str]:
        return {name: repr(value) for name, value in asdict(self.plan).items()}

    def resume(self, file: Path) -> dict[str, tuple[str, str]]:
        """Continues where `save` left off; checkpoint and shards must be the same.

        Returns the settings of the plan that are other than then, as (then, now). SettingsError where the rank is.
        """
        state = read_state(file)
        ranks = {stored["fc1.weight"].shape[0] for stored in state["predictors"]}
        if ranks != {self.plan.rank} or len(state["predictors"]) != len(self.mlps):
            raise SettingsError(
                f"{file} is the state of {len(state['predictors'])} predictors of rank {sorted(ranks)}: give the same "
                "checkpoint and --rank as before, or another output directory", path=str(file),
            )  # fmt: skip
        for mlp, stored in zip(self.mlps, state["predictors"], strict=True):
            mlp.predictor.load_state_dict(stored)
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_steps, self.seconds = state["n_steps"], state["seconds"]
        return changed_settings(state.get("settings", {}), self._settings())


def train(run: PredictorTraining, work: Path, save_every: float, say: Callable[[str], None]) -> None:
    """To the end of the plan; the state is written every `save_every` seconds and at the end."""
    log = CsvLog(work / "log.csv", run.n_steps, COLUMNS)
    saved = time.monotonic()
    try:
        while run.n_steps < run.plan.steps:
            row = run.step()
            log.write(row)
            say(" ".join(f"{key} {row[key]:.4g}" for key in COLUMNS))
            if time.monotonic() - saved >= save_every:
                run.save(work / "state.pt")
                saved = time.monotonic()
        run.save(work / "state.pt")
    finally:
        log.close()


def _parser() -> argparse.ArgumentParser:
    raw, plan = argparse.RawDescriptionHelpFormatter, Plan(1)
    p = argparse.ArgumentParser(prog="turbosparse.train.predictors", description=__doc__, formatter_class=raw)
    p.add_argument("checkpoint", type=Path, help="directory of a dReLU model")
    p.add_argument("-o", "--out", type=Path, required=True, help="checkpoint directory to write")
    p.add_argument("--data", type=Path, required=True, help="directory of token shards")
    p.add_argument("--steps", type=int, default=400, help="batches")
    p.add_argument("--rank", type=int, default=plan.rank)
    p.add_argument("--batch", type=int, default=plan.batch, help="windows of 256 tokens; lower it if memory runs out")
    p.add_argument("--lr", type=float, default=plan.lr)
    p.add_argument("--warm", type=float, default=plan.warm, help="share of the steps before the mask is applied")
    p.add_argument("--pos-weight", type=float, default=plan.pos_weight, help="more: more recall, more kept")
    add_dtype_option(p)
    p.add_argument("--out-dtype", choices=("f32", "bf16"), default="bf16")
    p.add_argument("--resume", action="store_true", help="go on from OUT/train/state.pt if there is one")
    p.add_argument("--save-every", type=float, default=60.0, help="seconds between states")
    p.add_argument("--seed", type=int, default=plan.seed)
    p.add_argument("--threads", type=int, default=1)
    return p


def run(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The command."""
    torch.set_num_threads(args.threads)
    model, shards, work = load(args.checkpoint), Shards(args.data), args.out / "train"
    shards.check(model.config.vocab_size)
    plan = Plan(
        args.steps, args.rank, args.batch, lr=args.lr, warm=args.warm, pos_weight=args.pos_weight, seed=args.seed
    )
    training = PredictorTraining(model, shards, plan, dtype_for(args.dtype, "cpu"))
    work.mkdir(parents=True, exist_ok=True)
    if args.resume and (work / "state.pt").exists():
        changed = training.resume(work / "state.pt")
        say("\n".join([f"resumed at step {training.n_steps}", *changed_lines(changed)]))
    train(training, work, args.save_every, say)
    save(training.model, args.out, {"f32": torch.float32, "bf16": torch.bfloat16}[args.out_dtype])
    copy_tokenizer(args.checkpoint, args.out)
    return 0


def main() -> int:
    """Command line."""
    args = _parser().parse_args()
    return reported(lambda: run(args, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    sys.exit(main())
