"""`turbosparse chat`: engine, server and window together."""

from __future__ import annotations

import secrets
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError
from ..server.engine import Engine, LoadOptions
from ..server.run import background
from . import catalogue, window
from .app import Ticket, create_chat_app
from .paths import open_data_dir
from .routes.page import missing_libraries


@dataclass(frozen=True)
class Options:
    """Of one run; `file` None opens the bundled model."""

    file: Path | None = None
    port: int = 0
    data_dir: Path | None = None
    with_window: bool = True
    load: LoadOptions | None = None


def run(engine: Engine, options: Options) -> None:
    """Serve on the loopback interface until the window is closed, or until SIGINT or SIGTERM.

    Raises:
        FileError: the file, the page's libraries or the conversation store are not there.
        ArgumentError: the port is taken.
    """
    check_page()
    model = first_model(options.file)
    token, ticket = secrets.token_urlsafe(32), Ticket()
    directory = open_data_dir(options.data_dir)
    app = create_chat_app(engine, directory, token=token, ticket=ticket, first_model=model, load_options=options.load)
    with background(app, port=options.port) as url:
        if not options.with_window:
            print(f"{url}/#token={token}", flush=True)
        elif window.show(f"{url}/#ticket={ticket.word}"):
            return
        else:
            print(f"The chat is open in your browser. Ctrl-C ends it.\n{url}/#token={token}", flush=True)
        wait_for_signal()


def first_model(file: Path | None) -> str | None:
    """What to open: `file`, else the bundled model, else nothing (the page offers a picker)."""
    if file is None:
        bundled = catalogue.bundled_models()
        return str(bundled[0]["path"]) if bundled else None
    if not file.exists():
        raise FileError(f"{file} does not exist", where=str(file), expected="a GGUF file", found="nothing")
    return str(file.resolve())


def check_page() -> None:
    """Raises FileError when a checkout lacks the page's libraries."""
    if missing_libraries():
        raise FileError(
            "the page's libraries are not there; run `make setup` (needs npm), or chat in the terminal with --tty",
            where="chat/static/vendor",
            expected="packages.txt",
            found="nothing",
        )


def wait_for_signal() -> None:
    """Until SIGINT or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(0.5):
        pass
