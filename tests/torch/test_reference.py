"""The reference run, whole, at the smallest scale: its commands are called in this process."""

from __future__ import annotations

import csv
import importlib
import json
import sys

import numpy as np
import pytest
from turbosparse.torch import load
from turbosparse.train import heldout, reference
from turbosparse.train.drelu_report import loss, windows
from turbosparse.train.shards import Shards, ShardWriter
from turbosparse.train.source import open_source
from turbosparse.train.surgery import TEACHER

from tests import tiny

pytestmark = pytest.mark.torch


@pytest.fixture
def source_dir(tmp_path):
    return tiny.write_reglu(tmp_path / "teacher", hidden_act="silu", n_layer=4)


@pytest.fixture
def shards_dir(tmp_path):
    writer = ShardWriter(tmp_path / "shards", "words", 384, 0)
    rng = np.random.default_rng(0)
    writer.add("words", rng.integers(3, 360, 4000), rng.integers(3, 360, 600))
    writer.close()
    return writer.path


@pytest.fixture
def called(monkeypatch):
    """Commands in the order in which they were called, run here."""
    seen = []

    def call(*commands):
        for command in commands:
            seen.append(command[2].removeprefix("turbosparse.train."))
            monkeypatch.setattr(sys, "argv", command[2:])
            code = importlib.import_module(command[2]).main()
            if code:
                raise SystemExit(code)

    monkeypatch.setattr(reference, "call", call)
    return seen


def run(monkeypatch, source, shards, out, minutes):
    sizes = "--seq 16 --batch 2 --rank 32 --threads 1 --log-every 1 --heldout-windows 1"
    head = ("reference", str(source), "-o", str(out), "--data", str(shards), "--keep", "2", "--device", "cpu")
    monkeypatch.setattr(sys, "argv", [*head, "--minutes", str(minutes), f"--all={sizes}"])
    return reference.main()


def test_it_prunes_heals_trains_both_and_compares(source_dir, shards_dir, tmp_path, called, monkeypatch):
    out = tmp_path / "out"
    assert run(monkeypatch, source_dir, shards_dir, out, 0.04) == 0
    assert called == ["prune", "drelu", "drelu", "drelu", "heldout"]
    layers = [int(i) for i in (out / "stages" / "layers.txt").read_text().split(",")]
    student, control = load(out), open_source(out / "stages" / "control")
    assert student.config.extra["source_layers"] == control.layers == layers
    assert len(layers) == 2
    logs = [list(csv.DictReader((d / "train" / "log.csv").open())) for d in (out, out / "stages" / "control")]
    assert [row["tokens"] for row in logs[0]] == [row["tokens"] for row in logs[1]]  # same budget
    found = json.loads((out / "train" / "heldout.json").read_text())
    assert list(found) == ["teacher", "healed", "control", "student"]
    rows = windows(Shards(shards_dir).heldout("words"), 256, 16)
    expected = np.exp(loss(control.model(), rows, TEACHER, 8))
    assert found["control"]["perplexity"][""]["words"] == pytest.approx(expected, rel=1e-5)
    assert set(found["student"]["perplexity"]) == {"dense", "predicted"}
    assert len(found["student"]["layers"]) == 2
    assert 0 < found["student"]["layers"][0]["weighted"] <= 1


def test_a_part_that_fails_ends_it(source_dir, shards_dir, tmp_path, called, monkeypatch, capsys):
    (shards_dir / "words.bin").unlink()
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, source_dir, shards_dir, tmp_path / "out", 0.01)
    assert caught.value.code == 4
    assert "words.bin" in capsys.readouterr().err
    assert called == ["prune"]


def test_exit_codes_come_through():
    with pytest.raises(SystemExit) as caught:
        reference.call([sys.executable, "-c", "raise SystemExit(7)"], [sys.executable, "-c", "pass"])
    assert caught.value.code == 7


def test_models_of_another_vocabulary_are_refused(source_dir, tmp_path, monkeypatch, capsys):
    writer = ShardWriter(tmp_path / "other", "other", 1000, 0)
    writer.add("a", np.arange(500), np.arange(300))
    writer.close()
    monkeypatch.setattr(sys, "argv", ["heldout", f"m={source_dir}", "--data", str(tmp_path / "other")])
    assert heldout.main() == 2
    assert "vocabulary of 384" in capsys.readouterr().err


def test_steps_follow_the_pace(tmp_path):
    (tmp_path / "log.csv").write_text("step,seconds\n10,20\n100,200\n")
    assert reference.steps_in(tmp_path / "log.csv", 10, 0.5) == 150
