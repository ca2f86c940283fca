"""`turbosparse synth`: a synthetic checkpoint of a real model's shape, with planted sparsity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import JsonOption

if TYPE_CHECKING:
    from turbosparse.convert.synth_model import SynthModel
    from turbosparse.convert.synth_shapes import Shape

CUSTOM = "Custom shapes"


def command(
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Directory to write; with --gguf a .gguf file or a directory.")
    ],
    shape: Annotated[str, typer.Option(help="mistral-7b, mixtral-8x7b or custom.")] = "mistral-7b",
    layers: Annotated[int | None, typer.Option("--layers", help="Number of layers; default: the shape's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    recall: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Share of active neurons that the predictors select.")
    ] = 0.97,
    gguf: Annotated[bool, typer.Option("--gguf", help="Write GGUF directly, without the checkpoint.")] = False,
    outtype: Annotated[
        str | None, typer.Option(help="Type of the matrices in the GGUF. [default: q4_0]", show_default=False)
    ] = None,
    predictor_type: Annotated[str | None, typer.Option(help="Type of the predictors in the GGUF.")] = None,
    fc2_by_unit: Annotated[
        bool | None, typer.Option("--fc2-by-unit/--fc2-by-neuron", help="As for convert.", show_default=False)
    ] = None,
    hot_first: Annotated[
        bool, typer.Option("--hot-first/--original-order", help="Order of the neurons in the GGUF.")
    ] = True,
    dense: Annotated[
        bool, typer.Option("--dense/--no-dense", help="Also write the dense twin for stock llama.cpp.")
    ] = True,
    n_embd: Annotated[int | None, typer.Option(rich_help_panel=CUSTOM, help="Width of the residual.")] = None,
    n_ff: Annotated[int | None, typer.Option(rich_help_panel=CUSTOM, help="Neurons per FFN (per expert).")] = None,
    n_head: Annotated[int | None, typer.Option(rich_help_panel=CUSTOM, help="Attention heads.")] = None,
    n_head_kv: Annotated[int | None, typer.Option(rich_help_panel=CUSTOM, help="Key and value heads.")] = None,
    n_expert: Annotated[int | None, typer.Option(rich_help_panel=CUSTOM, help="Experts; 0 = dense FFN.")] = None,
    n_vocab: Annotated[int | None, typer.Option(rich_help_panel=CUSTOM, help="Rows of the embedding.")] = None,
    rank: Annotated[
        list[int] | None, typer.Option(rich_help_panel=CUSTOM, help="Rank of the predictors; repeat for one per layer.")
    ] = None,
    active: Annotated[
        float | None, typer.Option(rich_help_panel=CUSTOM, help="Share of neurons that are not zero.")
    ] = None,
    threads: Annotated[int | None, typer.Option("-t", "--threads", min=1, help="Default: all cores.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier run wrote.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a synthetic checkpoint with the shape, names and statistics of a TurboSparse model.

    Weights are random, but made so that 90 % of the neurons are zero for every
    token (85 % within an expert), that few neurons are hot and most are cold,
    and that the predictors find 97 % of the active ones: what a benchmark or a
    test of the engine needs, without a download. Its text means nothing.

    Examples:

      turbosparse synth --shape mistral-7b --layers 4 -o big

      turbosparse convert big -o big.gguf --outtype q4_0

      turbosparse synth --shape mixtral-8x7b --gguf --outtype q4_0 -o big.gguf

    The last one also writes big.dense.gguf, an ordinary llama model with the
    same matrices, to compare with stock llama.cpp. `convert --stats
    big/planted/stats.safetensors` stores the planted hot neurons first.
    """
    from turbosparse.convert.errors import UsageError
    from turbosparse.convert.synth_model import SynthModel
    from turbosparse.convert.synth_shapes import shape as make_shape

    if not gguf and (outtype or predictor_type or fc2_by_unit is not None):
        raise UsageError(
            "--outtype, --predictor-type and --fc2-by-unit are those of a GGUF file: add --gguf, or convert"
        )
    changes: dict[str, Any] = {
        "n_embd": n_embd, "n_ff": n_ff, "n_head": n_head, "n_head_kv": n_head_kv,
        "n_expert": n_expert, "n_vocab": n_vocab, "active": active,
    }  # fmt: skip
    made = make_shape(shape, n_layer=layers, ranks=tuple(rank or ()) or None, **changes)
    model = SynthModel(made, seed, recall)
    if dry_run:
        result = _plan(model)
    elif gguf:
        outtype = outtype or "q4_0"
        sparse = _file_name(out, made, outtype)
        result = _write_gguf(
            model, sparse, outtype=outtype, predictor_type=predictor_type, fc2_by_unit=fc2_by_unit, hot_first=hot_first,
            dense=sparse.with_name(sparse.stem + ".dense.gguf") if dense else None, force=force, threads=threads,
        )  # fmt: skip
    else:
        result = _write_directory(model, out, force=force, threads=threads)
    typer.echo(json.dumps(result, indent=2) if as_json else _describe(result))


def _plan(model: SynthModel) -> dict[str, Any]:
    from turbosparse.convert.synth import n_bytes
    from turbosparse.convert.synth_files import planted

    tensors = list(model.tensors())
    return {"path": "", "bytes": n_bytes(tensors), "tensors": len(tensors), "planted": planted(model)}


def _file_name(out: Path, shape: Shape, outtype: str) -> Path:
    """`out` if it names a GGUF file, else one in the directory `out`."""
    if out.suffix == ".gguf":
        return out
    from turbosparse.convert.errors import UsageError

    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be made a directory: {error.strerror}", path=str(out)) from error
    return out / f"{shape.name}-{outtype}.gguf"


def _write_directory(model: SynthModel, out: Path, *, force: bool, threads: int | None) -> dict[str, Any]:
    from turbosparse.convert.progress import progress_bar
    from turbosparse.convert.synth import write_checkpoint
    from turbosparse.convert.synth_files import STATS, planted

    with progress_bar(out.name) as progress:
        done = write_checkpoint(model, out, force=force, threads=threads, progress=progress)
    return {
        "path": str(done.path), "bytes": done.n_bytes, "tensors": done.n_tensors, "shards": done.n_shards,
        "seconds": round(done.seconds, 2), "bytes_per_second": round(done.n_bytes / done.seconds),
        "removed_part": done.removed_part, "stats": str(done.path / STATS), "planted": planted(model),
    }  # fmt: skip


def _write_gguf(model: SynthModel, out: Path, **options: Any) -> dict[str, Any]:
    from turbosparse.convert.progress import progress_bar
    from turbosparse.convert.synth_files import planted
    from turbosparse.convert.synth_gguf import write_ggufs

    with progress_bar(out.name) as progress:
        twins = write_ggufs(model, out, progress=progress, **options)
    files = [file for file in (twins.sparse, twins.dense) if file]
    return {
        "path": str(out), "bytes": sum(file.n_bytes for file in files), "files": [str(file.path) for file in files],
        "seconds": round(sum(file.seconds for file in files), 2),
        "removed_part": any(file.removed_part for file in files), "planted": planted(model),
    }  # fmt: skip


def _describe(result: dict[str, Any]) -> str:
    """The result in a few lines."""
    planted, size = result["planted"], result["bytes"] / 1e9
    if not result["path"]:
        lines = [f"would write {size:.2f} GB in {result['tensors']} tensors"]
    else:
        rate = result["bytes"] / 1e6 / max(result["seconds"], 1e-3)
        lines = [f"wrote {name}" for name in result.get("files", [result["path"]])]
        lines.append(f"{size:.2f} GB in {result['seconds']:.1f} s ({rate:.0f} MB/s)")
    if result.get("removed_part"):
        lines.append("an unfinished .part of an earlier run was removed")
    lines.append(
        f"planted: {1 - planted['active']:.0%} of neurons zero; predictors select {planted['selected']:.1%}, recall "
        f"{planted['recall']:.0%}; the hottest 20 % make {planted['top_20_percent_share']:.0%} of activations"
    )
    if "stats" in result:
        command = f"turbosparse convert {result['path']} -o model.gguf --outtype q4_0 --stats {result['stats']}"
        lines.append(f"next: {command}")
    return "\n".join(lines)
