"""turbosparse chat"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def command(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Model to open. [default: the bundled one]", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="On 127.0.0.1; 0 takes a free one.")] = 0,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", help="Where conversations are kept. [default: the platform's place]", show_default=False
        ),
    ] = None,
    no_window: Annotated[
        bool, typer.Option("--no-window", help="Print the address instead of opening a window.")
    ] = False,
    tty: Annotated[bool, typer.Option("--tty", help="Chat in the terminal instead.")] = False,
    n_ctx: Annotated[
        int | None, typer.Option("-c", "--n-ctx", min=1, help="Tokens of context.", show_default=False)
    ] = None,
    mode: options.ModeOption = None,
    threads: options.ThreadsOption = None,
) -> None:
    """Chat in a window of its own, on this computer only.

    Conversations stay in a SQLite file; nothing is sent anywhere. Without FILE the bundled model
    opens; others are chosen in the window, or dropped on it. Any GGUF file that llama.cpp knows
    opens, with a badge where it has no sparsity.

    turbosparse chat m.gguf
    """
    if tty:
        from .tty import command as terminal

        return terminal(file, mode=mode, n_ctx=n_ctx, threads=threads)
    from ..chat.loading import PARALLEL
    from ..chat.run import Options, run
    from ..model import silence_host
    from ..server.engine import LoadOptions
    from ..server.live import LiveEngine

    silence_host()
    load = LoadOptions(mode=mode, n_ctx=n_ctx, n_threads=threads, n_parallel=PARALLEL)
    run(LiveEngine(load), Options(file, port, data_dir, not no_window, load))
