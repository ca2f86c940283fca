"""turbosparse verify"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import FileArgument, JsonOption


def command(
    file: FileArgument,
    src: Annotated[str, typer.Argument(metavar="SRC", help="Checkpoint directory it was made from, or a hub id.")],
    predictors: Annotated[
        Path | None, typer.Option("--predictors", help="Predictor directory it was made with, if any.")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .pt and .bin files with torch's weights-only loader.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", min=1, help="Threads. [default: all cores]", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every tensor of a GGUF file with the checkpoint it was made from.

    f32, f16 and bf16 must equal the source rounded once; quantised types must stay within a stated
    error, over each tensor and in every row. Keys and vocabulary are compared too. Exit code 6
    when something differs.

    turbosparse verify m.gguf TurboSparse-Mistral-Instruct
    """
    from turbosparse.convert.progress import progress_bar
    from turbosparse.convert.verify import verify

    with progress_bar(f"verify {file.name}") as progress:
        report = verify(file, src, predictors=predictors, allow_pickle=allow_pickle, threads=threads, progress=progress)
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        print(report.as_text())
    report.raise_on_failure()
