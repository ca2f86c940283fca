"""turbosparse convert"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import JsonOption, show_bytes

if TYPE_CHECKING:
    from turbosparse.convert.export import Written
    from turbosparse.convert.job import Job, Options


def command(
    src: Annotated[str, typer.Argument(metavar="SRC", help="Checkpoint directory, or a hub id (org/name).")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="GGUF file to write. [default: NAME-OUTTYPE.gguf here]", show_default=False),
    ] = None,
    outtype: Annotated[
        str,
        typer.Option(
            "--outtype",
            help="Type of the matrices: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k or q6_k.",
        ),
    ] = "f16",
    predictor_type: Annotated[
        str | None,
        typer.Option(
            "--predictor-type",
            help="Type of the predictors. [default: as trained for f32, f16 and bf16, else q4_0]",
            show_default=False,
        ),
    ] = None,
    predictors: Annotated[
        Path | None,
        typer.Option("--predictors", help="Directory with predictors, for checkpoints that do not embed them."),
    ] = None,
    fc2_by_unit: Annotated[
        bool | None,
        typer.Option(
            "--fc2-by-unit/--fc2-by-neuron",
            help="Store the predictors' second matrix by hidden unit, so that rows of units at zero are not read. "
            "[default: where predictors are quantised]",
            show_default=False,
        ),
    ] = None,
    no_predictors: Annotated[
        bool, typer.Option("--no-predictors", help="Leave embedded predictors out: exact mode only.")
    ] = False,
    stats: Annotated[
        Path | None,
        typer.Option("--stats", help="Activation counts (safetensors): order the neurons hot first."),
    ] = None,
    profile_text: Annotated[
        Path | None,
        typer.Option("--profile-text", help="Count activations on this text first, then as with --stats."),
    ] = None,
    profile_tokens: Annotated[
        int, typer.Option("--profile-tokens", min=1, help="Read at most this many tokens of that text.")
    ] = 32768,
    pure: Annotated[bool, typer.Option("--pure", help="Give the output matrix the same type, not q6_k.")] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .pt and .bin files with torch's weights-only loader.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", min=1, help="Threads. [default: all cores]", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan (tensors, types, bytes, memory, time) and stop.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a TurboSparse GGUF file from a Hugging Face checkpoint.

    Reads TurboSparse-Mistral, TurboSparse-Mixtral, Bamboo, ReluLLaMA and ProSparse (safetensors).
    Models with SwiGLU are refused: their neurons are almost never zero, so skipping any is wrong.

    turbosparse convert TurboSparse-Mistral-Instruct -o m.gguf --outtype q4_0

    turbosparse convert Bamboo-base-v0.1 --predictors Bamboo-base-v0.1-predictor -o b.gguf

    With --profile-text (or --stats) the neurons are stored hot first, so that the start of every
    layer holds those that matter most; any memory budget then works without converting again.

    Memory stays below 2 GB whatever the model's size. The file grows as NAME.part and takes its
    name only when it is complete.
    """
    from turbosparse.convert.errors import UsageError
    from turbosparse.convert.job import Options

    if stats is not None and profile_text is not None:
        raise UsageError("--stats and --profile-text exclude each other; give one of them")
    options = Options(outtype, predictor_type, predictors, no_predictors, stats, pure, allow_pickle, fc2_by_unit)
    target = out or Path(f"{Path(src).resolve().name}-{outtype.upper()}.gguf")
    if dry_run:
        _dry_run(src, target, options, threads, as_json)
    elif profile_text is not None:
        _convert_profiled(src, target, options, profile_text, profile_tokens, threads, force, as_json)
    else:
        _convert(src, target, options, threads, force, as_json)


def _convert(src: str, out: Path, options: Options, threads: int | None, force: bool, as_json: bool) -> None:
    from turbosparse.convert.job import open_job
    from turbosparse.convert.progress import progress_bar

    with open_job(src, options) as job:
        for note in job.notes:
            _say(f"note: {note}")
        with progress_bar(f"{out.name}") as progress:
            written = job.write(out, force=force, threads=threads, progress=progress)
        _report(job, written, as_json)


def _convert_profiled(
    src: str,
    out: Path,
    options: Options,
    text: Path,
    max_tokens: int,
    threads: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Export in the checkpoint's order, count with the engine, export again hot first."""
    import dataclasses

    from turbosparse.convert.errors import UsageError
    from turbosparse.convert.export import prepare_output
    from turbosparse.convert.job import open_job
    from turbosparse.convert.progress import progress_bar
    from turbosparse.profile import profile_file

    if not text.is_file():
        raise UsageError(f"--profile-text {text} is not a file", path=str(text))
    if prepare_output(out, 0, force=force):
        _say(f"note: removed {out.name}.part, left by an interrupted run")
    temporary, stats = out.with_name(out.name + ".profile.gguf"), out.with_name(out.name + ".stats.safetensors")
    try:
        with open_job(src, options) as job, progress_bar("1/3 export to profile") as progress:
            job.write(temporary, force=True, threads=threads, progress=progress)
        with progress_bar("2/3 count activations", unit="tokens") as progress:
            advance = (lambda done, total: progress("", done, total)) if progress else None
            counted = profile_file(temporary, text, stats, max_tokens=max_tokens, progress=advance)
        _say(f"note: counted activations on {counted.tokens} tokens of {text.name}")
        temporary.unlink()
        _convert(src, out, dataclasses.replace(options, stats=stats), threads, force, as_json)
    finally:
        temporary.unlink(missing_ok=True)
        stats.unlink(missing_ok=True)


def _report(job: Job, written: Written, as_json: bool) -> None:
    n_in = job.n_bytes_in
    rate = n_in / max(written.seconds, 1e-9)
    if as_json:
        facts: dict[str, Any] = {
            "file": str(written.path),
            "bytes": written.n_bytes,
            "source_bytes": n_in,
            "seconds": round(written.seconds, 3),
            "input_bytes_per_second": round(rate),
            "tensors": len(job.plan.tensors),
            "fallbacks": [t.name for t in job.plan.fallbacks],
            "removed_stale_part": written.removed_part,
            "notes": job.notes,
        }
        print(json.dumps(facts))
        return
    if written.removed_part:
        _say(f"note: removed {written.path.name}.part, left by an interrupted run")
    fallbacks = len(job.plan.fallbacks)
    if fallbacks:
        _say(f"note: {fallbacks} tensors have another type, as their width does not fit (--dry-run lists them)")
    print(
        f"{written.path}: {len(job.plan.tensors)} tensors, {show_bytes(written.n_bytes)} in {written.seconds:.1f} s "
        f"({show_bytes(rate)}/s read)"
    )


def _dry_run(src: str, out: Path, options: Options, threads: int | None, as_json: bool) -> None:
    import shutil

    from turbosparse.convert.estimate import peak_bytes, seconds
    from turbosparse.convert.export import default_threads
    from turbosparse.convert.job import open_job
    from turbosparse.convert.plan import describe
    from turbosparse.convert.quantize import type_name

    with open_job(src, options) as job:
        plan, n = job.plan, threads or default_threads()
        free = shutil.disk_usage(out.parent).free if out.parent.is_dir() else 0
        facts = {
            "out": str(out),
            "family": job.family.name,
            "bytes": plan.n_bytes,
            "disk_free_bytes": free,
            "peak_memory_bytes_estimated": peak_bytes(plan, n),
            "seconds_estimated": round(seconds(plan, n, job.n_bytes_in), 1),
            "notes": job.notes,
            "tensors": [
                {
                    "name": t.name,
                    "shape": list(t.shape),
                    "type": type_name(t.qtype),
                    "wanted": type_name(t.wanted) if t.wanted is not None else None,
                    "bytes": t.n_bytes,
                }
                for t in plan.tensors
            ],
        }
    if as_json:
        print(json.dumps(facts))
        return
    print("\n".join(describe(t) for t in plan.tensors))
    for note in job.notes:
        print(f"note: {note}")
    print(
        f"{out}: {len(plan.tensors)} tensors, {show_bytes(plan.n_bytes)} of {show_bytes(free)} free; "
        f"{len(plan.fallbacks)} types fall back; about {show_bytes(peak_bytes(plan, n))} of memory and "
        f"{facts['seconds_estimated']} s with {n} threads (estimated). Nothing was written."
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr)
