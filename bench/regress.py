"""Is this tree slower than another commit? Both are built here and take turns in one run.

    python -m bench.regress --base REV        (make bench-regress BASE=REV)

Stored times are of no use on a shared machine: what counts is the ratio of turns that lie next to
each other. A case fails only when the whole 95 % interval of that ratio is beyond LIMIT in the first
look and again in a second, longer one with fresh processes (the first look alone would cry wolf where
a process was unlucky with its memory).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from turbosparse.bench.ratio import Ratio, paired

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("worker.py")
LIMIT = 1.05
TURN_NS = 10e6  # long against a clock, short against the drift of the machine
FIRST, SECOND = 3, 6  # pairs of processes
TURNS = 15  # per pair of processes

Turn = Callable[[str], tuple[float, float]]


class Side:
    """One build, in a process of its own."""

    def __init__(self, python: Path, file: Path, cpu: int) -> None:
        self._process = subprocess.Popen(
            [str(python), str(WORKER), str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        os.sched_setaffinity(self._process.pid, {cpu})
        self.cases: list[str] = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with exit code {self._process.wait()}; its message is above")
        return json.loads(line)

    def run(self, case: str, calls: int) -> float:
        """Nanoseconds of CPU time of `calls` calls."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"case": case, "calls": calls}) + "\n")
        self._process.stdin.flush()
        return float(self._answer()["ns"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


class Pair:
    """Base and head, side by side on one CPU: two of a virtual machine may differ by a tenth. A context manager."""

    def __init__(self, base: Path, head: Path, file: Path, cpu: int) -> None:
        self.sides = [Side(base, file, cpu), Side(head, file, cpu)]
        self._order = random.Random(0)
        self._calls: dict[str, int] = {}

    def __enter__(self) -> Pair:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for side in self.sides:
            side.close()

    @property
    def cases(self) -> list[str]:
        """What both builds can run."""
        return [case for case in self.sides[0].cases if case in self.sides[1].cases]

    def turn(self, case: str) -> tuple[float, float]:
        """CPU time of base and head, one right after the other, in random order."""
        if case not in self._calls:
            self._calls[case] = max(1, round(TURN_NS / max(side.run(case, 1) for side in self.sides)))
        times = [0.0, 0.0]
        for i in self._order.sample([0, 1], 2):
            times[i] = self.sides[i].run(case, self._calls[case])
        return times[0], times[1]


@dataclass(frozen=True)
class Verdict:
    """Head over base for one case; each process pair's median is kept, because luck is per process."""

    case: str
    ratio: Ratio
    medians: tuple[float, ...]

    @property
    def slower(self) -> bool:
        """Whether all of the interval, and most of the processes, lie beyond LIMIT."""
        beyond = sum(median > LIMIT for median in self.medians)
        return self.ratio.low > LIMIT and 3 * beyond >= 2 * len(self.medians)

    def __str__(self) -> str:
        low, high = self.ratio.low, self.ratio.high
        return f"{self.case:18} {self.ratio.median:6.3f}  [{low:.3f}, {high:.3f}]  {'SLOWER' if self.slower else ''}"


def judge(case: str, epochs: Sequence[Sequence[tuple[float, float]]]) -> Verdict:
    """The verdict on turns (base, head) of several process pairs."""
    pairs = [turn for epoch in epochs for turn in epoch]
    ratio = paired([head for _, head in pairs], [base for base, _ in pairs])
    assert ratio
    medians = tuple(sorted(h / b for b, h in epoch)[len(epoch) // 2] for epoch in epochs)
    return Verdict(case, ratio, medians)


def measure(base: Path, head: Path, file: Path, wanted: Sequence[str] | None, epochs: int) -> list[Verdict]:
    """All verdicts, or those on the `wanted` cases."""
    found: dict[str, list[list[tuple[float, float]]]] = {}
    cpus = sorted(os.sched_getaffinity(0))
    for epoch in range(epochs):
        with Pair(base, head, file, cpus[epoch % len(cpus)]) as pair:
            for case in pair.cases if wanted is None else wanted:
                found.setdefault(case, []).append([])
            for _ in range(TURNS):
                for case, turns in found.items():
                    turns[-1].append(pair.turn(case))
    return [judge(case, turns) for case, turns in found.items()]


def build(revision: str, name: str = "", change: Callable[[Path], None] = lambda tree: None) -> Path:
    """The interpreter of a checkout of `revision`, built like this one; kept in build/ for the next time.

    Args:
        name: of a checkout that differs from the revision; `change` makes the difference.
    """
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", f"{revision}^{{commit}}"], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"BASE={revision} is not a commit of this repository: {done.stderr.strip()}")
    tree = ROOT / "build" / "regress" / "-".join(filter(None, (done.stdout.strip()[:12], name)))
    if not tree.exists():
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), revision], check=True)
    change(tree)
    subprocess.run(["make", "-C", str(tree), "setup"], check=True, stdout=subprocess.DEVNULL)
    return tree / ".venv" / "bin" / "python"


def model(folder: Path) -> Path:
    """A file that builds of both sides can read: one layer, 10 % active."""
    from turbosparse.convert.synth_gguf import write_ggufs
    from turbosparse.convert.synth_model import SynthModel
    from turbosparse.convert.synth_shapes import shape

    made = shape("custom", n_layer=1, n_vocab=1024, n_embd=2048, n_ff=7168, n_head=16, n_head_kv=4, ranks=(512,))
    # unquantised predictors: their layout is the oldest
    write_ggufs(SynthModel(made, 3), folder / "m.gguf", outtype="q4_0", predictor_type="f16")
    return folder / "m.gguf"


def main() -> int:
    """0 when nothing is slower, 1 with the list of what is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="commit to compare with")
    parser.add_argument(
        "--head", type=Path, metavar="PYTHON", help="interpreter of another build to judge [default: this one]"
    )
    given = parser.parse_args()
    base = build(given.base)
    head = (given.head or Path(sys.executable)).absolute()  # not resolved: a venv is known by its link
    with tempfile.TemporaryDirectory() as folder:
        file = model(Path(folder))
        print(f"head / base ({given.base}), median of paired turns and its 95 % interval")
        verdicts = measure(base, head, file, None, FIRST)
        print("\n".join(map(str, verdicts)), flush=True)
        suspects = [v.case for v in verdicts if v.slower]
        if suspects:
            print("once more, longer, in fresh processes:")
            verdicts = measure(base, head, file, suspects, SECOND)
            print("\n".join(map(str, verdicts)), flush=True)
    slower = [v.case for v in verdicts if v.slower] if suspects else []
    print(f"slower than {given.base}: {', '.join(slower) or 'nothing'}")
    return int(bool(slower))


if __name__ == "__main__":
    sys.exit(main())
