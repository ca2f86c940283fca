"""Progress of a long write: a bar with ETA on a terminal, nothing otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .export import Progress


@contextmanager
def progress_bar(label: str, *, unit: str = "bytes") -> Iterator[Progress | None]:
    """A callback (tensor, done, total) that draws on stderr; None when nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.progress import TransferSpeedColumn as SpeedColumn

    counted = (DownloadColumn(), SpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn())
    columns = (*columns, TextColumn("{task.fields[tensor]}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None, tensor="")

        def advance(tensor: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, tensor=tensor)

        yield advance
