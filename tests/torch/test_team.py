"""Two processes as torchrun starts them, on gloo: the same model as one process with twice the batch."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from turbosparse.torch import load
from turbosparse.train import drelu as command
from turbosparse.train.shards import ShardWriter
from turbosparse.train.team import Team

from tests import tiny

pytestmark = pytest.mark.torch


@pytest.fixture
def arguments(tmp_path):
    source = tiny.write_reglu(tmp_path / "teacher", hidden_act="silu")
    writer = ShardWriter(tmp_path / "shards", "words", 384, 0)
    writer.add("words", np.random.default_rng(0).integers(3, 360, 4000))
    writer.close()
    sizes = ("--steps", "12", "--seq", "16", "--rank", "32", "--threads", "1", "--log-every", "1", "--out-dtype", "f32")

    def made(out, batch, *more):
        return [str(source), "-o", str(out), "--data", str(tmp_path / "shards"), "--batch", str(batch), *sizes, *more]

    return made


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pair(arguments):
    """Exit codes and outputs of both."""
    words = [sys.executable, "-m", "turbosparse.train.drelu", *arguments]
    env = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    envs = [env | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    both = [subprocess.Popen(words, env=e, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for e in envs]
    said = [process.communicate(timeout=200)[0] for process in both]
    return [process.returncode for process in both], said


def test_two_processes_are_one_with_twice_the_batch(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["drelu", *arguments(tmp_path / "one", 4)])
    assert command.main() == 0
    codes, said = pair(arguments(tmp_path / "two", 2, "--stop-after", "0"))
    assert codes == [0, 0], said
    codes, said = pair(arguments(tmp_path / "two", 2, "--resume"))
    assert codes == [0, 0], said
    assert b"resumed at step 0" in said[0]
    assert b"step" not in said[1]  # only rank 0 speaks
    one, two = load(tmp_path / "one").state_dict(), load(tmp_path / "two").state_dict()
    for name, t in one.items():
        # Medians and scales are those of each process's own half: close, not equal.
        assert torch.allclose(t, two[name], atol=0.05 * float(t.std()) + 1e-3), name
    rows = [list(csv.DictReader((tmp_path / out / "train" / "log.csv").open())) for out in ("one", "two")]
    assert [r["tokens"] for r in rows[0]] == [r["tokens"] for r in rows[1]] == [str(64 * i) for i in range(1, 13)]
    assert [float(r["loss"]) for r in rows[0]] == pytest.approx([float(r["loss"]) for r in rows[1]], rel=0.05)


def test_alone_nothing_is_exchanged():
    team = Team()
    assert team.is_first
    assert team.average_numbers({"a": 1.5}, torch.device("cpu")) == {"a": 1.5}
    assert team.agree(2.0, torch.device("cpu")) == 2.0
    tensor = torch.ones(3)
    team.average([tensor])
    assert torch.equal(tensor, torch.ones(3))
