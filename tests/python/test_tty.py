"""The terminal chat: as a filter, with its commands, and in a real terminal with Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from turbosparse import Model, SamplingParams
from turbosparse.tty import COMMANDS, HELP, run

PARAMS = SamplingParams(temperature=0.0, max_tokens=6)


@pytest.fixture
def talker(micro: Path) -> Iterator[Model]:
    with Model(micro, n_ctx=512, n_threads=1) as model:
        yield model


def chat(model: Model, *lines: str, params: SamplingParams | None = PARAMS) -> tuple[str, str]:
    """Standard output and error of a chat whose input is `lines`."""
    out, notes = io.StringIO(), io.StringIO()
    run(model, params=params, source=io.StringIO("".join(f"{line}\n" for line in lines)), out=out, notes=notes)
    return out.getvalue(), notes.getvalue()


def test_a_filter(talker: Model) -> None:
    out, notes = chat(talker, "Hello!", "", "And you?")
    talk = talker.conversation(params=PARAMS)
    assert out == f"{talk.ask('Hello!').text}\n{talk.ask('And you?').text}\n"
    lines = notes.splitlines()
    assert len(lines) == 2
    assert re.match(r"\d tokens, .* tok/s, mode predicted; .* % of FFN rows computed; .* per token, dense ", lines[0])


def test_several_lines(talker: Model) -> None:
    out, _ = chat(talker, '"""one', "two", 'three"""', '"""', "four", '"""', '"""five"""', '"""six')
    talk = talker.conversation(params=PARAMS)
    expected = [talk.ask(text).text for text in ("one\ntwo\nthree", "four", "five", "six")]
    assert out == "".join(f"{text}\n" for text in expected)


def test_system_and_mode(talker: Model) -> None:
    out, notes = chat(talker, "/system Be brief.", "/mode exact", "Hello!", "/system -", "/mode")
    assert talker.mode == "exact"
    assert out == f"{talker.conversation('Be brief.', PARAMS).ask('Hello!').text}\n"
    assert notes.splitlines()[0] == "Be brief."
    assert "no system message" in notes
    assert "mode exact" in notes.splitlines()[-1]


def test_set(talker: Model) -> None:
    out, notes = chat(talker, "/set max_tokens 2", "/set temperature 0", "/set seed none", "Hello!", "/set stop x")
    assert out == f"{talker.chat([{'role': 'user', 'content': 'Hello!'}], max_tokens=2, temperature=0).text}\n"
    assert "stop ('x',)" in notes


def test_retry_undo_reset(talker: Model) -> None:
    out, notes = chat(talker, "/retry", "/undo", "Hello!", "/retry", "/undo", "Hello!", "/reset", "Hello!")
    assert len(set(out.splitlines())) == 1, "greedy, and always the first message"
    assert out.count("\n") == 4
    assert "no message to answer again" in notes
    assert "nothing to take back" in notes
    assert "took back: Hello!" in notes


def test_save_and_load(talker: Model, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    first, _ = chat(talker, "Hello!", f"/save {path}", "And you?")
    assert [m["role"] for m in json.loads(path.read_text())["messages"]] == ["user", "assistant"]
    second, notes = chat(talker, f"/load {path}", "And you?")
    assert second == first.splitlines(keepends=True)[1]
    assert "loaded 2 messages" in notes


def test_stats(talker: Model) -> None:
    _, notes = chat(talker, "/stats", "Hello!", "/stats")
    assert "no answer yet" in notes
    assert re.search("layer by layer: [\u2581-\u2588]{6}  ", notes)
    assert re.search(r"context \d+ of 512 tokens", notes)


@pytest.mark.parametrize(
    "line", ["/nonsense", "/save", "/load", "/load /absent/x", "/mode fast", "/set temp 1", "/set temperature hot"]
)
def test_mistakes_are_told_and_forgiven(talker: Model, line: str) -> None:
    out, notes = chat(talker, line, "Hello!")
    assert notes.startswith("error: ")
    assert out.strip()


def test_a_message_that_does_not_fit(talker: Model) -> None:
    out, notes = chat(talker, "word " * 2000, "Hello!")
    assert notes.startswith("error: ")
    assert "512" in notes
    assert out.count("\n") == 1


def test_exit_and_help(talker: Model) -> None:
    out, notes = chat(talker, "/help", "/exit", "Hello!")
    assert out == ""
    for name in COMMANDS:
        assert f"/{name}" in HELP or name == "quit"
    assert "/retry" in notes


# --- a terminal -----------------------------------------------------------------------------


class Terminal:
    """`turbosparse chat --tty` with a pseudo-terminal at its three ends."""

    def __init__(self, home: Path, model: Path) -> None:
        master, slave = pty.openpty()
        environment = {**os.environ, "XDG_STATE_HOME": str(home), "TERM": "dumb", "NO_COLOR": "1"}
        code = "import sys; from turbosparse.cli.tty import command; command(sys.argv[1], mode='reference', threads=1)"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(model)],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # makes it the controlling terminal
        )  # fmt: skip
        os.close(slave)
        self.master = master
        self.seen = ""

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        assert self.comes(pattern, seconds), self.seen

    def comes(self, pattern: str, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            if time.monotonic() > end:
                return False
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 4096).decode("utf-8", "replace")
        self.seen = re.split(pattern, self.seen, maxsplit=1)[1]
        return True

    def interrupt(self, pattern: str) -> None:
        """Press Ctrl-C as a person does: readline sleeps over one that comes just before it waits for a key."""
        for _ in range(5):
            self.type("\x03")
            if self.comes(pattern, 5):
                return
        raise AssertionError(self.seen)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


def test_ctrl_c_stops_the_answer_not_the_program(micro: Path, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, micro)
    try:
        terminal.wait_for("Ctrl-D ends")
        terminal.wait_for("> ")
        terminal.type("/set ignore_eos true\n")
        terminal.wait_for("ignore_eos True")
        terminal.wait_for("> ")
        terminal.type("Hello there\n")
        terminal.wait_for("Hello there\r\n[^\r\n]{3}")
        terminal.type("\x03")
        terminal.wait_for("stopped", seconds=10)
        terminal.wait_for("> ")
        terminal.type("half a mess")
        terminal.wait_for("half a mess")
        terminal.interrupt("Ctrl-D ends the chat")
        terminal.type("/undo\n")
        terminal.wait_for("took back: Hello there")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0
    finally:
        if terminal.process.poll() is None:
            terminal.process.send_signal(signal.SIGKILL)
            terminal.process.wait()
        os.close(terminal.master)
    history = tmp_path / "turbosparse" / "history"
    assert "Hello there" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0, "for nobody else to read"
