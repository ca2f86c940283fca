"""The main job, end to end: convert the bundled checkpoints, generate, compare with dense.

Run by `make demo`. Every step is a `turbosparse` command, printed before it runs, so that it
can be repeated by hand. Output goes to build/demo/.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "demo"
TURBOSPARSE = Path(sys.executable).parent / "turbosparse"
CHECKPOINTS = {"turbosparse-micro": "She was", "turbosparse-micro-moe": "It is the duty of"}
CHAT = ("turbosparse-smol", "I just got a new dog.")  # stored converted: its checkpoint is large
MODES = ("dense", "exact", "predicted")
TOKENS = 96
SAMPLING = ("--temp", "0.7", "--seed", "7")


def run(*args: str) -> str:
    """Run `turbosparse ARGS` in the repository's root; its standard output. Exits when it fails."""
    command = [str(TURBOSPARSE), *args]
    console.print(Text(f"$ turbosparse {shlex.join(args)}", "bold"))
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout


def convert(name: str) -> Path:
    """Convert a bundled checkpoint, neurons in hot-first order counted on the sample text."""
    out = (OUT / f"{name}-Q8_0.gguf").relative_to(ROOT)
    run(
        "convert",
        f"models/{name}",
        "-o",
        str(out),
        "--outtype",
        "q8_0",
        "--profile-text",
        "models/text/sample.txt",
        "--force",
    )
    return out


def generate(model: Path, prompt: str, mode: str, *more: str) -> dict:
    """One generation as the JSON object that `turbosparse generate --json` prints."""
    args = ("generate", str(model), "-p", prompt, "-n", str(TOKENS), "--mode", mode, *SAMPLING, *more, "--json")
    return json.loads(run(*args))


def megabytes(n: float) -> str:
    """Bytes as megabytes."""
    return f"{n / 1e6:.2f} MB"


def row(name: str, mode: str, result: dict) -> list[str]:
    """One line of the table. Speed and rows are measured; bytes are rows plus tensor sizes."""
    s, t = result["sparsity"], result["timings"]
    n = t["predicted_n"]
    return [
        name,
        mode,
        f"{t['predicted_per_second']:.1f}",
        f"{100 * s['rows'] / s['rows_dense']:.1f} %",
        f"{100 * s['active_frac']:.1f} %",
        megabytes(s["bytes_read"] / n),
        megabytes(s["bytes_dense"] / n),
        f"{s['bytes_dense'] / s['bytes_read']:.2f}x",
    ]


def compare(table: Table, name: str, model: Path, prompt: str, *more: str) -> None:
    """Generate in every mode: the text to the console, the figures to the table."""
    for mode in MODES:
        result = generate(model, prompt, mode, *more)
        if mode != "dense":
            console.print(Text.assemble((f"{mode}: ", "dim"), (prompt, "bold"), " ", result["text"], "\n"))
        table.add_row(*row(name, mode, result))


def main() -> None:
    """Convert, generate, compare."""
    OUT.mkdir(parents=True, exist_ok=True)
    table = Table(title="Decoding, sparse against dense")
    for column in ("model", "mode", "tok/s", "rows computed", "active", "bytes/token", "dense", "fewer bytes"):
        table.add_column(column, justify="left" if column in ("model", "mode") else "right")
    for name, prompt in CHECKPOINTS.items():
        compare(table, name, convert(name), prompt)
    name, prompt = CHAT
    ready = next((ROOT / "models" / name).glob("*.gguf")).relative_to(ROOT)
    compare(table, name, ready, prompt, "--chat", "--top-k", "20", "--repeat-penalty", "1.2")
    console.print(table)
    console.print(
        "These models are small and stay in cache: bytes per token show what sparsity saves, tok/s hardly can. What\n"
        "turbosparse-smol was trained on, and how little it can do: models/turbosparse-smol/README.md."
    )


console = Console(width=None if sys.stdout.isatty() else 120)

if __name__ == "__main__":
    main()
