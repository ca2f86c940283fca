"""Synthetic checkpoints as files: sizes, layout, determinism, the ways in which writing can fail."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from turbosparse.cli.main import main
from turbosparse.convert import synth
from turbosparse.convert.checkpoint import open_checkpoint
from turbosparse.convert.errors import NoSpaceError, UsageError
from turbosparse.convert.neurons import load_stats
from turbosparse.convert.synth import n_bytes, open_synthetic, write_checkpoint
from turbosparse.convert.synth_model import SynthModel
from turbosparse.convert.synth_shapes import MISTRAL_7B, MIXTRAL_8X7B, MIXTRAL_RANKS, shape
from turbosparse.convert.synth_tokenizer import tokenizer_model

SMALL: dict[str, Any] = {
    "n_layer": 2, "n_embd": 64, "n_ff": 160, "n_head": 4, "n_head_kv": 2, "n_vocab": 384, "ranks": (32, 48),
}  # fmt: skip


def small(seed: int = 0, **changes: Any) -> SynthModel:
    return SynthModel(shape("custom", **(SMALL | changes)), seed)


# --- shapes -------------------------------------------------------------------


def test_published_shapes_have_the_published_sizes() -> None:
    """Parameters of TurboSparse-Mistral and index total_size of TurboSparse-Mixtral, to the byte."""
    assert n_bytes(list(SynthModel(MISTRAL_7B).tensors())) == 2 * 7_985_434_624
    assert n_bytes(list(SynthModel(MIXTRAL_8X7B).tensors())) == 103_592_501_248


def test_published_ranks() -> None:
    ranks = MISTRAL_7B.ranks
    assert [sum(ranks[:9]), ranks[9], sum(ranks[10:20]), sum(ranks[20:30]), sum(ranks[30:])] == [
        9728, 1024, 11264, 14976, 3328,
    ]  # fmt: skip
    assert ranks[0] == 1536
    assert all(r % 64 == 0 for r in ranks)
    assert (len(MIXTRAL_RANKS), sum(MIXTRAL_RANKS), MIXTRAL_RANKS[13], MIXTRAL_RANKS[31]) == (32, 33152, 1088, 1344)


def test_fewer_layers_are_the_first_ones() -> None:
    assert shape("mistral-7b", n_layer=3).ranks == (1536, 1024, 1024)
    assert shape("custom", n_layer=5, ranks=(32, 64)).ranks == (32, 64, 32, 64, 32)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"n_embd": 100}, "n-embd"), ({"n_head": 5}, "n-head"), ({"n_head_kv": 3}, "n-head-kv"),
        ({"n_layer": 0}, "layers"), ({"n_vocab": 300}, "n-vocab"), ({"n_ff": 8}, "n-ff"), ({"n_expert": 1}, "n-expert"),
        ({"ranks": (4,)}, "rank"), ({"active": 0.9}, "active"), ({"n_embd": 96, "n_head": 32}, "odd"),
    ],
)  # fmt: skip
def test_impossible_shapes_are_refused_by_option(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        shape("custom", **(SMALL | changes))
    with pytest.raises(UsageError, match="known: mistral-7b"):
        shape("mistral-8b")


# --- tensors ------------------------------------------------------------------


@pytest.mark.parametrize("n_expert", [0, 3])
def test_rows_depend_on_seed_and_position_alone(n_expert: int) -> None:
    first = list(small(1, n_expert=n_expert).tensors())
    again = {t.name: t for t in small(1, n_expert=n_expert).tensors()}
    other = {t.name: t for t in small(2, n_expert=n_expert).tensors()}
    for t in reversed(first):
        whole, n = t.read(0, t.shape[0]), t.shape[0]
        assert whole.shape == t.shape
        assert np.array_equal(again[t.name].read(0, n), whole), t.name
        assert np.array_equal(t.read(n // 3, n // 3 + 2), whole[n // 3 : n // 3 + 2]), t.name
        assert not np.array_equal(other[t.name].read(0, n), whole), t.name


def test_layers_and_experts_differ() -> None:
    model = small(n_expert=3, ranks=(32,))
    for suffix in ("w1.weight", "w2.weight", "w3.weight", "predictor.fc1.weight", "predictor.fc2.weight"):
        found = [t.read(0, t.shape[0]).tobytes() for t in model.tensors() if t.name.endswith(suffix)]
        assert len(set(found)) == len(found) == 6


# --- the directory ------------------------------------------------------------


@pytest.mark.parametrize("n_expert", [0, 4])
def test_directory_holds_what_the_model_makes(n_expert: int, tmp_path: Path) -> None:
    """Every shard and the index, read back by the converter's own checked reader."""
    model = small(n_expert=n_expert)
    done = write_checkpoint(model, tmp_path / "hf", max_shard=100_000, threads=2)
    assert done.n_shards > 2
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == done.n_bytes == n_bytes(list(model.tensors()))
    with open_checkpoint(tmp_path / "hf") as checkpoint, open_synthetic(model) as lazy:
        assert set(checkpoint.tensors) == set(lazy.tensors) == set(index["weight_map"])
        assert checkpoint.config == lazy.config
        for name, tensor in checkpoint.tensors.items():
            assert (tensor.dtype, tensor.shape) == ("BF16", lazy.tensors[name].shape)
            n = tensor.shape[0]
            assert np.array_equal(tensor.read(0, n), lazy.tensors[name].read(0, n)), name


def test_config_speaks_like_the_published_ones(tmp_path: Path) -> None:
    write_checkpoint(small(), tmp_path / "a")
    write_checkpoint(small(n_expert=4), tmp_path / "b")
    a, b = (json.loads((tmp_path / name / "config.json").read_text()) for name in "ab")
    assert (a["architectures"], a["model_type"]) == (["BambooForCausalLM"], "bamboo")
    assert (b["architectures"], b["model_type"]) == (["TurboSparseMixtralForCausalLM"], "turbosparsemixtral")
    assert (b["num_local_experts"], b["num_experts_per_tok"], a["hidden_act"], a["eos_token_id"]) == (4, 2, "relu", 2)
    assert not [key for key in a | b if "predictor" in key]
    generation = json.loads((tmp_path / "a" / "generation_config.json").read_text())
    assert (generation["do_sample"], generation["temperature"]) == (True, 0.0)


@pytest.mark.parametrize("n_expert", [0, 4])
def test_planted_statistics_are_a_stats_file(n_expert: int, tmp_path: Path) -> None:
    from turbosparse.convert.arch import hparams

    model = small(n_expert=n_expert)
    write_checkpoint(model, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    stats = load_stats(tmp_path / "hf" / "planted" / "stats.safetensors", hparams(config, moe=n_expert > 0))
    for il, layer in enumerate(stats.layers):
        for e in range(max(n_expert, 1)):
            stated = model.frequency(il, e)
            assert np.allclose(layer.freq[e], stated[layer.perm[e]], atol=1e-5)
            assert np.all(np.diff(layer.freq[e]) <= 0)
        assert layer.first_branch == 1  # up is zero more often


def test_memory_stays_small(tmp_path: Path) -> None:
    """A layer of real width: 0.5 GB are written by a process that never holds 0.4 GB."""
    script = """
import sys
from pathlib import Path
from turbosparse.convert.synth import write_checkpoint
from turbosparse.convert.synth_model import SynthModel
from turbosparse.convert.synth_shapes import shape
done = write_checkpoint(SynthModel(shape("mistral-7b", n_layer=1, n_vocab=1024)), Path(sys.argv[1]))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(done.n_bytes, int(status["VmHWM"].split()[0]) * 1024)  # ru_maxrss would remember the parent's
"""
    command = [sys.executable, "-c", script, str(tmp_path / "hf")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path / "hf")
    written, peak = map(int, run.stdout.split())
    assert written > 490e6
    assert peak < 400e6


# --- refusals and accidents -----------------------------------------------------


def test_nothing_foreign_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "hf"
    write_checkpoint(small(), out)
    with pytest.raises(UsageError, match="--force"):
        write_checkpoint(small(), out)
    write_checkpoint(small(seed=1), out, force=True)
    assert json.loads((out / "synth.json").read_text())["seed"] == 1
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not written by synth"):
        write_checkpoint(small(), foreign, force=True)
    assert (foreign / "chapter1.tex").is_file()
    with pytest.raises(UsageError, match="does not exist"):
        write_checkpoint(small(), tmp_path / "no" / "hf")


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(small(), tmp_path / "hf", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    write_checkpoint(small(), tmp_path / "hf.part")  # what kill -9 leaves has synth.json and some shards
    (tmp_path / "hf.part" / "model.safetensors.index.json").unlink()
    assert write_checkpoint(small(), tmp_path / "hf").removed_part
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_space_is_checked_before_and_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as m:
        m.setattr(synth.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
        with pytest.raises(NoSpaceError, match=r"0\.0 GB free") as caught:
            write_checkpoint(small(), tmp_path / "hf")
        assert (caught.value.exit_code, caught.value.data["available"]) == (5, 10**6)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(synth, "_write_tensor", full)
    with pytest.raises(NoSpaceError):
        write_checkpoint(small(), tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []


# --- tokenizer ------------------------------------------------------------------


@pytest.mark.parametrize("n_piece", [376, 1016, 32000, 57000])
def test_tokenizer_loads_and_round_trips(n_piece: int) -> None:
    sp = sentencepiece.SentencePieceProcessor()
    sp.LoadFromSerializedProto(tokenizer_model(n_piece))
    assert sp.GetPieceSize() == n_piece
    assert len({sp.IdToPiece(i) for i in range(n_piece)}) == n_piece
    assert (sp.unk_id(), sp.bos_id(), sp.eos_id(), sp.pad_id()) == (0, 1, 2, -1)
    assert sp.IsByte(3)
    assert sp.IsByte(258)
    for text in ("The quick brown fox, 1 2 3!", "na\u00efve \u4f60\u597d", "{x: [1]} ~ ok"):
        assert sp.Decode(sp.Encode(text)) == text
    words = [sp.IdToPiece(i) for i in range(n_piece - 200, n_piece)]
    assert n_piece < 2000 or np.mean([sp.Encode(w[1:], out_type=str) == [w] for w in words if w[0] == "\u2581"]) > 0.9


# --- command line ---------------------------------------------------------------


def test_command_writes_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--n-embd", "64", "--n-ff", "160", "--n-head", "4", "--rank", "32", "--rank", "48", "--layers", "2"]
    arguments = ["synth", "--shape", "custom", *options, "-o", str(tmp_path / "hf"), "--json"]
    assert main([*arguments, "--dry-run"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    assert main(arguments) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["bytes"] == planned["bytes"]
    assert done["planted"]["ranks"] == [32, 48]
    assert main(arguments) == 2  # exists
    assert "--force" in capsys.readouterr().err
    assert main(["synth", "--shape", "mistral-9b", "-o", str(tmp_path / "x")]) == 2
    assert main(["synth", "--shape", "custom", "--n-embd", "100", "-o", str(tmp_path / "x")]) == 2
    assert main(["synth", "--shape", "custom", "--outtype", "q8_0", "-o", str(tmp_path / "x")]) == 2
    assert "--gguf" in capsys.readouterr().err
    assert main(["synth", "--shape", "custom", "--gguf", "-o", str(tmp_path / "no" / "x")]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]
