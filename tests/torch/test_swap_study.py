"""The study of schedules: it must measure what it says, at any size."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from turbosparse.torch.layers import drelu, swiglu
from turbosparse.train import swap_study
from turbosparse.train.shards import ShardWriter
from turbosparse.train.source import open_source
from turbosparse.train.surgery import TEACHER, token_error
from turbosparse.train.swap_study import SHAPES, Plan, collect, train
from turbosparse.train.walk import walk

from tests import tiny

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def source_dir(tmp_path_factory):
    return tiny.write_reglu(tmp_path_factory.mktemp("silu"), hidden_act="silu")


@pytest.fixture(scope="module")
def model(source_dir):
    return open_source(source_dir).model().eval().requires_grad_(False)


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


def test_the_command_prints_one_row_per_way(source_dir, tmp_path, monkeypatch, capsys):
    writer = ShardWriter(tmp_path / "shards", "words", 384, 0)
    writer.add("words", np.random.default_rng(0).integers(3, 360, 6000))
    writer.close()
    sizes = ["--layers", "0", "--anneal", "0,0.5", "--lr", "1e-3", "--steps", "2", "--windows", "4", "--batch", "8"]
    monkeypatch.setattr(sys, "argv", ["study", str(source_dir), "--data", str(tmp_path / "shards"), *sizes])
    swap_study.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2:4] for row in rows] == [["0", "-"], ["0.5", "blend"], ["0.5", "leak"]]
