"""Abrupt or annealed? `python -m turbosparse.train.swap_study SRC --data SHARDS -o RUNS.csv` swaps in many ways.

First what the bare swap costs with the signs as stored and canonicalised. Then each chosen layer's FFN learns its
teacher's outputs on the teacher's inputs, from the same start (signs canonicalised), with the same tokens, rate
schedule and feedback towards the same zero rate; only the way from SwiGLU to dReLU differs: at once, or over a share of
the steps, as a blend of both or by a leak of the negative sides that closes. With --whole STEPS whole models instead:
FFN distillation for --ffn-share of the steps, then end to end, each way with the same number.

Prints Markdown: held-out error (surgery.token_error; for whole models the loss in nats per token), its standard
deviation over seeds (each the mean over layers), the mean change against `at once` with the same layer and seed, in how
many of these pairs it is lower, the zero rate. RUNS.csv keeps every run; those that it has are not run again, so it
serves one SRC, SHARDS and set of sizes. Results: docs/train-reference.md, "The swap".
"""

from __future__ import annotations

import argparse
import copy
import csv
import functools
import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run, drelu, swiglu
from turbosparse.train.distiller import Distiller
from turbosparse.train.drelu_recipe import DreluRecipe
from turbosparse.train.drelu_report import loss as heldout_loss
from turbosparse.train.drelu_report import windows
from turbosparse.train.end_to_end import ask, compare
from turbosparse.train.evaluate import Counter
from turbosparse.train.faults import SettingsError, reported
from turbosparse.train.losses import Controller
from turbosparse.train.shards import Shards
from turbosparse.train.source import Source, open_source
from turbosparse.train.surgery import TEACHER, canonicalise_signs, swap_errors, token_error
from turbosparse.train.trainer import Budget
from turbosparse.train.walk import walk

WINDOW = 256  # tokens
Activation = Callable[[Tensor, Tensor], Tensor]


def blend(share: float) -> Activation:
    """(1 - share) * SwiGLU + share * dReLU."""
    return lambda gate, up: (1.0 - share) * swiglu(gate, up) + share * drelu(gate, up)


def leak(share: float) -> Activation:
    """dReLU, of whose branches' negative sides a part 1 - share comes through: SwiGLU at 0, dReLU at 1."""

    def activation(gate: Tensor, up: Tensor) -> Tensor:
        soft = share * functional.relu(gate) + (1.0 - share) * functional.silu(gate)
        return soft * functional.leaky_relu(up, 1.0 - share)

    return activation


SHAPES: dict[str, Callable[[float], Activation]] = {"blend": blend, "leak": leak}


@dataclass(frozen=True)
class Data:
    """Inputs and wanted outputs [n, E] of one FFN, to train on and held out."""

    x: Tensor
    wanted: Tensor
    x_held: Tensor
    wanted_held: Tensor


@dataclass(frozen=True)
class Plan:
    """One way to do it. `anneal` is a share of the steps; 0: at once."""

    anneal: float
    shape: str
    lr: float
    steps: int
    batch: int
    target: float
    seed: int


def collect(model: CausalLM, rows: Tensor, layers: list[int], n_held: int) -> dict[int, Data]:
    """The FFNs' inputs and outputs for windows int64 [n, T]; the last `n_held` windows are held out."""
    kept: dict[int, list[tuple[Tensor, Tensor]]] = {i: [] for i in layers}
    with torch.no_grad():
        for part in rows.split(4):
            for i, place in enumerate(walk(model, part, TEACHER)):
                if i in kept:
                    kept[i].append((place.x.flatten(0, 1), (place.finish(TEACHER) - place.residual).flatten(0, 1)))
                if i == max(layers):
                    break
    n = n_held * rows.shape[1]
    both = {i: (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])) for i, parts in kept.items()}
    return {i: Data(x[:-n], y[:-n], x[-n:], y[-n:]) for i, (x, y) in both.items()}


def train(mlp: Any, data: Data, plan: Plan) -> tuple[float, float]:
    """Held-out error and zero rate of a copy of `mlp` after training."""
    mlp = copy.deepcopy(mlp).requires_grad_(True)
    matrices = (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
    optimizer = torch.optim.AdamW(matrices, betas=(0.9, 0.95), weight_decay=0.01)
    controller = Controller(gain=600.0 / plan.steps, log_weight=math.log(0.02))
    rng = torch.Generator().manual_seed(plan.seed)
    with torch.no_grad():
        start = float((drelu(mlp.gate_proj(data.x_held), mlp.up_proj(data.x_held)) == 0).float().mean())
    for step in range(plan.steps):
        done = step / plan.steps
        share = min(done / plan.anneal, 1.0) if plan.anneal > 0 else 1.0
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * min(1.0, (step + 1) / 20) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
        at = torch.randint(len(data.x), (plan.batch,), generator=rng)
        x, wanted = data.x[at], data.wanted[at]
        gate, up = mlp.gate_proj(x), mlp.up_proj(x)
        act = drelu(gate, up)
        active = (act.detach() > 0).float().mean()
        scale = act.detach().mean() / active.clamp(min=1e-6) + 1e-9
        made = mlp.down_proj(act if share >= 1.0 else SHAPES[plan.shape](share)(gate, up))
        loss = token_error(made[None], wanted[None]) + controller.weight * (act / (act + scale)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        torch.nn.utils.clip_grad_norm_(matrices, 1.0)
        optimizer.step()
        ramp = min(max((done - 0.2) / 0.6, 0.0), 1.0)
        controller.update(1.0 - float(active), min(start, plan.target) + ramp * max(plan.target - start, 0.0))
    with torch.no_grad():
        act = drelu(mlp.gate_proj(data.x_held), mlp.up_proj(data.x_held))
        return float(token_error(mlp.down_proj(act)[None], data.wanted_held[None])), float((act == 0).float().mean())


@dataclass(frozen=True)
class Way:
    """What is compared: the same for all seeds and layers."""

    steps: int
    lr: float
    anneal: float
    shape: str

    @property
    def at_once(self) -> Way:
        """What it is compared with."""
        return Way(self.steps, self.lr, 0.0, "-")


class Runs:
    """Error and zero rate of every run, by way, subject (a layer, or "whole") and seed; kept in a CSV file."""

    COLUMNS = ("steps", "lr", "anneal", "shape", "subject", "seed", "error", "zero_rate")

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[tuple[Way, str, int], tuple[float, float]] = {}
        if file.exists():
            with file.open(newline="") as old:
                for r in csv.DictReader(old):
                    way = Way(int(r["steps"]), float(r["lr"]), float(r["anneal"]), r["shape"])
                    self.found[way, r["subject"], int(r["seed"])] = float(r["error"]), float(r["zero_rate"])
        else:
            file.write_text(",".join(self.COLUMNS) + "\n")

    def once(self, way: Way, subject: str, seed: int, run: Callable[[], tuple[float, float]]) -> None:
        """Runs it unless that was done."""
        if (way, subject, seed) in self.found:
            return
        error, zero = self.found[way, subject, seed] = run()
        with self.file.open("a", newline="") as out:
            csv.writer(out).writerow((way.steps, way.lr, way.anneal, way.shape, subject, seed, error, zero))

    def row(self, way: Way, subjects: list[str], seeds: range) -> str:
        """The way's line of the table."""
        found = np.array([[self.found[way, s, seed] for s in subjects] for seed in seeds])
        base = np.array([[self.found[way.at_once, s, seed] for s in subjects] for seed in seeds])
        errors, change = found[..., 0], found[..., 0] / base[..., 0] - 1
        spread = errors.mean(1).std(ddof=1) if len(seeds) > 1 else math.nan
        against = (
            ""
            if way == way.at_once
            else f"{100 * change.mean():+.1f} %, lower in {(change < 0).sum()} of {change.size}"
        )
        head = f"| {way.steps} | {way.lr:g} | {way.anneal:g} | {way.shape} "
        return f"{head}| {errors.mean():.4f} | {spread:.4f} | {against} | {found[..., 1].mean():.3f} |"


HEAD = "| steps | lr | anneal | shape | error | sd over seeds | against at once | zero rate |\n" + "|---" * 8 + "|"


def signs_line(model: CausalLM, calibration: Tensor, held: Tensor) -> str:
    """Canonicalises the signs of `model`; what the bare swap costs on the windows `held` before and after."""

    def cost() -> str:
        errors, zeros = swap_errors(model, [held])
        with torch.no_grad():
            kl = float(compare(ask(model, torch.cat((held, held[:, -1:]), 1), []), model).kl)
        return f"FFN error {np.mean(errors):.4f}, KL {kl:.3f} nats per token, zero rate {np.mean(zeros):.3f}"

    before = cost()
    flips = canonicalise_signs(model, [calibration])
    n = model.config.intermediate_size
    return f"bare swap, held out: {before}; with signs canonicalised ({np.mean(flips) / n:.0%} flipped): {cost()}"


def train_whole(source: Source, shards: Shards, way: Way, seed: int, args: argparse.Namespace) -> tuple[float, float]:
    """Held-out loss and zero rate of a whole student; two windows of every held-out text."""
    base = DreluRecipe()
    recipe = DreluRecipe(
        shares=(args.ffn_share, 0.0, 1.0 - args.ffn_share, 0.0), anneal=way.anneal, seed=seed + 1,
        lrs=tuple(way.lr / base.lrs[0] * lr for lr in base.lrs),  # type: ignore[arg-type, unused-ignore]
        batch=max(args.batch // WINDOW, 1), n_tokens=WINDOW, zero_target=args.zero_target, zero_gain=600.0 / way.steps,
    )  # fmt: skip
    run = Distiller(source, shards, recipe, Budget(steps=way.steps))
    while run.progress < 1.0:
        run.step()
    held = [windows(shards.heldout(name), WINDOW, 2) for name in shards.heldout_names]
    if not sum(map(len, held)):
        raise SettingsError(f"{shards.path} has no held-out text of {WINDOW + 1} tokens to measure on")
    counter = Counter(source.config.num_hidden_layers)
    nats = heldout_loss(run.student, torch.cat(held), Run(dense=True, observer=counter), 4)
    return nats, float(np.mean([counts.rates()["zero"] for counts in counter.layers]))


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="turbosparse.train.swap_study", description=__doc__, formatter_class=raw)
    p.add_argument("source", type=Path)
    p.add_argument("--data", type=Path, required=True, help="directory of token shards")
    p.add_argument("-o", "--out", type=Path, required=True, help="CSV file of all runs, to write or to go on with")
    p.add_argument("--layers", type=_numbers, default=[4, 8, 15, 22], metavar="4,8", help="FFNs to swap alone")
    p.add_argument("--anneal", type=_numbers, default=[0.3, 0.6], metavar="0.3,0.6", help="against 0: at once")
    p.add_argument("--shapes", default="blend,leak")
    p.add_argument("--lr", type=_numbers, default=[1e-3], metavar="1e-3,5e-3")
    p.add_argument("--steps", type=_numbers, default=[100], metavar="100,400")
    p.add_argument("--whole", type=int, default=0, metavar="STEPS", help="whole models instead of single FFNs")
    p.add_argument("--ffn-share", type=float, default=0.5, help="with --whole: share of the steps for FFN distillation")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--batch", type=int, default=512, help="tokens per step")
    p.add_argument("--windows", type=int, default=64, help="of 256 tokens to train on; an eighth more is held out")
    p.add_argument("--zero-target", type=float, default=0.88)
    p.add_argument("--threads", type=int, default=1)
    return p


def ways(args: argparse.Namespace) -> list[Way]:
    """At once first, for each rate and number of steps; a whole model's activation goes over as a blend only."""
    shapes = ["blend"] if args.whole else args.shapes.split(",")
    out = []
    for steps, lr in itertools.product([args.whole] if args.whole else args.steps, args.lr):
        out += [Way(int(steps), lr, 0.0, "-")]
        out += [Way(int(steps), lr, a, shape) for a in args.anneal if a > 0 for shape in shapes]
    return out


def study(args: argparse.Namespace) -> int:
    """The command."""
    torch.set_num_threads(args.threads)
    source, shards, runs = open_source(args.source), Shards(args.data), Runs(args.out)
    shards.check(source.config.vocab_size, source.tokenizer.sha256 if source.tokenizer else None)
    n_held = max(args.windows // 8, 1)
    rows = torch.from_numpy(shards.sample(np.random.default_rng(1), args.windows + n_held, WINDOW)[:, :-1])
    model, layers = source.model().eval().requires_grad_(False), [int(i) for i in args.layers]
    print(signs_line(model, rows[:4], rows[-n_held:]), flush=True)
    data = {} if args.whole else collect(model, rows, layers, n_held)
    seeds, subjects = range(args.seeds), ["whole"] if args.whole else [str(i) for i in layers]

    def run(way: Way, subject: str, seed: int) -> tuple[float, float]:
        if args.whole:
            return train_whole(source, shards, way, seed, args)
        plan = Plan(way.anneal, way.shape, way.lr, way.steps, args.batch, args.zero_target, seed)
        return train(model.model.layers[int(subject)].mlp, data[int(subject)], plan)

    for seed, way, subject in itertools.product(seeds, ways(args), subjects):
        runs.once(way, subject, seed, functools.partial(run, way, subject, seed))
    print("\n".join([HEAD, *(runs.row(way, subjects, seeds) for way in ways(args))]))
    return 0


def main() -> int:
    """Command line."""
    args = _parser().parse_args()
    return reported(lambda: study(args))


if __name__ == "__main__":
    sys.exit(main())
