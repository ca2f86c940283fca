"""Opening a window, choosing what to open, and the command itself."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from turbosparse.chat import run, window
from turbosparse.chat.paths import default_data_dir, open_data_dir
from turbosparse.errors import FileError


def program(folder: Path, name: str, script: str) -> Path:
    """An executable shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_webview(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH of our own, without pywebview."""
    monkeypatch.setattr(window, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_chromium_opens_an_app_window_and_is_waited_for(no_webview: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "SHORT", 0.2)
    program(no_webview, "chromium", f'echo "$@" > {no_webview}/arguments; /bin/sleep 0.5')
    assert window.show("http://127.0.0.1:1/#ticket=x") is True
    given = (no_webview / "arguments").read_text()
    assert "--app=http://127.0.0.1:1/#ticket=x" in given
    assert "--user-data-dir=" in given
    assert "--no-sandbox" not in given


def test_a_chromium_that_does_not_start_makes_way_for_the_browser(
    no_webview: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(window.webbrowser, "open", opened.append)
    program(no_webview, "chromium", "exit 1")
    assert window.show("http://127.0.0.1:1/") is False
    assert opened == ["http://127.0.0.1:1/"]


def test_pywebview_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Webview:
        calls: list[object] = []  # noqa: RUF012

        @classmethod
        def create_window(cls, title: str, url: str, **_: object) -> None:
            cls.calls.append((title, url))

        @classmethod
        def start(cls, **_: object) -> None:
            cls.calls.append("start")

    monkeypatch.setattr(window, "find_spec", lambda name: object())
    monkeypatch.setattr(window, "import_module", lambda name: Webview)
    assert window.show("http://x") is True
    assert Webview.calls == [("TurboSparse", "http://x"), "start"]


def test_a_missing_file_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        run.first_model(tmp_path / "no.gguf")
    (tmp_path / "yes.gguf").write_text("x")
    assert run.first_model(tmp_path / "yes.gguf") == str(tmp_path / "yes.gguf")
    assert str(run.first_model(None)).startswith("bundled:")


def test_missing_libraries_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "missing_libraries", lambda: True)
    with pytest.raises(FileError, match="make setup"):
        run.check_page()


def test_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_data_dir() == tmp_path / "share" / "turbosparse"
    assert open_data_dir(None).stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="--data-dir"):
        open_data_dir(tmp_path / "file" / "below")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`turbosparse chat --no-window` prints an address that works with its key, and ends at SIGTERM."""
    if run.missing_libraries():
        pytest.skip("the page's libraries were not fetched: npm is missing")
    command = [sys.executable, "-m", "turbosparse", "chat", "--no-window", "--data-dir", str(tmp_path), "-t", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as chat:
        assert chat.stdout is not None
        url, token = chat.stdout.readline().strip().split("/#token=")
        try:
            found = httpx.get(f"{url}/api/chat/start", headers={"authorization": f"Bearer {token}"}, timeout=10)
            assert found.json()["model"]["path"].startswith("bundled:")
            assert httpx.get(f"{url}/api/chat/start", timeout=10).status_code == 401
        finally:
            chat.send_signal(signal.SIGTERM)
    assert chat.returncode == 0


def test_without_a_browser_the_journeys_say_so(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e_web"],
        cwd=root,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("e2e not run: ")
