"""The published numbers: each with its command, its machine and its date, in bench/results/ID.csv.

python -m bench.publish --models DIR ID...             measure; DIR has the files that RECIPES names
python -m bench.publish --models DIR --again ID...     measure again, and say whether the ratios agree
python -m bench.publish --table                        write the table of bench/results/README.md again
python -m bench.publish --models DIR --into slow --extra "--bandwidth 38-55" ID...   a folder of its own
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turbosparse.bench import machine
from turbosparse.bench.output import render, write_file
from turbosparse.bench.record import flat

RESULTS = Path(__file__).with_name("results")
BEGIN, END = "<!-- table: python -m bench.publish --table -->\n", "<!-- end of table -->\n"

RECIPES = {
    "7b-q4_0.gguf": "--shape mistral-7b --outtype q4_0",
    "7b8-q4_0.gguf": "--shape mistral-7b --layers 8 --outtype q4_0",
    "7b16-q8_0.gguf": "--shape mistral-7b --layers 16 --outtype q8_0",
    "7b-q4_k.gguf": "--shape mistral-7b --outtype q4_k",
    "8x7b12-q4_0.gguf": "--shape mixtral-8x7b --layers 12 --outtype q4_0",
}


@dataclass(frozen=True)
class Goal:
    """A line of the table.

    Attributes:
        work: what is done.
        id: of the measurement, a name in COMMANDS.
        test, mode: which of its rows.
        least, aim: ratios wanted, or shares, or seconds.
    """

    work: str
    id: str
    test: str
    mode: str
    least: float
    aim: float
    column: str = "ratio"


COMMANDS = {
    "decode": "7b-q4_0.gguf -p 0 -n 16 -r 8 --against llama.cpp",
    "depth": "7b-q4_0.gguf -p 0 -n 8 -d 4096 -r 12 --against llama.cpp",
    "experts": "8x7b12-q4_0.gguf -p 0 -n 16 -r 8 --against llama.cpp",
    "q4_k": "7b-q4_k.gguf -p 0 -n 16 -r 8 --against llama.cpp",
    "q8_0": "7b16-q8_0.gguf -p 0 -n 16 -r 8 --against llama.cpp",
    "batch": "7b8-q4_0.gguf -p 0 -n 8 -npl 4,8 -r 5 --mode predicted --against llama.cpp",
    "prefill": "7b8-q4_0.gguf -p 512 -n 0 -r 5 --against llama.cpp",
    "load": "7b-q4_0.gguf -p 0 -n 0 --load -r 5",
}
GOALS = [
    Goal("decode 7B shape, predicted", "decode", "tg16", "predicted", 2.3, 3.0),
    Goal("decode 7B shape, exact", "decode", "tg16", "exact", 1.6, 1.9),
    Goal("decode 7B shape at depth 4096, predicted", "depth", "tg8 @ d4096", "predicted", 1.8, 2.4),
    Goal("decode 8x7B shape (12 layers), predicted", "experts", "tg16", "predicted", 2.3, 3.0),
    Goal("decode Q4_K, predicted", "q4_k", "tg16", "predicted", 2.2, 3.0),
    Goal("decode Q8_0 (16 layers), predicted", "q8_0", "tg16", "predicted", 2.2, 3.0),
    Goal("decode batch 4 (8 layers), predicted", "batch", "tg8 x4", "predicted", 1.3, 1.8),
    Goal("decode batch 8 (8 layers), predicted", "batch", "tg8 x8", "predicted", 1.3, 1.8),
    Goal("prefill pp512 (8 layers), exact", "prefill", "pp512", "exact", 1.0, 1.2),
    Goal("prefill pp512 (8 layers), predicted", "prefill", "pp512", "predicted", 0.9, 1.2),
    Goal("bandwidth in decode 7B, predicted", "decode", "tg16", "predicted", 0.75, 0.9, "bandwidth_frac"),
    Goal("bandwidth in decode 7B, exact", "decode", "tg16", "exact", 0.75, 0.9, "bandwidth_frac"),
    Goal("load of 7B to the first token, s", "load", "load", "predicted", 3.0, 1.0, "seconds"),
]


def run(words: list[str], models: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of `turbosparse bench` with these arguments, and what it noted about the opponent."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "turbosparse.cli", "bench", *words, "-o", "json", "--out", str(out)]
        done = subprocess.run(command, cwd=models, stderr=subprocess.PIPE, text=True)
        print(done.stderr, file=sys.stderr, end="")
        if done.returncode:
            raise SystemExit(done.returncode)
        rows = json.loads(out.read_text(encoding="utf-8"))
    notes = [
        line.removeprefix("turbosparse: ")
        for line in done.stderr.splitlines()
        if "taken:" in line or "left out" in line
    ]
    print(render(rows, "md"), end="")
    return rows, notes


def measure(name: str, models: Path, extra: list[str], folder: Path) -> None:
    """Run one command and store its rows, with what is needed to repeat it."""
    words = [*COMMANDS[name].split(), *extra]
    rows, notes = run(words, models)
    head = [
        f"turbosparse synth --gguf {RECIPES[words[0]]} -o {words[0]}",
        f"turbosparse bench {' '.join(words)}",
        f"machine: {json.dumps(machine.describe())}",
        f"commit: {machine.commit()}",
        *notes,
    ]
    folder.mkdir(exist_ok=True)
    write_file(folder / f"{name}.csv", "".join(f"# {line}\n" for line in head) + render(rows, "csv"))


def compare(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """A line for each ratio that was published under `name`: does that of `rows` agree, do their intervals overlap?"""
    again, lines = {(row["test"], row["mode"]): row for row in map(flat, rows)}, []
    for old in filter(lambda row: row["ratio"], stored(name)):
        new = again[old["test"], old["mode"]]
        intervals = [[float(row[f"ratio_ci95_{end}"]) for end in ("low", "high")] for row in (old, new)]
        verdict = "agree" if max(low for low, _ in intervals) <= min(high for _, high in intervals) else "DIFFER"
        shown = [
            f"{float(row['ratio']):.2f} [{low:.2f}, {high:.2f}]"
            for row, (low, high) in zip((old, new), intervals, strict=True)
        ]
        lines.append(f"{name}, {old['test']} {old['mode']}: {shown[0]} and {shown[1]} {verdict}")
    return lines


def stored(name: str) -> list[dict[str, str]]:
    """Rows of a measurement; [] when it has not been made."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if not line.startswith("#")]
    return list(csv.DictReader(io.StringIO("".join(lines))))


def line(goal: Goal) -> list[str]:
    """Cells of one line."""
    row = next((r for r in stored(goal.id) if (r["test"], r["mode"]) == (goal.test, goal.mode)), None)
    unit = {"ratio": "x", "bandwidth_frac": "%", "seconds": " s"}[goal.column]
    scale = 100 if unit == "%" else 1

    def show(value: float) -> str:
        return f"{value * scale:.0f}{unit}" if unit == "%" else f"{value:.2f}{unit}"

    if row is None:
        return [goal.work, "not measured", "", show(goal.least), show(goal.aim), "", "", "", "", goal.id]
    value = float(row["median_ts"]) ** -1 if goal.column == "seconds" else float(row[goal.column] or "nan")
    reached = value <= goal.least if goal.column == "seconds" else value >= goal.least
    interval = (
        f"{float(row['ratio_ci95_low']):.2f} .. {float(row['ratio_ci95_high']):.2f}"
        if row["ratio"] and unit == "x"
        else ""
    )
    stock = next((r for r in stored(goal.id) if (r["test"], r["mode"]) == (goal.test, "llama.cpp")), None)
    plain = f"{float(row['median_ts']) / float(stock['median_ts']):.2f}x" if stock else ""
    sparsity = " / ".join(_percent(row[key]) for key in ("active_frac", "selected_frac", "recall"))
    met = "yes" if reached else "**no**"
    return [
        goal.work,
        f"**{show(value)}**",
        interval,
        show(goal.least),
        show(goal.aim),
        met,
        row["baseline"],
        plain,
        sparsity,
        goal.id,
    ]


def _percent(text: str) -> str:
    return f"{100 * float(text):.1f} %" if text else "-"


def table() -> str:
    """The table as markdown."""
    titles = [
        "work",
        "measured",
        "95 %",
        "at least",
        "aim",
        "reached",
        "against",
        "medians: ours / stock",
        "active / selected / recall",
        "file",
    ]
    rows: list[list[Any]] = [line(goal) + [""] * (len(titles) - len(line(goal))) for goal in GOALS]
    for row in rows:
        row[-1] = f"[{row[-1]}.csv]({row[-1]}.csv)" if stored(row[-1]) else ""
    body = ["| " + " | ".join(cells) + " |" for cells in [titles, ["---"] * len(titles), *rows]]
    return "\n".join(body) + "\n"


def main() -> None:
    """Measure, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", help=", ".join(COMMANDS))
    parser.add_argument("--models", type=Path, help="directory of the files")
    parser.add_argument("--again", action="store_true", help="store nothing; exit code 1 when a ratio differs")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--into", type=Path, default=Path(), help="folder in bench/results")
    parser.add_argument("--extra", default="", help="more options for turbosparse bench")
    given = parser.parse_args()
    if given.again:
        commands = {name: [*COMMANDS[name].split(), *given.extra.split()] for name in given.ids}
        lines = [line for name, words in commands.items() for line in compare(name, run(words, given.models)[0])]
        print("\n".join(lines))
        raise SystemExit(any("DIFFER" in line for line in lines))
    for name in given.ids:
        measure(name, given.models, given.extra.split(), RESULTS / given.into)
    if given.table:
        path = RESULTS / "README.md"
        text = path.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        write_file(path, before + BEGIN + table() + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
