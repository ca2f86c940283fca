"""tools/train-reference.sh, whole, over its simulated bridge: small text, a stand-in for training, no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.fakes import bpe_model, mixture_yaml, paragraphs, source, wheel

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "train-reference.sh"

STUB = """
import os, sys, time
from pathlib import Path
from turbosparse.train.shards import Shards
out, shards, minutes = Path(sys.argv[1]), Shards(sys.argv[2]), float(sys.argv[3])
state = out / "train" / "state.pt"
state.parent.mkdir(parents=True, exist_ok=True)
done = int(state.read_text()) if state.exists() else 0
print("from step", done, "of", shards.n_vocab, flush=True)
for step in range(done, int(minutes)):
    state.write_text(str(step + 1))
    time.sleep(0.2)
(out / "weights.bin").write_bytes(os.urandom(65 << 20))
print("finished", flush=True)
"""
TORCH = """
class cuda:
    is_available = staticmethod(lambda: False)
__version__ = "none"
"""


@pytest.fixture
def made(tmp_path):
    """Options of a small run: model, mixture, packages, and a Python that believes it has torch."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "torch.py").write_text(TORCH)
    (tmp_path / "stub.py").write_text(STUB)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{tmp_path}/fake" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    cache = tmp_path / "cache" / "turbosparse" / "train"
    cache.mkdir(parents=True)
    package = wheel(cache / "prose-1.0.whl", {f"{i}.txt": paragraphs(i, 40) for i in range(20)})
    streams = {"prose": {"package": "p", "reader": "text", "heldout": 0.05}}
    mixture = mixture_yaml(tmp_path / "m.yaml", {"p": source(package)}, streams)
    return [
        *("--here", sys.executable, "--python", str(python), "--source", str(bpe_model(tmp_path / "tiny.gguf"))),
        *("--mixture", str(mixture), "--work", str(tmp_path / "work"), "--carry", str(tmp_path / "carry")),
        *("--run", str(tmp_path / "run"), "--back", str(tmp_path / "back")),
        *("--train", f"python {tmp_path}/stub.py OUT SHARDS N", "--trim", "320", "--share", "1.0"),
    ]


def script(tmp_path, *args, **env):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")} | env
    return subprocess.run(
        ["sh", str(SCRIPT), *map(str, args)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_dry_run_survives_a_kill_and_keeps_all_limits(made, tmp_path):
    done = script(tmp_path, "dry-run", *made, "--minutes", "25", "--piece", "30000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gone without a word" in done.stdout
    assert "resuming" in done.stdout
    assert "dry run passed" in done.stdout
    pieces = int(done.stdout.split("dry run passed: ")[1].split()[0])
    assert pieces > 3
    assert "2 calls back" in done.stdout  # 65 MiB do not fit into one
    assert not (tmp_path / "run").exists()  # the dry run has folders of its own and leaves nothing


def test_a_piece_that_is_missing_is_named(made, tmp_path):
    assert script(tmp_path, "prepare", *made, "--piece", "30000").returncode == 0
    (tmp_path / "carry" / "0" / "piece-000.part").rename(tmp_path / "piece")
    early = script(tmp_path, "start", *made)
    assert early.returncode == 2
    assert "still to come: piece-000.part" in early.stdout
    assert "carry what is still to come" in early.stderr
    (tmp_path / "piece").rename(tmp_path / "carry" / "0" / "piece-000.part")
    done = script(tmp_path, "start", *made, "--minutes", "2", "--wait", "60", OUT=str(tmp_path / "out"))
    assert "finished with exit code 0" in done.stdout, done.stdout + done.stderr
    assert "finished" in (tmp_path / "out" / "log.txt").read_text()


def test_training_outlives_the_call_and_collect_needs_part_0(made, tmp_path):
    assert script(tmp_path, "prepare", *made).returncode == 0
    begun = script(tmp_path, "start", *made, "--minutes", "20", "--wait", "0")
    assert "running" in begun.stdout, begun.stdout + begun.stderr
    again = script(tmp_path, "start", *made, "--wait", "0")
    assert "training runs already" in again.stdout
    assert script(tmp_path, "collect", *made, "--part", "1", OUT=str(tmp_path / "o")).returncode == 2
    done = script(tmp_path, "status", *made, "--wait", "60")
    assert "finished with exit code 0" in done.stdout
    assert (tmp_path / "run" / "log.txt").read_text().count("from step") == 1


def test_a_stopped_run_can_be_finished_at_once(made, tmp_path):
    assert script(tmp_path, "prepare", *made).returncode == 0
    assert script(tmp_path, "stop", *made).returncode == 2
    script(tmp_path, "start", *made, "--minutes", "1000", "--wait", "2")
    assert "stopped" in script(tmp_path, "stop", *made).stdout
    assert "gone without a word" in script(tmp_path, "status", *made).stdout
    done = script(tmp_path, "start", *made, "--minutes", "1", "--wait", "60")
    assert "finished with exit code 0" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "run" / "out" / "weights.bin").exists()


def test_failures_of_training_are_reported(made, tmp_path):
    assert script(tmp_path, "prepare", *made).returncode == 0
    options = [arg.replace("stub.py", "none.py") for arg in made]
    done = script(tmp_path, "start", *options, "--wait", "30")
    assert "finished with exit code 2" in done.stdout
    assert "none.py" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [(["dance"], "unknown command dance"), (["start", "--minuts", "3"], "unknown option --minuts"),
     (["start", "--wait", "soon"], "expected a whole number, found 'soon'"), (["start", "--wait"], "--wait needs")],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, args, message):
    done = script(tmp_path, *args)
    assert done.returncode == 2
    assert message in done.stderr


def test_help_says_what_is_where(tmp_path):
    done = script(tmp_path, "--help")
    assert done.returncode == 0
    for verb in ("prepare", "receive", "start", "status", "stop", "collect", "assemble", "dry-run"):
        assert verb in done.stdout


def test_nothing_carried(made, tmp_path):
    done = script(tmp_path, "start", *made)
    assert done.returncode == 2
    assert "no piece" in done.stderr
