"""Hugging Face checkpoint -> TurboSparse GGUF (docs/gguf-extension.md).

    from turbosparse.convert import convert
    convert("TurboSparse-Mistral-Instruct", "model.gguf", outtype="q4_0")

Importing this package is cheap; numpy and gguf come with the first call. Nothing here imports
torch, transformers or the engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConvertError

if TYPE_CHECKING:
    from .export import Progress

__all__ = ["ConvertError", "convert"]


def convert(
    src: str | Path,
    out: str | Path,
    *,
    outtype: str = "f16",
    predictor_type: str | None = None,
    predictors: str | Path | None = None,
    no_predictors: bool = False,
    fc2_by_unit: bool | None = None,
    stats: str | Path | None = None,
    pure: bool = False,
    allow_pickle: bool = False,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert the checkpoint `src` (directory or hub id) into the GGUF file `out` and return its path.

    `outtype` is the type of all matrices: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k or
    q6_k. `predictor_type` defaults to the type they were trained in for float outtypes, to q4_0
    otherwise; `fc2_by_unit` defaults to whether they are quantised (docs/gguf-extension.md). `stats`
    (see neurons.py) orders neurons hot first. `progress(tensor, done, total)` is called with bytes.
    Raises ConvertError; nothing is left under `out` unless the file is complete.
    """
    from .job import Options, open_job

    options = Options(
        outtype, predictor_type, Path(predictors) if predictors else None, no_predictors,
        Path(stats) if stats else None, pure, allow_pickle, fc2_by_unit,
    )  # fmt: skip
    with open_job(src, options) as job:
        return job.write(Path(out), force=force, threads=threads, progress=progress).path
