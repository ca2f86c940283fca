"""The study of schedules: it must measure what it says, at any size."""

from __future__ import annotations

import csv
import math
import re

import numpy as np
import pytest
import torch
from turbosparse.torch.layers import drelu, swiglu
from turbosparse.train import swap_study
from turbosparse.train.shards import ShardWriter
from turbosparse.train.surgery import TEACHER, token_error
from turbosparse.train.swap_study import SHAPES, Plan, collect, train
from turbosparse.train.walk import walk

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def model(source):
    return source.model().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def rows():
    return torch.from_numpy(np.random.default_rng(0).integers(3, 360, (10, 32)))


@pytest.mark.parametrize("shape", list(SHAPES))
def test_every_shape_goes_from_swiglu_to_drelu(shape):
    gate, up = torch.randn(2, 50, 8)
    assert torch.allclose(SHAPES[shape](0.0)(gate, up), swiglu(gate, up), atol=1e-6)
    assert torch.allclose(SHAPES[shape](1.0)(gate, up), drelu(gate, up), atol=1e-6)
    between = SHAPES[shape](0.5)(gate, up)
    assert not torch.allclose(between, swiglu(gate, up), atol=1e-3)
    assert not torch.allclose(between, drelu(gate, up), atol=1e-3)


def test_inputs_and_outputs_are_the_ffns(model, rows):
    data = collect(model, rows, [1], n_held=2)[1]
    place = list(walk(model, rows, TEACHER))[1]
    assert torch.allclose(torch.cat([data.x, data.x_held]), place.x.flatten(0, 1), atol=1e-5)
    assert torch.allclose(
        data.wanted, model.model.layers[1].mlp(place.residual, place.x, TEACHER).flatten(0, 1)[:-64], atol=1e-5
    )
    assert data.x_held.shape == (64, model.config.hidden_size)


def test_training_lowers_the_error_and_steers_the_zeros(model, rows):
    data = collect(model, rows, [0], n_held=2)[0]
    mlp = model.model.layers[0].mlp
    before = {name: t.clone() for name, t in mlp.state_dict().items()}
    act = drelu(mlp.gate_proj(data.x_held), mlp.up_proj(data.x_held))
    bare = float(token_error(mlp.down_proj(act)[None], data.wanted_held[None]))
    error, zero = train(mlp, data, Plan(0.5, "blend", 5e-3, 60, 64, 0.8, 1))
    assert error < 0.8 * bare
    assert zero == pytest.approx(0.8, abs=0.06)
    assert all(torch.equal(before[name], t) for name, t in mlp.state_dict().items())  # a copy was trained
    assert train(mlp, data, Plan(0.5, "blend", 5e-3, 60, 64, 0.8, 1)) == (error, zero)


@pytest.fixture
def study(source_dir, tmp_path, call, capsys):
    """Calls the command; its lines, the first about the signs, the rest a table."""
    rng = np.random.default_rng(0)
    writer = ShardWriter(tmp_path / "shards", "words", 384, 0)
    writer.add("words", rng.integers(3, 360, 6000), rng.integers(3, 360, 600))
    writer.close()

    def run(*more):
        sizes = ["--lr", "1e-3", "--windows", "4", "--batch", "8", "--seeds", "2"]
        assert (
            call(swap_study, [source_dir, "--data", tmp_path / "shards", "-o", tmp_path / "runs.csv", *sizes, *more])
            == 0
        )
        return capsys.readouterr().out.splitlines()

    return run


def numbers(line):
    return [float(found) for found in re.findall(r"FFN error ([\d.]+), KL ([\d.]+)", line) for found in found]


def test_the_command_compares_each_way_with_at_once(study, tmp_path):
    lines = study("--layers", "0,1", "--anneal", "0.5", "--steps", "2")
    error, kl, error_after, kl_after = numbers(lines[0])
    assert error_after < error
    assert kl_after < kl
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[3:]]
    assert [row[2:4] for row in cells] == [["0", "-"], ["0.5", "blend"], ["0.5", "leak"]]
    runs = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert len(runs) == 3 * 2 * 2  # ways, layers, seeds
    errors = {
        shape: np.array([float(r["error"]) for r in runs if r["shape"] == shape]).reshape(2, 2)
        for shape in ("-", "blend")
    }
    change = errors["blend"] / errors["-"] - 1
    assert cells[1][4:7] == [
        f"{errors['blend'].mean():.4f}",
        f"{errors['blend'].mean(1).std(ddof=1):.4f}",
        f"{100 * change.mean():+.1f} %, lower in {(change < 0).sum()} of 4",
    ]
    assert cells[0][6] == ""


def test_runs_that_are_there_are_not_run_again(study, tmp_path, monkeypatch):
    before = study("--layers", "0", "--anneal", "0.5", "--steps", "2")
    kept = (tmp_path / "runs.csv").read_text().splitlines(keepends=True)
    (tmp_path / "runs.csv").write_text("".join(kept[:-1]))
    done, train_really = [], swap_study.train
    monkeypatch.setattr(swap_study, "train", lambda *args: done.append(args) or train_really(*args))
    assert study("--layers", "0", "--anneal", "0.5", "--steps", "2") == before
    assert len(done) == 1


def test_whole_models_are_compared_too(study, tmp_path):
    lines = study("--whole", "4", "--anneal", "0.5")
    runs = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert [(r["subject"], r["anneal"], r["seed"]) for r in runs] == [
        ("whole", "0.0", "0"), ("whole", "0.5", "0"), ("whole", "0.0", "1"), ("whole", "0.5", "1")
    ]  # fmt: skip
    assert all(math.log(384) - 0.2 < float(r["error"]) < 20 for r in runs)  # random tokens
    assert len({r["error"] for r in runs}) == 4
    assert len(lines) == 5


def test_shards_without_held_out_text_are_refused(source_dir, tmp_path, call, capsys):
    writer = ShardWriter(tmp_path / "shards", "words", 384, 0)
    writer.add("words", np.random.default_rng(0).integers(3, 360, 6000))
    writer.close()
    words = [source_dir, "--data", tmp_path / "shards", "-o", tmp_path / "r.csv", "--whole", "1", "--windows", "2"]
    assert call(swap_study, words) == 2
    assert "no held-out text" in capsys.readouterr().err
