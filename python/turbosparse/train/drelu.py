"""Turns a SwiGLU model into a dReLU one: `python -m turbosparse.train.drelu SRC -o OUT --data SHARDS --minutes 20`.

SRC is a Llama- or Mistral-layout Hugging Face directory or a GGUF file; SHARDS is a directory of tokens made for its
vocabulary by `python -m turbosparse.train.data`. Four stages share the budget: the FFNs learn their teacher's outputs
on its own inputs while the activation goes over from SwiGLU to dReLU; then on the student's inputs; then the whole
model learns the teacher's distribution; then predictors are trained along and applied. OUT receives the checkpoint
that `turbosparse convert` takes; OUT/train the state, log.csv, curves.svg and report.json. A run that was interrupted
in any way goes on with --resume; with --steps it gives the very same result, with --minutes the same up to timing.

Several GPUs or machines: `torchrun --nproc-per-node 4 -m turbosparse.train.drelu ...`, or `accelerate launch -m`;
--batch is per process, gradients are averaged, rank 0 writes. Exit codes: 2 usage, 3 unsupported source, 4 bad text,
5 disk full, 7 out of memory, 8 diverged.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turbosparse.train.distiller import Distiller
    from turbosparse.train.guide import Guide
    from turbosparse.train.shards import Shards
    from turbosparse.train.source import Source
    from turbosparse.train.team import Team

STATE, LOG, BAD_BATCH = "state.pt", "log.csv", "bad-batch.npy"


@dataclass
class Stopper:
    """A signal handler: the first signal ends the run after the step at hand, the second one at once."""

    seen: bool = False

    def __call__(self, *_: object) -> None:
        """Takes what signal handlers take."""
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True


def train(
    run: Distiller,
    work: Path,
    *,
    log_every: int = 10,
    save_every: float = 300.0,
    should_stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
) -> bool:
    """Runs to the end of the budget or until `should_stop`; whether the end was reached.

    The state is written every `save_every` seconds, at each new stage and at the end.
    """
    from turbosparse.train.distiller import COLUMNS
    from turbosparse.train.trainer import CsvLog

    layers = [f"zero_{i}" for i in range(run.student.config.num_hidden_layers)]
    first = run.team.is_first
    log = CsvLog(work / LOG if first else Path(os.devnull), run.n_steps, (*COLUMNS, *layers))
    saved, stage = time.monotonic(), run.stage
    try:
        while run.progress < 1.0 and not run.team.agree(should_stop(), run.device):
            row, zeros = run.step()
            if first and (run.n_steps % log_every == 0 or run.progress >= 1.0):
                log.write(row | dict(zip(layers, zeros, strict=True)))
                say(_line(run.progress, row))
            if first and (time.monotonic() - saved >= save_every or run.stage != stage):
                run.save(work / STATE)
                saved, stage = time.monotonic(), run.stage
        if first:
            run.save(work / STATE)
    finally:
        log.close()
    return run.progress >= 1.0


def _line(progress: float, row: dict[str, Any]) -> str:
    shown = " ".join(f"{key} {row[key]:.4f}" for key in ("loss", "hidden", "zero_rate", "zero_target", "recall"))
    return f"{row['step']:7} {progress:6.1%} {row['stage']:7} {shown} lr {row['lr']:.1e}"


def _say(line: str) -> None:
    print(line, flush=True)


def export(run: Distiller, source: Source, out: Path, dtype: str) -> None:
    """The checkpoint directory that `turbosparse convert` takes."""
    import torch

    from turbosparse.torch import save
    from turbosparse.train.source import write_llama_config

    save(run.export(), out, {"f32": torch.float32, "bf16": torch.bfloat16}[dtype])
    if not run.is_sparse:
        write_llama_config(run.student.config, out, {"f32": "float32", "bf16": "bfloat16"}[dtype])
    source.write_tokenizer(out)


def write_report(run: Distiller, shards: Shards, file: Path, windows_per_stream: int) -> dict[str, Any]:
    """Held-out numbers and what the surgery did, as JSON."""
    from turbosparse.train.drelu_report import compare_heldout, windows

    recipe = run.recipe
    names = shards.heldout_names
    streams = ((n, windows(shards.heldout(n), recipe.n_tokens, windows_per_stream)) for n in names)
    report = compare_heldout(run.teacher, run.student, streams, run.has_predictors, recipe.batch)
    report |= {"surgery": run.surgery, "steps": run.n_steps, "seconds": run.seconds}
    report["tokens_trained"] = run.n_tokens
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def layer_list(text: str) -> list[int]:
    """ "0-3,7" as [0, 1, 2, 3, 7]."""
    out: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    return out


def _shares(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if len(values) != 4 or min(values) < 0 or sum(values) <= 0:
        raise ValueError(text)
    return values


def _parser() -> argparse.ArgumentParser:
    from turbosparse.train.precision import add_dtype_option

    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="turbosparse.train.drelu", description=__doc__, formatter_class=raw)
    p.add_argument("source", type=Path, help="Hugging Face directory or GGUF file of a SwiGLU model")
    p.add_argument("-o", "--out", type=Path, required=True, help="checkpoint directory to write")
    p.add_argument("--data", type=Path, required=True, help="directory of token shards")
    budget = p.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=20.0, help="training time in all, over every resume")
    budget.add_argument("--steps", type=int, help="instead: a number of optimiser steps, reproducible")
    p.add_argument("--stop-after", type=float, help="minutes after which this process saves and stops, to be resumed")
    p.add_argument("--resume", action="store_true", help="go on from OUT/train/state.pt if there is one")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add_dtype_option(p)
    p.add_argument("--out-dtype", choices=("f32", "bf16"), default="bf16", help="of the checkpoint")
    p.add_argument("--activation", choices=("drelu", "swiglu"), default="drelu",
                   help="swiglu: a control that keeps its activation, trained end to end")  # fmt: skip
    p.add_argument("--teacher", type=Path, help="of the stages whole and masked, if it is not SRC itself")
    p.add_argument("--teacher-cache", nargs="+", metavar="DIR[=WEIGHT]",
                   help="instead: its answers, written by turbosparse.train.teacher_cache")  # fmt: skip
    p.add_argument("--keep-layers", type=layer_list, metavar="0-9,20-29", help="layers of SRC to keep; default all")
    p.add_argument("--batch", type=int, help="sequences per step, 8 or on a GPU 64; lower it if memory runs out")
    p.add_argument("--seq", type=int, help="tokens per sequence, 256 or on a GPU 512")
    p.add_argument("--shares", type=_shares, metavar="T,D,W,M", help="of the stages teacher, drift, whole, masked")
    p.add_argument("--lr", type=float, default=1.0, help="factor on all learning rates")
    p.add_argument("--zero-target", type=float, default=0.88, help="share of neurons that should be zero")
    p.add_argument("--zero-gain", type=float, default=0.3, help="of the feedback; short runs need more")
    p.add_argument("--rank", type=int, default=96, help="of the predictors")
    p.add_argument(
        "--warm",
        type=float,
        default=0.3,
        help="share of the last stage before its predictors' mask is applied; 1: never, nor are they kept",
    )
    p.add_argument(
        "--pos-weight", type=float, default=6.0, help="of non-zero neurons for predictors: more, more recall"
    )
    p.add_argument("--anneal", type=float, default=0.3, help="share of the first stage; 0 swaps the activation at once")
    p.add_argument("--last-mix", type=json.loads, metavar="JSON", help='stream weights in the last stage: {"chat": 1}')
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--save-every", type=float, default=300.0, help="seconds between states")
    p.add_argument("--log-every", type=int, default=10, help="steps between rows of the log")
    p.add_argument("--heldout-windows", type=int, default=32, help="windows per stream in report.json; 0: none")
    return p


def _recipe(args: argparse.Namespace, on_gpu: bool) -> Any:
    from turbosparse.train.drelu_recipe import DreluRecipe

    base = DreluRecipe()
    alone = (0.0, 0.0, 1.0, 0.0)
    return DreluRecipe(
        activation=args.activation,
        shares=args.shares or (base.shares if args.activation == "drelu" else alone),
        lrs=tuple(args.lr * lr for lr in base.lrs),  # type: ignore[arg-type, unused-ignore]
        predictor_lr=args.lr * base.predictor_lr,
        batch=args.batch or (64 if on_gpu else 8),
        n_tokens=args.seq or (512 if on_gpu else 256),
        zero_target=args.zero_target,
        zero_gain=args.zero_gain,
        rank=args.rank,
        anneal=args.anneal,
        warm=args.warm,
        pos_weight=args.pos_weight,
        seed=args.seed,
    )


def open_guide(args: argparse.Namespace, source: Source, device: str) -> Guide | None:
    """The teacher of the last stages, checked against SRC; None: SRC itself."""
    from turbosparse.train.guide import CacheGuide, LiveGuide
    from turbosparse.train.source import open_source
    from turbosparse.train.teacher_cache import open_caches

    if args.teacher_cache:
        mix = open_caches(args.teacher_cache, args.seed)
        for cache, _ in mix.caches:
            vocabulary = source.tokenizer.sha256 if source.tokenizer else None
            cache.check(source.config.vocab_size, source.config.hidden_size, vocabulary)
            args.seq = args.seq or cache.meta.n_tokens
            cache.check_length(args.seq)
        return CacheGuide(mix, source.layers)
    if args.teacher:
        teacher = open_source(args.teacher)
        source.check_teacher(teacher)
        return LiveGuide(teacher.model().to(device).eval().requires_grad_(False), teacher.layers, source.layers)
    return None


def _open(args: argparse.Namespace, work: Path, team: Team, device: str) -> tuple[Distiller, Source, Shards]:
    """Source, shards checked against it, and the run, resumed if asked for."""
    import torch

    from turbosparse.train.distiller import Distiller
    from turbosparse.train.precision import dtype_for
    from turbosparse.train.shards import Shards
    from turbosparse.train.source import open_source
    from turbosparse.train.state import changed_lines
    from turbosparse.train.trainer import Budget

    on_gpu = device.startswith("cuda")
    dtype = dtype_for(args.dtype, device)
    torch.set_float32_matmul_precision("highest" if dtype == torch.float32 else "high")
    shards = Shards(args.data)
    source = open_source(args.source)
    shards.check(source.config.vocab_size, source.tokenizer.sha256 if source.tokenizer else None)
    if args.keep_layers:
        source = source.with_layers(args.keep_layers)
    budget = Budget(args.steps, args.minutes * 60)
    guide = open_guide(args, source, device)
    run = Distiller(source, shards, _recipe(args, on_gpu), budget, device, dtype, args.last_mix, guide, team)
    if args.resume and (work / STATE).exists():
        changed = run.resume(work / STATE)
        if team.is_first:
            _say(f"resumed at step {run.n_steps}, {run.progress:.1%}")
            for line in changed_lines(changed):
                _say(line)
    return run, source, shards


def run(args: argparse.Namespace, stopper: Stopper) -> int:
    """The command; raises what main() turns into one paragraph."""
    import torch

    from turbosparse.train.team import join_team, leave_team

    torch.set_num_threads(args.threads)
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    team, device = join_team(wanted)
    work: Path = args.out / "train"
    if team.is_first:
        if not args.resume:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
    distiller, source, shards = _open(args, work, team, device)
    done = _train_all(args, distiller, work, stopper)
    leave_team(team)
    return _finish(args, distiller, source, shards, done, stopper) if team.is_first else 0


def _train_all(args: argparse.Namespace, distiller: Distiller, work: Path, stopper: Stopper) -> bool:
    """`train`, with the batch kept on which a run diverged."""
    import numpy as np

    from turbosparse.train.faults import DivergedError

    surgery = {key: sum(v) / len(v) for key, v in distiller.surgery.items()}
    if distiller.team.is_first:
        _say("surgery, mean over layers: " + ", ".join(f"{k} {v:.4g}" for k, v in surgery.items()))
    end = math.inf if args.stop_after is None else time.monotonic() + args.stop_after * 60

    def should_stop() -> bool:
        return stopper.seen or time.monotonic() >= end

    options = {"log_every": args.log_every, "save_every": args.save_every, "should_stop": should_stop, "say": _say}
    try:
        return train(distiller, work, **options)
    except DivergedError as error:
        if error.data["is_culprit"]:
            np.save(work / BAD_BATCH, error.data["batch"])
        raise


def _finish(
    args: argparse.Namespace, distiller: Distiller, source: Source, shards: Shards, done: bool, stopper: Stopper
) -> int:
    """Picture, checkpoint and report."""
    from turbosparse.train.curves import draw_curves

    work = args.out / "train"
    draw_curves(work / LOG, work / "curves.svg")
    if stopper.seen:
        _say(f"stopped at step {distiller.n_steps}; go on with --resume")
        return 130
    export(distiller, source, args.out, args.out_dtype)
    if done and args.heldout_windows:
        report = write_report(distiller, shards, work / "report.json", args.heldout_windows)
        _say(json.dumps({key: report.get(key) for key in ("streams", "zero_rate", "recall")}))
    return 0


def main() -> int:
    """Command line."""
    from turbosparse.train.faults import reported

    args = _parser().parse_args()
    stopper = Stopper()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stopper)
    try:
        return reported(lambda: run(args, stopper))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
