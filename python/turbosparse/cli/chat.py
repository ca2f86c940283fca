"""turbosparse chat"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


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
    mode: Annotated[
        str | None, typer.Option("--mode", help="FFN of new replies: dense, exact or predicted.", show_default=False)
    ] = None,
    n_ctx: Annotated[
        int | None, typer.Option("-c", "--ctx", min=1, help="Tokens of context.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", min=1, help="Threads. [default: all cores]", show_default=False)
    ] = None,
    tty: Annotated[bool, typer.Option("--tty", help="Chat in the terminal.")] = False,
) -> None:
    """Chat in a window of its own, on this computer only.

    Conversations stay in a SQLite file; nothing is sent anywhere. Without FILE the bundled model
    opens; others are chosen in the window, or dropped on it.

    turbosparse chat m.gguf
    """
    if tty:
        from . import tty as terminal

        terminal.command(file)
        return
    from ..chat.run import Options, run
    from ..server.live import LiveEngine

    chosen: dict[str, Any] = {"mode": mode, "n_ctx": n_ctx, "n_threads": threads}
    load = {name: value for name, value in chosen.items() if value is not None}
    run(LiveEngine(), Options(file, port, data_dir, not no_window, load))
