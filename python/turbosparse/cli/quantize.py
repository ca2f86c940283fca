"""turbosparse quantize"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import FileArgument, JsonOption, show_bytes


def command(
    file: FileArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="GGUF file to write.", show_default=False)],
    outtype: Annotated[
        str, typer.Argument(metavar="TYPE", help="As --outtype of convert: q8_0, q4_0, q4_k, ...", show_default=False)
    ],
    predictor_type: Annotated[
        str | None,
        typer.Option(
            "--predictor-type",
            help="Type of the predictors. [default: q4_0 for a quantised TYPE, else as they are]",
            show_default=False,
        ),
    ] = None,
    pure: Annotated[bool, typer.Option("--pure", help="Give the output matrix the same type, not q6_k.")] = False,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Round tensors that are quantised already once more.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", min=1, help="Threads. [default: all cores]", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a TurboSparse GGUF file again with other types; order of neurons and maps stay.

    The same bytes as converting from the checkpoint, when FILE holds its weights exactly (f32, or
    bf16 of a bf16 checkpoint).

    turbosparse quantize m-f16.gguf m-q4_0.gguf q4_0
    """
    from turbosparse.convert.progress import progress_bar
    from turbosparse.convert.requantize import requantize

    with progress_bar(out.name) as progress:
        written = requantize(
            file,
            out,
            outtype,
            predictor_type=predictor_type,
            pure=pure,
            allow_requantize=allow_requantize,
            force=force,
            threads=threads,
            progress=progress,
        )
    if as_json:
        print(json.dumps({"file": str(out), "bytes": written.n_bytes, "seconds": round(written.seconds, 3)}))
    else:
        print(f"{out}: {show_bytes(written.n_bytes)} in {written.seconds:.1f} s")
