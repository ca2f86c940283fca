"""The real `llm` command and library with our plug-in."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llm
import pytest
from click.testing import CliRunner
from llm.cli import cli
from turbosparse import Model
from turbosparse.llm_plugin import AsyncTurboSparse, TurboSparse, TurboSparseEmbedding, add_model

GREEDY = {"temperature": 0, "max_tokens": 8, "n_threads": 1}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """llm's own directory, empty."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    return tmp_path


def run(*args: str, code: int = 0) -> str:
    """What the `llm` command prints, run in this process (importing it takes seconds)."""
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == code, (done.output, done.exception)
    assert code == 0 or isinstance(done.exception, SystemExit), "one line, no traceback"
    return done.output


def options(**given: Any) -> list[str]:
    return [word for name, value in given.items() for word in ("-o", name, str(value))]


def test_the_command(home: Path, micro: Path) -> None:
    """A file is added, asked, asked again in the same conversation, and removed; the log has our figures."""
    assert "added mine" in run("turbosparse", "add", str(micro), "--name", "mine")
    assert f"mine: {micro}" in run("turbosparse", "list")
    first = run("-m", "mine", "Hello!", "-s", "Be brief.", *options(**GREEDY)).strip()
    second = run("-c", "And you?", *options(**GREEDY)).strip()
    with Model(micro, n_threads=1) as model:
        talk = model.conversation("Be brief.")
        assert talk.ask("Hello!", temperature=0, max_tokens=8).text.strip() == first
        assert talk.ask("And you?", temperature=0, max_tokens=8).text.strip() == second
    log = json.loads(run("logs", "--json", "-n", "1"))[0]
    assert log["response"].strip() == second
    assert log["output_tokens"] == log["response_json"]["timings"]["predicted_n"] > 0
    assert 0 < log["response_json"]["sparsity"]["active_frac"] < 1
    run("turbosparse", "remove", "mine")
    assert "mine" not in run("models")
    assert "TurboSparse: turbosparse" in run("models"), "the bundled model is always there"


def test_the_installed_command_finds_us(home: Path) -> None:
    command = [str(Path(sys.executable).parent / "llm"), "models"]
    environment = {**os.environ, "LLM_LOAD_PLUGINS": "turbosparse"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert "TurboSparse: turbosparse" in done.stdout, done.stderr


def test_mistakes_are_one_line(home: Path, micro: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    assert "not a GGUF file" in run("turbosparse", "add", str(tmp_path / "x.gguf"), code=1)
    assert "no added model" in run("turbosparse", "remove", "absent", code=1)
    run("turbosparse", "add", str(micro))
    error = run("-m", micro.stem, "hi", *options(mode="fast"), code=1)
    assert "dense, exact, predicted" in error


def test_the_bundled_name_is_taken(home: Path, micro: Path) -> None:
    with pytest.raises(ValueError, match="bundled"):
        add_model(micro, "turbosparse")


def test_options_and_stream(home: Path, micro: Path) -> None:
    model = TurboSparse("m", micro)
    whole = model.prompt("Hello!", stream=False, **GREEDY)
    pieces = list(model.prompt("Hello!", stream=True, **GREEDY))
    assert len(pieces) > 1
    assert "".join(pieces) == whole.text()
    assert whole.usage().output == 8
    same = [model.prompt("Hello!", seed=3, max_tokens=8, n_threads=1).text() for _ in range(2)]
    assert same[0] == same[1]
    assert model.prompt("Hello!", stop=pieces[1].strip(), **GREEDY).text() == pieces[0]
    for mode in ("dense", "exact"):
        model.prompt("Hello!", mode=mode, **GREEDY).text()
        assert model._opened is not None
        assert model._opened[1].mode == mode
    with pytest.raises(llm.ModelError, match="mode"):
        model.prompt("Hello!", mode="fast").text()
    model.close()
    assert model.prompt("Hello!", **GREEDY).text() == whole.text()
    model.close()


def test_schema(home: Path, micro: Path) -> None:
    model = TurboSparse("m", micro)
    schema = {"type": "object", "properties": {"ok": {"enum": ["yes"]}}, "required": ["ok"]}
    response = model.prompt("Well?", schema=schema, temperature=0, n_threads=1)
    assert json.loads(response.text()) == {"ok": "yes"}
    model.close()


def test_asyncio(home: Path, micro: Path) -> None:
    async def ask() -> tuple[str, str]:
        model = AsyncTurboSparse("m", micro)
        pieces = [piece async for piece in model.prompt("Hello!", **GREEDY)]
        return "".join(pieces), await model.prompt("Hello!", stream=False, **GREEDY).text()

    streamed, whole = asyncio.run(ask())
    model = TurboSparse("m", micro)
    assert streamed == whole == model.prompt("Hello!", **GREEDY).text()
    model.close()


def test_embedding(home: Path, micro: Path) -> None:
    vectors = list(TurboSparseEmbedding("m", micro).embed_batch(["a", b"a", "b"]))
    assert vectors[0] == vectors[1] != vectors[2]
    assert sum(x * x for x in vectors[0]) == pytest.approx(1, abs=1e-5)
