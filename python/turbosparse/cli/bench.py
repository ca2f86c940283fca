"""turbosparse bench"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from ..options import FlashAttn, KvType, Mode
from . import options

if TYPE_CHECKING:
    from ..bench.output import Row
    from ..bench.plan import Settings, Test
    from ..bench.runner import Job, Window

MODES = tuple(mode for mode in get_args(Mode) if mode != "reference")  # which is slow on purpose
Format = Literal["md", "csv", "json", "jsonl", "sql"]


def command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="TurboSparse GGUF files.", show_default=False)],
    n_prompt: Annotated[str, typer.Option("-p", "--n-prompt", help="Prompt tokens, a test each; 0 = none.")] = "512",
    n_gen: Annotated[str, typer.Option("-n", "--n-gen", help="Generated tokens, a test each; 0 = none.")] = "128",
    pg: Annotated[list[str] | None, typer.Option("-pg", help="PROMPT,GENERATED in one test; repeatable.")] = None,
    n_depth: Annotated[str, typer.Option("-d", "--n-depth", help="Tokens in the KV cache before a test.")] = "0",
    n_parallel: Annotated[str, typer.Option("-npl", help="Sequences decoded side by side.")] = "1",
    load: Annotated[bool, typer.Option("--load", help="Also time loading, to the first token.")] = False,
    modes: Annotated[
        str | None,
        typer.Option("--mode", help=f"Of {', '.join(MODES)}. [default: exact, and predicted if the file can]"),
    ] = None,
    repetitions: Annotated[int, typer.Option("-r", "--repetitions", min=1, help="Of every test.")] = 5,
    threads: Annotated[str | None, typer.Option("-t", "--threads", help="[default: physical cores]")] = None,
    n_batch: Annotated[str, typer.Option("-b", "--batch-size", help="Tokens per call.")] = "2048",
    n_ubatch: Annotated[str, typer.Option("-ub", "--ubatch-size", help="Tokens per graph.")] = "512",
    flash_attn: Annotated[
        str, typer.Option("-fa", "--flash-attn", help=f"Of {', '.join(get_args(FlashAttn))}.")
    ] = "auto",
    type_k: Annotated[str, typer.Option("-ctk", "--cache-type-k", help=f"Of {', '.join(get_args(KvType))}.")] = "f16",
    type_v: Annotated[
        str | None, typer.Option("-ctv", "--cache-type-v", help="Must be that of K. [default: that of K]")
    ] = None,
    memory: options.MemoryOption = "auto",
    no_warmup: Annotated[bool, typer.Option("--no-warmup", help="Time the first run as well.")] = False,
    against: Annotated[
        Literal["llama.cpp"] | None,
        typer.Option("--against", help="Compare with stock llama.cpp on the dense twin.", show_default=False),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="The dense twin. [default: FILE.dense.gguf]", show_default=False)
    ] = None,
    baseline_buffer: Annotated[
        str | None,
        typer.Option(
            "--baseline-buffer",
            help="Its buffer type: CPU, CPU_REPACK, AMX. [default: the fastest]",
            show_default=False,
        ),
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            "--bandwidth",
            metavar="LOW-HIGH",
            help="Time one-token decode only while the memory reads at so many GB/s. [default: any steady speed]",
            show_default=False,
        ),
    ] = None,
    form: Annotated[Format, typer.Option("-o", "--output", help="Format of the results.")] = "md",
    form_stderr: Annotated[
        Format | None, typer.Option("-oe", help="Also print to standard error, in this format.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write a file instead of standard output.")] = None,
) -> None:
    """Measure speed and sparsity of TurboSparse GGUF files, in llama-bench's schema.

    Options, tests (pp512, tg128 @ d4096) and fields are those of llama-bench; more fields say what
    the sparsity did: share of neurons active and selected, weight bytes per token, share of the
    memory's bandwidth. Numbers take lists and ranges: 1,2,4  1-4  1-8*2.

    turbosparse bench m.gguf -p 0 -n 64

    turbosparse bench m.gguf --against llama.cpp -n 64 -d 0,4096 -o json --out result.json

    With --against, stock llama.cpp runs m.dense.gguf (`synth --gguf` writes it) in a process of its
    own and takes turns with us. Each of our rows then has `ratio`, its time over ours, and the 95 %
    interval of it. The opponent is its fastest buffer type; where that stays below 85 % of
    the measured bandwidth in decoding, dense bytes over bandwidth is the opponent instead.

    Decode is measured against the memory's speed, so a round in which that changes is taken again.
    Where it has several states, as on a virtual machine that is moved about, --bandwidth 35-55 asks for one.
    """
    from ..bench import output, plan
    from ..model import silence_host

    silence_host()
    settings = _settings(threads, n_batch, n_ubatch, flash_attn, type_k, type_v)
    pairs = [plan.pair(text, "-pg") for text in pg or []]
    counts = [
        plan.numbers(*given) for given in ((n_prompt, "-p"), (n_gen, "-n"), (n_depth, "-d"), (n_parallel, "-npl"))
    ]
    window = _window(bandwidth) if bandwidth else None
    tests = plan.plan(counts[0], counts[1], pairs, counts[2], counts[3], load)
    chosen = plan.words(modes, MODES, "--mode") if modes else None
    if out is not None:
        output.require_writable(out)
    rows: list[Row] = []
    for file in files:
        twin = _twin(file, baseline) if against or baseline else None
        job = _job(file, settings, tests, chosen, repetitions, not no_warmup, twin, baseline_buffer, memory, window)
        for found in _run(job):
            rows += found
            if form == "jsonl" and out is None:  # the one format whose lines stand for themselves
                output.emit(sys.stdout, found, form)
    if out is not None:
        output.write_file(out, output.render(rows, form))
    elif form != "jsonl":
        output.emit(sys.stdout, rows, form)
    if form_stderr:
        output.emit(sys.stderr, rows, form_stderr)


def _settings(
    threads: str | None, n_batch: str, n_ubatch: str, flash_attn: str, type_k: str, type_v: str | None
) -> list[Settings]:
    from ..bench.plan import Settings, numbers, words
    from ..threads import default_threads

    kv = get_args(KvType)
    found = itertools.product(
        numbers(threads, "-t") if threads else [default_threads()],
        numbers(n_batch, "-b"),
        numbers(n_ubatch, "-ub"),
        words(flash_attn, get_args(FlashAttn), "-fa"),
        words(type_k, kv, "-ctk"),
    )
    values = words(type_v, kv, "-ctv") if type_v else None
    return [Settings(t, b, ub, fa, k, v) for t, b, ub, fa, k in found for v in values or [k]]


def _window(text: str) -> Window:
    from ..bench.runner import Window
    from ..errors import ArgumentError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", text)
    low, high = (float(group) * 1e9 for group in match.groups()) if match else (0.0, 0.0)
    if low >= high:
        raise ArgumentError(
            f"--bandwidth does not take {text!r}.",
            where="--bandwidth",
            expected="LOW-HIGH in GB/s, such as 35-55",
            found=text,
        )
    return Window(low, high)


def _twin(file: Path, baseline: Path | None) -> Path:
    from ..errors import FileError

    twin = baseline or file.with_name(file.stem + ".dense.gguf")
    if not twin.is_file():
        raise FileError(
            f"{twin} does not exist: --against needs the same model as an ordinary GGUF file. "
            "`turbosparse synth --gguf` writes one beside the sparse file; --baseline names another.",
            where="--baseline",
            expected="a dense GGUF file",
            found="nothing",
        )
    return twin


def _job(
    file: Path,
    settings: list[Settings],
    tests: list[Test],
    modes: list[str] | None,
    repetitions: int,
    warm_up: bool,
    twin: Path | None,
    buffers: str | None,
    memory: str,
    window: Window | None,
) -> Job:
    from ..bench.runner import Job
    from ..model import Model

    if modes is None:
        with Model(file, n_ctx=64, n_threads=1) as model:
            modes = ["exact", "predicted"] if model.info.has_predictor else ["exact"]
    return Job(file, settings, tests, modes, repetitions, warm_up, twin, buffers, memory, window)


def _run(job: Job) -> Iterator[list[Row]]:
    from ..bench.runner import Advance, Runner

    with _progress(job.file.name) as (note, advance):
        found: Advance = advance
        for records in Runner(job, note, found).run():
            yield [record.as_dict() for record in records]


@contextmanager
def _progress(name: str) -> Iterator[tuple]:  # type: ignore[type-arg]
    """(note, advance): lines and a bar on standard error; the bar on a terminal only."""
    if not sys.stderr.isatty():
        yield (lambda text: print(f"turbosparse: {text}", file=sys.stderr)), (lambda label, done, total: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)

        def advance(label: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=f"{name} {label}")

        yield (lambda text: bar.console.print(text, markup=False, highlight=False)), advance
