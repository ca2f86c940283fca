"""A chat in the terminal.

    turbosparse chat --tty

Replies go to standard output, everything else to standard error: with a pipe at either end it
works as a filter, one message per line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .conversation import Conversation
from .errors import ArgumentError, TurboSparseError
from .model import MODES
from .sampling import SamplingParams
from .summary import strip, summary

if TYPE_CHECKING:
    from .api import Model

QUOTES = '"""'
HELP = """\
/help                this list
/system [TEXT]       show or set the system message; /system - takes it away
/mode [NAME]         show or set how FFNs run: dense, exact, predicted
/set [NAME VALUE]    show or set a sampling parameter, like /set temperature 0.7
/retry               another answer to the last message
/undo                take the last message and its answer back
/reset               forget the chat, but for the system message
/save FILE, /load FILE   keep the chat in a file, go on with one
/stats               figures of the last answer, layer by layer
/exit                or Ctrl-D

Ctrl-C stops an answer. A message of several lines stands between two lines of \"\"\"."""


def run(
    model: Model,
    *,
    system: str | None = None,
    params: SamplingParams | None = None,
    source: TextIO | None = None,
    out: TextIO | None = None,
    notes: TextIO | None = None,
) -> None:
    """Read messages and answer them until the input ends, or /exit.

    Args:
        params: None = what the file recommends.
        source, out, notes: None = standard input, output and error.
    """
    Terminal(model, system, params, source or sys.stdin, out or sys.stdout, notes or sys.stderr).run()


class Terminal:
    """One chat; see run for the arguments."""

    def __init__(
        self,
        model: Model,
        system: str | None,
        params: SamplingParams | None,
        source: TextIO,
        out: TextIO,
        notes: TextIO,
    ) -> None:
        self.model = model
        self.talk = Conversation(model, system, params or SamplingParams.for_model(model))
        self._source, self._out, self._notes = source, out, notes
        self._leaving = False
        self._interactive = source.isatty()
        self._dim = notes.isatty() and not os.environ.get("NO_COLOR")

    def run(self) -> None:
        """Until the end."""
        if self._interactive:
            self.note(f"{self.model.path.name}, mode {self.model.mode}. /help tells more, Ctrl-D ends.")
        with history() if self._interactive and self._source is sys.stdin else _nothing():
            for message in self._messages():
                try:
                    self.handle(message)
                except TurboSparseError as error:
                    self.note(f"error: {error}")

    def handle(self, message: str) -> None:
        """A command, or a message to answer."""
        if not message.startswith("/"):
            self.answer(message)
            return
        name, _, argument = message[1:].partition(" ")
        command = COMMANDS.get(name)
        if command is None:
            raise ArgumentError(f"there is no /{name}; /help lists what there is", where=f"/{name}")
        command(self, argument.strip())

    def answer(self, message: str) -> None:
        """Stream the answer; Ctrl-C ends it, and what has come is kept."""
        before = self.talk.last
        try:
            for chunk in self.talk.stream(message):
                self._write(chunk.text)
        except KeyboardInterrupt:
            self._write("\n")
            self.note("stopped" if self.talk.last is not before else "stopped before the first word; nothing was kept")
            return
        self._write("\n")
        assert self.talk.last is not None
        self.note(summary(self.talk.last))

    def note(self, text: str) -> None:
        """A line beside the chat."""
        print(f"\x1b[2m{text}\x1b[0m" if self._dim else text, file=self._notes, flush=True)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    # --- input --------------------------------------------------------------

    def _messages(self) -> Iterator[str]:
        while not self._leaving and (line := self._line("> ")) is not None:
            text = self._block(line) if line.strip().startswith(QUOTES) else line
            if text.strip():
                yield text.strip()

    def _line(self, prompt: str) -> str | None:
        """The next line; None at the end. Ctrl-C gives the line up."""
        try:
            if not self._interactive:
                return self._source.readline() or None
            if self._source is sys.stdin:
                return input(prompt)
            self._write(prompt)
            return self._source.readline() or None
        except EOFError:
            self._write("\n")
            return None
        except KeyboardInterrupt:
            self._write("\n")
            self.note("Ctrl-D ends the chat")
            return ""

    def _block(self, first: str) -> str:
        lines = [first.strip().removeprefix(QUOTES)]
        while not lines[-1].rstrip().endswith(QUOTES):
            line = self._line(". ")
            if line is None:
                break
            lines.append(line.rstrip("\n"))
        return "\n".join(lines).strip().removesuffix(QUOTES)

    # --- commands -----------------------------------------------------------

    def help(self, _: str) -> None:
        """/help"""
        self.note(HELP)

    def system(self, text: str) -> None:
        """/system"""
        if text:
            self.talk.system = None if text == "-" else text
        self.note(self.talk.system or "no system message")

    def mode(self, name: str) -> None:
        """/mode"""
        if name:
            self.model.mode = name
        self.note(f"mode {self.model.mode} (of {', '.join(MODES)})")

    def set(self, text: str) -> None:
        """/set"""
        params = self.talk.params
        assert params is not None
        if text:
            name, _, value = text.partition(" ")
            SamplingParams.check_names([name])
            params = self.talk.params = replace(params, **{name: _value(value.strip())})
        shown = [f"{field.name} {getattr(params, field.name)}" for field in fields(params)]
        self.note(", ".join(shown))

    def retry(self, _: str) -> None:
        """/retry"""
        question = self.talk.undo()
        if question is None:
            raise ArgumentError("there is no message to answer again", where="/retry")
        self.answer(question)

    def undo(self, _: str) -> None:
        """/undo"""
        question = self.talk.undo()
        self.note("nothing to take back" if question is None else f"took back: {question}")

    def reset(self, _: str) -> None:
        """/reset"""
        self.talk.reset()
        self.note("forgotten")

    def save(self, path: str) -> None:
        """/save"""
        self.talk.save(_path(path, "/save"))
        self.note(f"saved {len(self.talk.messages)} messages to {path}")

    def load(self, path: str) -> None:
        """/load"""
        self.talk.load(_path(path, "/load"))
        self.note(f"loaded {len(self.talk.messages)} messages from {path}")

    def stats(self, _: str) -> None:
        """/stats"""
        last = self.talk.last
        if last is None or last.sparsity is None:
            raise ArgumentError("there is no answer yet", where="/stats")
        shares = last.sparsity.layers
        self.note(summary(last))
        self.note(
            f"prompt: {last.timings.prompt_n} tokens evaluated, {last.timings.cache_n} kept; "
            f"context {self.model.n_past} of {self.model.n_ctx} tokens"
        )
        self.note(
            f"active neurons, layer by layer: {strip(shares)}  {100 * min(shares):.1f} to {100 * max(shares):.1f} %, "
            f"all {100 * last.sparsity.active_frac:.1f} %"
        )

    def exit(self, _: str) -> None:
        """/exit"""
        self._leaving = True


COMMANDS: dict[str, Callable[[Terminal, str], None]] = {
    name: getattr(Terminal, name)
    for name in ("help", "system", "mode", "set", "retry", "undo", "reset", "save", "load", "stats", "exit")
}
COMMANDS["quit"] = Terminal.exit


def _path(text: str, command: str) -> Path:
    if not text:
        raise ArgumentError(f"{command} needs a file name", where=command, expected="a file name", found="none")
    return Path(text).expanduser()


def _value(text: str) -> Any:
    """A parameter as typed: none, true, a number, or text."""
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def history() -> Iterator[None]:
    """Line editing, and the lines of earlier chats; without readline, or a writable home, none."""
    try:
        import readline
    except ImportError:
        yield
        return
    path = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "turbosparse" / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        readline.read_history_file(path)
        readline.set_history_length(1000)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        readline.write_history_file(path)
