"""`synth --gguf`: the same file as by way of the directory, and a twin that stock llama.cpp runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
import turbosparse
from numpy.typing import NDArray
from turbosparse.cli.main import main
from turbosparse.convert import convert, synth_gguf
from turbosparse.convert.errors import NoSpaceError, UsageError
from turbosparse.convert.synth import write_checkpoint
from turbosparse.convert.synth_gguf import write_ggufs
from turbosparse.convert.synth_model import SynthModel
from turbosparse.convert.synth_shapes import shape

from tests import oracle

DENSE: dict[str, Any] = {"n_layer": 2, "n_embd": 256, "n_ff": 512, "n_head": 4, "n_head_kv": 2, "ranks": (64, 96)}
MOE: dict[str, Any] = DENSE | {"n_expert": 4}
KINDS = {"dense": DENSE, "moe": MOE}


@dataclasses.dataclass(frozen=True)
class Files:
    model: SynthModel
    hf: Path
    sparse: Path
    dense: Path


def write(folder: Path, kind: str, outtype: str, **options: Any) -> Files:
    model = SynthModel(shape("custom", **KINDS[kind]), seed=5)
    write_checkpoint(model, folder / "hf")
    files = Files(model, folder / "hf", folder / "a.gguf", folder / "a.dense.gguf")
    write_ggufs(model, files.sparse, outtype=outtype, dense=files.dense, **options)
    return files


@pytest.fixture(scope="module", params=KINDS)
def f32(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write(tmp_path_factory.mktemp("f32"), request.param, "f32")


@pytest.fixture(scope="module", params=KINDS)
def q4_0(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write(tmp_path_factory.mktemp("q4"), request.param, "q4_0")


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """llama_cpp.Llama without extra buffer types: AMX tiles are advertised on machines that cannot run them."""
    default = llama_cpp.llama_cpp.llama_model_default_params

    def safe() -> Any:
        params = default()
        params.use_extra_bufts = False
        return params

    monkeypatch.setattr(llama_cpp.llama_cpp, "llama_model_default_params", safe)
    opened: list[llama_cpp.Llama] = []

    def load(path: Path) -> llama_cpp.Llama:
        opened.append(llama_cpp.Llama(str(path), n_ctx=256, logits_all=True, n_threads=2, verbose=False))
        return opened[-1]

    yield load
    for model in opened:
        model.close()


def tensors(path: Path) -> dict[str, Any]:
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("hot_first", [True, False])
@pytest.mark.parametrize("outtype", ["q4_0", "f16", "q6_k"])
@pytest.mark.parametrize("kind", KINDS)
def test_file_equals_the_converted_directory(kind: str, outtype: str, hot_first: bool, tmp_path: Path) -> None:
    files = write(tmp_path, kind, outtype, hot_first=hot_first)
    stats = files.hf / "planted" / "stats.safetensors" if hot_first else None
    convert(files.hf, tmp_path / "b.gguf", outtype=outtype, stats=stats)
    direct, through = tensors(files.sparse), tensors(tmp_path / "b.gguf")
    assert list(direct) == list(through)
    for name, t in direct.items():
        assert t.tensor_type == through[name].tensor_type
        assert np.array_equal(t.data, through[name].data), name
    a, b = (gguf.GGUFReader(path).fields for path in (files.sparse, tmp_path / "b.gguf"))
    assert set(a) == set(b)
    assert [key for key in a if a[key].contents() != b[key].contents()] == ["general.name"]


def test_twin_has_the_same_matrices(q4_0: Files) -> None:
    """Same types, same bytes, nothing of ours; every FFN matrix, in the checkpoint's order."""
    sparse, dense = tensors(q4_0.sparse), tensors(q4_0.dense)
    ours = ("ffn_pred", "ffn_neuron", "ffn_expert_freq")
    assert {name.replace("down_t", "down") for name in sparse if not any(o in name for o in ours)} == set(dense)
    for name, t in dense.items():
        twin = sparse[name.replace("ffn_down", "ffn_down_t")]
        assert (t.tensor_type, t.n_bytes) == (twin.tensor_type, twin.n_bytes), name
    fields = gguf.GGUFReader(q4_0.dense).fields
    assert fields["general.architecture"].contents() == "llama"
    assert not [key for key in fields if key.startswith("turbosparse")]


def test_stock_llama_runs_the_twin(q4_0: Files, stock: Any) -> None:
    model = stock(q4_0.dense)
    text = model("The banana", max_tokens=8, temperature=0.0)
    assert text["usage"]["completion_tokens"] == 8
    assert text["choices"][0]["text"].isascii()


class Silu(oracle.Ffn):
    """What stock llama.cpp computes: down(silu(gate x) * up x), no mask."""

    def columns(
        self, x: NDArray[np.float64], tap: NDArray[np.float64], masked: bool, threshold: float
    ) -> dict[str, Any]:
        out = super().columns(x, tap, False, threshold)
        gate = x @ self.gate.T
        out["y"] = (gate / (1 + np.exp(-gate)) * (x @ self.up.T)) @ self.down.T
        return out


class SiluOracle(oracle.Oracle):
    def ffn(self, il: int, expert: int = 0) -> oracle.Ffn:
        return Silu(**vars(super().ffn(il, expert)))


def test_twin_is_the_dense_model(f32: Files, stock: Any) -> None:
    """Stock llama.cpp's logits on the F32 twin are those of the checkpoint with SiLU: no matrix is out of place."""
    tokens = [1, *np.random.default_rng(0).integers(259, f32.model.shape.n_piece, 15).tolist()]
    model = stock(f32.dense)
    model.eval(tokens)
    found = np.array(model.scores[: len(tokens)])
    expected = SiluOracle.from_hf(f32.hf).logits(tokens)
    assert np.abs(found - expected).max() < 3e-3 * np.ptp(expected)  # F16 KV cache
    relu = oracle.Oracle.from_hf(f32.hf).logits(tokens)
    assert np.abs(found - relu).max() > 1e-2 * np.ptp(expected), "the bound above could not tell SiLU from ReLU"


def test_engine_counts_the_planted_sparsity(q4_0: Files) -> None:
    """Through conversion, quantisation and our backend, the counters show what was planted."""
    shape_ = q4_0.model.shape
    tokens = np.random.default_rng(1).integers(259, shape_.n_piece, 128).tolist()
    with turbosparse.Model(q4_0.sparse, mode="exact", n_threads=2) as model:
        layers = model.profile(tokens)
        stated = gguf.GGUFReader(q4_0.sparse)
        frequency = {t.name: t.data for t in stated.tensors if t.name.endswith("ffn_neuron_freq")}
    for il, layer in enumerate(layers):
        assert layer.counts.sum() / (layer.columns.sum() * shape_.n_ff) == pytest.approx(shape_.active, abs=0.015)
        counted = layer.counts / np.maximum(layer.columns, 1)[:, None]
        planted = frequency[f"blk.{il}.ffn_neuron_freq"].reshape(counted.shape)
        assert np.corrcoef(counted.ravel(), planted.ravel())[0, 1] > 0.9  # hot neurons are where the file says


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SynthModel(shape("custom", **DENSE))
    (tmp_path / "a.dense.gguf").write_text("precious")
    with pytest.raises(UsageError, match="--force"):
        write_ggufs(model, tmp_path / "a.gguf", dense=tmp_path / "a.dense.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["a.dense.gguf"]
    with pytest.raises(UsageError, match="q9_0"):
        write_ggufs(model, tmp_path / "a.gguf", outtype="q9_0")
    monkeypatch.setattr(synth_gguf.shutil, "disk_usage", lambda path: type("D", (), {"free": 1000})())
    with pytest.raises(NoSpaceError, match="--layers"):
        write_ggufs(model, tmp_path / "b.gguf", dense=tmp_path / "b.dense.gguf")


def test_command_names_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [
        "synth",
        "--shape",
        "custom",
        "--n-embd",
        "64",
        "--n-ff",
        "160",
        "--n-head",
        "4",
        "--layers",
        "1",
        "--json",
    ]
    assert main([*common, "--gguf", "--outtype", "q8_0", "-o", str(tmp_path / "m.gguf")]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [Path(file).name for file in files] == ["m.gguf", "m.dense.gguf"]
    assert main([*common, "--gguf", "--outtype", "f16", "--no-dense", "-o", str(tmp_path / "d")]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [Path(file).name for file in files] == ["custom-f16.gguf"]
    assert all(Path(file).is_file() for file in files)
