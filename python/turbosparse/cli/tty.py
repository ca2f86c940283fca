"""turbosparse chat --tty"""

from __future__ import annotations

from pathlib import Path


def command(
    file: Path | None, *, mode: str | None = None, n_ctx: int | None = None, threads: int | None = None
) -> None:
    """Chat with `file`, or the bundled model, in the terminal."""
    from ..api import Model
    from ..model import silence_host
    from ..tty import run

    silence_host()
    with Model(file, mode=mode, n_ctx=n_ctx, n_threads=threads) as model:
        run(model)
