"""The reference model in one run: `python -m turbosparse.train.reference SRC -o OUT --data SHARDS --minutes 18`.

Picks the layers to keep, heals the smaller SwiGLU model against SRC, then trains two students from it with the same
text, steps and optimiser: the dReLU one, which becomes OUT, and the SwiGLU control. Both learn from SRC. With
--talks N, dialogues of N tokens that SRC writes itself join the text first. OUT/stages has what lies between, OUT/train
what train.drelu and train.heldout (heldout.json, heldout.md) say. Every part is a command of its own, printed as it
starts; a run that was interrupted goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HEAL_SHARE = 0.4  # of the minutes
DONE = "done"


@dataclass(frozen=True)
class Job:
    """Paths, and the options that every training command gets."""

    source: Path
    out: Path
    shards: Path
    device: str
    options: tuple[str, ...]

    @property
    def stages(self) -> Path:
        """Where what lies between is kept."""
        return self.out / "stages"

    def command(self, module: str, *words: object) -> list[str]:
        """One part's command line."""
        return [sys.executable, "-m", f"turbosparse.train.{module}", *map(str, words)]

    def train(self, source: Path, out: Path, *words: object) -> list[str]:
        """`train.drelu` with the first model as its teacher."""
        head = (source, "-o", out, "--data", self.shards, "--teacher", self.source, "--device", self.device)
        return self.command("drelu", *head, "--resume", *words, *self.options)


def call(*commands: Sequence[str]) -> None:
    """Runs commands at the same time; SystemExit with the first exit code that is not 0."""
    for command in commands:
        print("$ " + " ".join(command[1:]), flush=True)
    running = [subprocess.Popen(command) for command in commands]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(next(code for code in codes if code))


def write_talks(job: Job, n_tokens: int, rows: int) -> Path:
    """The shards with the teacher's own dialogues in them."""
    out = job.stages / "talks"
    if not (out / DONE).exists():
        words = (job.source, "--data", job.shards, "-o", out, "--tokens", n_tokens, "--rows", rows)
        call(job.command("instruct", *words, "--join", "--weight", 20, "--device", job.device))
        (out / DONE).touch()
    return out


def choose_layers(job: Job, keep: int) -> str:
    """As --keep-layers takes them."""
    file = job.stages / "layers.txt"
    if not file.exists():
        words = (job.source, "--data", job.shards, "--keep", keep, "-o", file)
        call(job.command("prune", *words, "--device", job.device))
    return file.read_text().strip()


def heal(job: Job, layers: str, minutes: float) -> Path:
    """The pruned SwiGLU model, healed."""
    out = job.stages / "healed"
    words = ("--activation", "swiglu", "--keep-layers", layers, "--minutes", minutes, "--out-dtype", "f32")
    call(job.train(job.source, out, *words))
    return out


def steps_in(log: Path, minutes: float, speed: float) -> int:
    """Steps that fit into the time at `speed` times the pace of a finished run's log.csv."""
    with log.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return max(int(speed * float(last["step"]) / max(float(last["seconds"]), 1e-3) * minutes * 60), 1)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="turbosparse.train.reference", description=__doc__, formatter_class=raw)
    p.add_argument("source", type=Path, help="Hugging Face directory or GGUF file of a SwiGLU model")
    p.add_argument("-o", "--out", type=Path, required=True, help="checkpoint directory of the dReLU student")
    p.add_argument("--data", type=Path, required=True, help="directory of token shards")
    p.add_argument("--minutes", type=float, default=18.0, help="of training in all; the rest takes about two more")
    p.add_argument("--keep", type=int, default=11, help="number of layers")
    p.add_argument("--talks", type=int, default=0, metavar="TOKENS", help="dialogues by the teacher; 0: none")
    p.add_argument("--talk-rows", type=int, default=512, help="of them at once; lower it if memory runs out")
    p.add_argument("--pair-speed", type=float, default=0.45, help="of student and control, at once, against healing's")
    p.add_argument("--student", default="", metavar="OPTIONS", help="more options of train.drelu for the student alone")
    p.add_argument("--device", default="auto")
    p.add_argument("--all", action="append", default=[], metavar="OPTIONS", help="of train.drelu for every training")
    return p


def main() -> int:
    """Command line."""
    args = _parser().parse_args()
    job = Job(
        args.source, args.out, args.data, args.device, tuple(word for words in args.all for word in words.split())
    )
    job.stages.mkdir(parents=True, exist_ok=True)
    if args.talks:
        shards = write_talks(job, args.talks, args.talk_rows)
        job = Job(
            args.source, args.out, shards, args.device, tuple(word for words in args.all for word in words.split())
        )
    healed = heal(job, choose_layers(job, args.keep), HEAL_SHARE * args.minutes)
    steps = steps_in(healed / "train" / "log.csv", (1.0 - HEAL_SHARE) * args.minutes, args.pair_speed)
    control = job.stages / "control"
    call(
        job.train(healed, args.out, "--steps", steps, *args.student.split()),
        job.train(healed, control, "--steps", steps, "--activation", "swiglu"),
    )
    models = (f"teacher={args.source}", f"healed={healed}", f"control={control}", f"student={args.out}")
    call(job.command("heldout", *models, "--data", job.shards, "--json", args.out / "train" / "heldout.json",
                     "--device", args.device))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
