"""Shards from one's own text files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from turbosparse.train import plain
from turbosparse.train.plain import PlainTextError, documents, write_plain_shards
from turbosparse.train.shards import Shards
from turbosparse.train.vocabulary import open_vocabulary

from tests import tiny

TEXT = "\n\n".join(f"The fox number {i} jumps over the lazy dog, again and again." for i in range(60)) + "\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_mistral(tmp_path_factory.mktemp("source"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "foxes.txt").write_text(TEXT)
    (tmp_path / "held.txt").write_text(TEXT[:600])
    return tmp_path / "foxes.txt"


def test_a_file_becomes_a_stream_of_documents(source: Path, text: Path, tmp_path: Path) -> None:
    shards = write_plain_shards(source, [text], [tmp_path / "held.txt"], tmp_path / "out")
    vocabulary = open_vocabulary(source)
    shards.check(vocabulary.n_vocab, vocabulary.sha256)
    tokens = shards.streams["foxes"]
    assert int((np.asarray(tokens) == vocabulary.separator).sum()) == 60
    first = vocabulary.encode(TEXT.split("\n\n")[0])
    assert np.array_equal(tokens[: len(first) + 1], [vocabulary.separator, *first])
    assert shards.heldout_names == ["foxes"]
    assert len(shards.heldout("foxes")) < len(tokens) / 4


def test_documents_end_at_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n \nthree\n\n\n\nfour")
    assert [d.text for d in documents(tmp_path / "a.txt")] == ["one\ntwo", "three", "four"]


@pytest.mark.parametrize(
    ("content", "match"), [(b"too short", "add text"), (b"\xff\xfe\x00", "UTF-8"), (None, "UTF-8")]
)
def test_a_text_that_cannot_be_used_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    content: bytes | None, match: str,
) -> None:  # fmt: skip
    file = tmp_path / "a.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PlainTextError, match=match):
        write_plain_shards(source, [file], [], tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["plain", str(source), "--text", str(file), "-o", str(tmp_path / "out")])
    assert plain.main() == 4
    assert str(file) in capsys.readouterr().err


def test_the_command_says_what_it_wrote(
    source: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["plain", str(source), "--text", str(text), "-o", str(tmp_path / "out")])
    assert plain.main() == 0
    n = len(Shards(tmp_path / "out").streams["foxes"])
    assert capsys.readouterr().out == f"foxes: {n} tokens\n"
