"""PowerInfer and TurboSparse in turns on the same weights: decode speed, one sequence, CPU.

    python tools/bench_powerinfer.py model.gguf --powerinfer PowerInfer/build/bin/main -t 2

PowerInfer is built by its own README (cmake -S . -B build -DCMAKE_BUILD_TYPE=Release; cmake --build build --target
main). Every turn loads both engines from the page cache and decodes `-n` tokens; what is printed is the median of the
turns' ratios. The file must have Q4_0 or F16 matrices; predictors are compared as they are stored. PowerInfer reads
the predictors' second matrix by neuron only: name such a file of the same weights with --source.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

EVAL = re.compile(r"eval time =\s+[\d.]+ ms /\s+\d+ runs\s+\(\s*([\d.]+) ms per token")
PROMPT = "hello"


def powerinfer(main: Path, model: Path, n: int, threads: int) -> float:
    """Tokens per second of PowerInfer's decode, from its own timings."""
    command = [main, "-m", model, "-p", PROMPT, "-n", n, "-t", threads, "--ignore-eos", "--temp", 0]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    found = EVAL.findall(done.stderr)
    if not found:
        raise SystemExit(f"{main} gave no timings (exit {done.returncode}): {done.stderr[-400:]}")
    return 1000 / float(found[-1])


def turbosparse(model: Path, mode: str, n: int, threads: int) -> float:
    """Tokens per second of our decode, from the command's JSON."""
    command = [sys.executable, "-m", "turbosparse", "generate", model, "-p", PROMPT, "-n", n, "-t", threads]
    command += ["--mode", mode, "--temp", 0, "--ignore-eos", "--json"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["timings"]["predicted_per_second"])


def take_turns(args: argparse.Namespace, theirs: Path) -> None:
    """Print every turn and the median of their ratios."""
    turns = []
    for turn in range(args.turns):
        a = powerinfer(args.powerinfer, theirs, args.n, args.threads)
        b = turbosparse(args.model, args.mode, args.n, args.threads)
        turns.append((a, b))
        line = f"PowerInfer {a:.2f} tok/s, turbosparse {args.mode} {b:.2f} tok/s, {b / a:.2f}x"
        print(f"turn {turn + 1}: {line}", flush=True)
    ratio = statistics.median(b / a for a, b in turns)
    print(f"median ratio {ratio:.2f}, turbosparse over PowerInfer, {args.threads} threads")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--powerinfer", type=Path, required=True, metavar="MAIN", help="PowerInfer's main program")
    parser.add_argument("--source", type=Path, help="export this file for PowerInfer instead: one made --fc2-by-neuron")
    parser.add_argument("--exported", type=Path, help="or take this one, which tools/powerinfer_file.py wrote")
    parser.add_argument("--mode", default="predicted")
    parser.add_argument("-n", type=int, default=24, help="tokens per turn (%(default)s)")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    if args.exported:
        take_turns(args, args.exported)
        return 0
    with tempfile.TemporaryDirectory(dir=args.model.parent) as folder:
        theirs = Path(folder) / "model.powerinfer.gguf"
        exporter = Path(__file__).with_name("powerinfer_file.py")
        subprocess.run([sys.executable, exporter, args.source or args.model, "-o", theirs], check=True)
        take_turns(args, theirs)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
