"""A bar on a terminal, silence elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
from turbosparse.convert.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_silent_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("x") as advance:
        assert advance is None
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("unit", "shown"), [("bytes", "MB"), ("tokens", "/")])
def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, unit: str, shown: str) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with progress_bar("writing", unit=unit) as advance:
        assert advance is not None
        advance("blk.0.ffn_up.weight", 40_000_000, 100_000_000)
    assert "writing" in terminal.getvalue()
    assert shown in terminal.getvalue()
