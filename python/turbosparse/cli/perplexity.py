"""turbosparse perplexity"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import Mode
from . import options

if TYPE_CHECKING:
    from ..stats import LayerDiagnosis


def command(
    file: options.FileArgument,
    text: Annotated[
        Path, typer.Option("--text", help="UTF-8 text to measure on; - reads standard input.", show_default=False)
    ],
    mode: options.ModeOption = None,
    n_ctx: Annotated[int, typer.Option("-c", "--n-ctx", min=4, help="Tokens per window.")] = 512,
    windows: Annotated[
        int | None,
        typer.Option("--windows", min=1, help="Windows to measure. [default: the whole text]"),
    ] = None,
    recall: Annotated[
        bool, typer.Option("--recall", help="Also compute every eighth token's FFNs in full, and say what was missed.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="Also say how far FILE is from this file: KL divergence, likeliest token.",
            show_default=False,
        ),
    ] = None,
    against_mode: Annotated[
        Mode | None,
        typer.Option("--against-mode", help="Mode of that file. [default: that of FILE]", show_default=False),
    ] = None,
    kv_type: options.KvTypeOption = "f16",
    flash_attn: options.FlashAttnOption = "auto",
    threads: options.ThreadsOption = None,
    ignore_swa: options.IgnoreSwaOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Measure the perplexity of a TurboSparse GGUF file on a text, as llama-perplexity does.

    The text is cut into windows of --n-ctx tokens; in each the second half is scored, given
    all before it in the window. Lower is better; compare modes on the same text:

    turbosparse perplexity m.gguf --text heldout.txt --mode dense

    turbosparse perplexity m.gguf --text heldout.txt --mode predicted

    turbosparse perplexity m-q4_0.gguf --text heldout.txt --against m-f32.gguf
    """
    from ..perplexity import perplexity

    content = options.read_text(text)
    opened = partial(
        options.open_model,
        n_ctx=n_ctx,
        n_threads=threads,
        kv_type=kv_type,
        flash_attn=flash_attn,
        ignore_swa=ignore_swa,
    )
    with ExitStack() as stack:
        model = stack.enter_context(opened(file, mode=mode))
        other = stack.enter_context(opened(against, mode=against_mode or model.mode)) if against else None
        result = perplexity(
            model,
            content,
            n_ctx=n_ctx,
            max_windows=windows,
            recall=recall,
            against=other,
            progress=_show if sys.stderr.isatty() else None,
        )
    if as_json:
        print(json.dumps(result.as_dict()))
        return
    print(
        f"perplexity {result.ppl:.4f} +- {result.error:.4f} (mode {result.mode}, {result.tokens} tokens scored "
        f"in {result.windows} windows of {result.n_ctx})"
    )
    if result.divergence:
        found = result.divergence
        print(
            f"KL divergence {found.kl:.6f} +- {found.error:.6f} from {found.file} (mode {found.mode}); "
            f"the likeliest token is the same at {100 * found.same_top:.2f} % of the positions"
        )
    if result.diagnosis:
        _print_recall(result.diagnosis)
    if result.sparsity:
        active = f"{100 * result.sparsity.active_frac:.1f} % of neurons active"
        print(f"{active}, {result.sparsity.tokens / result.seconds:.0f} tok/s", file=sys.stderr)


def _print_recall(layers: Sequence[LayerDiagnosis]) -> None:
    """One line per layer and one for all of them, in percent."""
    from ..stats import LayerDiagnosis

    names = ("gate", "up", "active", "selected", "recall", "weighted_recall")
    print("layer" + "".join(f"{name.replace('weighted_recall', 'by weight'):>10}" for name in names))
    rows = [(str(il), layer) for il, layer in enumerate(layers)] + [("all", LayerDiagnosis.total(layers))]
    for name, layer in rows:
        values = layer.as_dict()
        print(f"{name:>5}" + "".join(f"{100 * values[column]:10.2f}" for column in names))


def _show(done: int, count: int, ppl: float) -> None:
    end = "\n" if done == count else "\r"
    print(f"window {done}/{count}: perplexity {ppl:.4f} ", end=end, file=sys.stderr, flush=True)
