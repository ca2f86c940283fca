"""Abrupt or annealed? `python -m turbosparse.train.swap_study SRC --data SHARDS` swaps single FFNs in many ways.

Each chosen layer's FFN learns its teacher's outputs on the teacher's inputs, from the same start (signs canonicalised),
with the same tokens, rate schedule and feedback towards the same zero rate; only the way from SwiGLU to dReLU differs:
at once, or over a share of the steps, as a blend of both or by a leak of the negative sides that closes. Prints the
held-out error (surgery.token_error) and zero rate of each, mean over layers and seeds, as a Markdown table.

Measured on SmolLM2-135M (trimmed vocabulary) with `--layers 8,15 --anneal 0,0.3,0.6 --shapes blend --lr 1e-3
--windows 40` (100 steps of 512 tokens, one seed): at once 0.1841, over the first 0.3 of the steps 0.1805, over 0.6 of
them 0.1884, at zero rates of 0.848, 0.850 and 0.855. Annealing pays if most steps are left for dReLU itself.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import drelu, swiglu
from turbosparse.train.losses import Controller
from turbosparse.train.surgery import TEACHER, canonicalise_signs, token_error
from turbosparse.train.walk import walk

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


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="turbosparse.train.swap_study", description=__doc__, formatter_class=raw)
    p.add_argument("source", type=Path)
    p.add_argument("--data", type=Path, required=True, help="directory of token shards")
    p.add_argument("--layers", type=_numbers, default=[8, 15], metavar="8,15")
    p.add_argument("--anneal", type=_numbers, default=[0.0, 0.3, 0.6], metavar="0,0.3")
    p.add_argument("--shapes", default="blend,leak")
    p.add_argument("--lr", type=_numbers, default=[1e-3, 5e-3], metavar="1e-3,5e-3")
    p.add_argument("--steps", type=_numbers, default=[100], metavar="100,400")
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--batch", type=int, default=512, help="tokens per step")
    p.add_argument("--windows", type=int, default=64, help="of 256 tokens to train on; an eighth more is held out")
    p.add_argument("--zero-target", type=float, default=0.88)
    p.add_argument("--threads", type=int, default=1)
    return p


def main() -> None:
    """Command line."""
    from turbosparse.train.shards import Shards
    from turbosparse.train.source import open_source

    args = _parser().parse_args()
    torch.set_num_threads(args.threads)
    source, shards = open_source(args.source), Shards(args.data)
    shards.check(source.config.vocab_size, source.tokenizer.sha256 if source.tokenizer else None)
    n_held = max(args.windows // 8, 1)
    rows = torch.from_numpy(shards.sample(np.random.default_rng(1), args.windows + n_held, 256)[:, :-1])
    model, layers = source.model().eval().requires_grad_(False), [int(i) for i in args.layers]
    canonicalise_signs(model, [rows[:4]])
    data = collect(model, rows, layers, n_held)
    print("| steps | lr | anneal | shape | error | zero rate |\n|---|---|---|---|---|---|", flush=True)
    for steps, lr, anneal in itertools.product(args.steps, args.lr, args.anneal):
        for shape in args.shapes.split(",") if anneal else ["-"]:
            plans = [Plan(anneal, shape, lr, int(steps), args.batch, args.zero_target, s) for s in range(args.seeds)]
            found = [train(model.model.layers[i].mlp, data[i], plan) for i in layers for plan in plans]
            error, zero = (sum(values) / len(found) for values in zip(*found, strict=True))
            print(f"| {int(steps)} | {lr:g} | {anneal:g} | {shape} | {error:.4f} | {zero:.3f} |", flush=True)


if __name__ == "__main__":
    main()
