"""The token: made once, for its owner only; and the command that uses it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from turbosparse.errors import FileError
from turbosparse.server.tokenfile import data_directory, stored_token, token_path


def test_it_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    token = stored_token()
    assert len(token) >= 32
    assert token == stored_token() == stored_token(token_path())
    assert token_path() == tmp_path / "data" / "turbosparse" / "token"
    assert token_path().stat().st_mode & 0o777 == 0o600
    assert data_directory().stat().st_mode & 0o777 == 0o700
    assert [path.name for path in data_directory().iterdir()] == ["token"]
    assert stored_token(tmp_path / "other") != token


def test_two_at_once_agree(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(stored_token(tmp_path / "token"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [(b"x" * 40, 0o644, "others can read it"), (b"short", 0o600, "fewer"), (b"\xff" * 40, 0o600, "ascii")],
)
def test_a_file_that_cannot_be_it(tmp_path: Path, content: bytes, mode: int, reason: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(FileError, match=reason) as caught:
        stored_token(path)
    assert str(path) in str(caught.value)
    with pytest.raises(FileError):
        stored_token(tmp_path / "missing" / "token")


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "turbosparse", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "XDG_DATA_HOME": str(home)},
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--host", "0.0.0.0", "--no-auth"], 2, "other machines"),
        (["--token", "short"], 2, "--token"),
        (["--token", "x" * 20, "--no-auth"], 2, "exclude each other"),
        (["missing.gguf", "--port", "0"], 4, "missing.gguf"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], code: int, words: str, tmp_path: Path) -> None:
    done = run(*arguments, home=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_serves(micro: Path, tmp_path: Path) -> None:
    """It says where, keeps a token that works, and stops on SIGINT."""
    command = [sys.executable, "-m", "turbosparse", "serve", str(micro), "--port", "0", "-t", "1", "-c", "256"]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            found = re.search(r"http://\S+", process.stderr.readline())
            assert found is not None
            token = (tmp_path / "turbosparse" / "token").read_text().strip()
            assert token not in process.stderr.readline()
            assert httpx.get(found[0] + "/v1/models").status_code == 401
            body = {"prompt": "Once", "max_tokens": 4, "seed": 1}
            headers = {"Authorization": f"Bearer {token}"}
            answer = httpx.post(found[0] + "/v1/completions", json=body, headers=headers, timeout=30)
            assert answer.json()["usage"]["completion_tokens"] == 4
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            assert process.wait(20) == 0
    assert "Traceback" not in rest
