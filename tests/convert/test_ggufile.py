"""GGUF files from an unknown hand: every defect is a typed error, never a crash or an allocation at will."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st
from turbosparse.convert import convert
from turbosparse.convert.contract import check_contract
from turbosparse.convert.errors import ConvertError, GGUFError, UnsupportedModelError
from turbosparse.convert.ggufile import GGUFFile

from tests.ggufedit import ARR, STR, TYPE_F16, TYPE_Q4_0, U32, GgufEdit


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, mistral_dir: Path) -> Path:
    return convert(mistral_dir, tmp_path_factory.mktemp("gguf") / "m.gguf", outtype="q8_0")


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory, mixtral_dir: Path) -> Path:
    from turbosparse.convert.neurons import save_stats

    tmp = tmp_path_factory.mktemp("hot")
    rng = np.random.default_rng(0)
    layers = [(rng.integers(0, 50, (4, 160)), np.full(4, 50)) for _ in range(2)]
    save_stats(tmp / "s.safetensors", layers, corpus="c", sha256="", tokens=100)
    return convert(mixtral_dir, tmp / "m.gguf", outtype="f32", stats=tmp / "s.safetensors")


def check(path: Path) -> Any:
    with GGUFFile(path) as file:
        return check_contract(file)


def test_agrees_with_the_reference_reader(good: Path) -> None:
    reference = GGUFReader(good)
    with GGUFFile(good) as file:
        for key, field in reference.fields.items():
            if not key.startswith("GGUF."):
                assert file.get(key) == pytest.approx(field.contents()), key
        assert list(file.tensors) == [t.name for t in reference.tensors]
        for t in reference.tensors:
            info = file.tensors[t.name]
            assert info.shape == tuple(t.shape)
            assert info.qtype == t.tensor_type
            assert file.rows(info, 0, info.n_rows).tobytes() == np.asarray(t.data).tobytes()


def test_sound_files_pass(good: Path, hot: Path) -> None:
    assert check(good).ranks == [32, 48]
    assert check(hot).order == "hot_first"


def test_not_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(GGUFError, match=r"cannot be opened|not a regular file"):
            check(path)


@pytest.mark.parametrize("size", [0, 3, 4, 8, 23, 24, 200, 5000, -1, -4096])
def test_truncated(good: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(good.read_bytes()[:size])
    with pytest.raises(GGUFError, match=r"cut\.gguf"):
        check(path)


def test_random_file(tmp_path: Path) -> None:
    path = tmp_path / "random.gguf"
    path.write_bytes(np.random.default_rng(0).bytes(100_000))
    with pytest.raises(GGUFError, match="not a GGUF file"):
        check(path)


def test_pwri_magic(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.gguf"
    path.write_bytes(b"PWRI" + good.read_bytes()[4:])
    with pytest.raises(GGUFError, match="not a GGUF file"):
        check(path)


def broken(name: str) -> Any:
    def change(edit: GgufEdit) -> None:
        match name:
            case "version 1":
                edit.version = 1
            case "more tensors than bytes":
                edit.n_tensors = 1 << 60
            case "more keys than bytes":
                edit.n_keys = 1 << 60
            case "key twice":
                edit.keys.append(edit.key("general.name"))
            case "tensor twice":
                edit.tensors.append(edit.tensors[0])
            case "unknown value type":
                edit.keys.append(type(edit.keys[0])("x", 99, b""))
            case "string longer than the file":
                edit.set("x", struct.pack("<Q", 1 << 50), STR)
            case "array longer than the file":
                edit.set("x", struct.pack("<IQ", U32, 1 << 50), ARR)
            case "array of arrays":
                edit.set("x", struct.pack("<IQ", ARR, 1), ARR)
            case "alignment 3":
                edit.set("general.alignment", 3)
            case "dimension 0":
                edit.tensors[0].shape[0] = 0
            case "dimensions overflow":
                edit.tensors[0].shape[:] = [1 << 40, 1 << 40]
            case "5 dimensions":
                edit.tensors[0].shape[:] = [1, 1, 1, 1, 1]
            case "unknown tensor type":
                edit.tensors[0].type = 77
            case "row is no block multiple":
                edit.tensor("output_norm.weight").type = TYPE_Q4_0
                edit.tensor("output_norm.weight").shape[0] = 33
            case "offset unaligned":
                edit.tensors[-1].offset = 7
            case "offset beyond the file":
                edit.tensors[-1].offset = 1 << 40
            case "overlap":
                edit.tensors[-1].offset = 0

    return change


FORMAT = [
    "version 1", "more tensors than bytes", "more keys than bytes", "key twice", "tensor twice", "unknown value type",
    "string longer than the file", "array longer than the file", "array of arrays", "alignment 3", "dimension 0",
    "dimensions overflow", "5 dimensions", "unknown tensor type", "row is no block multiple", "offset unaligned",
    "offset beyond the file", "overlap",
]  # fmt: skip


@pytest.mark.parametrize("name", FORMAT)
def test_broken_format(good: Path, tmp_path: Path, name: str) -> None:
    edit = GgufEdit(good)
    broken(name)(edit)
    path = tmp_path / "bad.gguf"
    edit.write(path)
    with pytest.raises(GGUFError, match=r"bad\.gguf") as caught, GGUFFile(path):
        pass
    assert caught.value.exit_code == 4


CONTRACT: dict[str, tuple[type[ConvertError], str, Any]] = {
    "other architecture": (UnsupportedModelError, "'llama'", lambda e: e.set("general.architecture", "llama")),
    "newer version": (UnsupportedModelError, "version 2", lambda e: e.set("turbosparse.version", 2)),
    "feature": (
        UnsupportedModelError, "warp", lambda e: e.set("turbosparse.required_features", ["warp"], ARR, STR),
    ),
    "activation": (GGUFError, "activation", lambda e: e.set("turbosparse.ffn.activation", "gelu")),
    "predictor kind": (GGUFError, "kind", lambda e: e.set("turbosparse.predictor.kind", "tree")),
    "kind none with ranks": (GGUFError, "rank", lambda e: e.set("turbosparse.predictor.kind", "none")),
    "layout": (GGUFError, "layout", lambda e: e.set("turbosparse.ffn.layout", "bundle")),
    "key missing": (GGUFError, "block_count", lambda e: e.drop_key("turbosparse.block_count")),
    "key is a string": (GGUFError, "block_count", lambda e: e.set("turbosparse.block_count", "2", STR)),
    "absurd layer count": (GGUFError, "block_count", lambda e: e.set("turbosparse.block_count", 2**31)),
    "heads do not divide": (GGUFError, "heads", lambda e: e.set("turbosparse.attention.head_count", 3)),
    "ranks too few": (GGUFError, "rank", lambda e: e.set("turbosparse.predictor.rank", [32])),
    "threshold NaN": (
        GGUFError, "threshold", lambda e: e.set("turbosparse.predictor.threshold", [float("nan"), 0.0]),
    ),
    "missing tensor": (GGUFError, "blk.1.ffn_up.weight is missing", lambda e: e.drop_tensor("blk.1.ffn_up.weight")),
    "surplus tensor": (GGUFError, "surplus", lambda e: e.add_array("blk.1.x", np.zeros(8, np.float32))),
    "wrong shape": (GGUFError, "blk.0.ffn_gate", lambda e: e.tensor("blk.0.ffn_gate.weight").shape.reverse()),
    "norm of another type": (
        GGUFError, "ffn_norm.weight is F16", lambda e: setattr(e.tensor("blk.0.ffn_norm.weight"), "type", TYPE_F16),
    ),
    "1/w infinite": (
        GGUFError, "in_scale is not finite",
        lambda e: setattr(e.tensor("blk.0.ffn_pred_in_scale"), "data", np.full(64, np.inf, np.float32).tobytes()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRACT)
def test_broken_contract(good: Path, tmp_path: Path, name: str) -> None:
    error, message, change = CONTRACT[name]
    edit = GgufEdit(good)
    change(edit)
    path = tmp_path / "bad.gguf"
    edit.write(path)
    with pytest.raises(error, match=message) as caught:
        check(path)
    assert caught.value.exit_code in (3, 4)


@pytest.mark.parametrize(("tensor", "index", "value", "message"), [
    ("ffn_neuron_perm", 3, 160, "not a permutation"),
    ("ffn_neuron_perm", 3, -1, "not a permutation"),
    ("ffn_neuron_perm", 3, None, "not a permutation"),  # twice the same
    ("ffn_neuron_freq", 0, 1.5, "outside"),
    ("ffn_neuron_freq", 0, np.nan, "outside"),
    ("ffn_neuron_freq", 159, 1.0, "rises"),
    ("ffn_expert_freq", 0, -0.1, "outside"),
])  # fmt: skip
def test_broken_maps(hot: Path, tmp_path: Path, tensor: str, index: int, value: Any, message: str) -> None:
    edit = GgufEdit(hot)
    t = edit.tensor(f"blk.1.{tensor}")
    values = np.frombuffer(t.data, np.int32 if "perm" in tensor else np.float32).copy()
    values[index] = values[index + 1] if value is None else value
    t.data = values.tobytes()
    path = tmp_path / "bad.gguf"
    edit.write(path)
    with pytest.raises(GGUFError, match=message):
        check(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_to_the_header_is_typed(good: Path, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    raw = bytearray(good.read_bytes())
    header = GgufEdit(good).header_size
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.gguf"
    path.write_bytes(raw)
    with contextlib.suppress(ConvertError):
        check(path)


def test_a_header_of_gigabytes_is_not_read(good: Path, tmp_path: Path) -> None:
    """A sparse file that backs its claim with zeros: the bound, not the memory, decides."""
    edit = GgufEdit(good)
    edit.keys.insert(0, type(edit.keys[0])("x", ARR, struct.pack("<IQ", 0, 3 << 30)))
    path = edit.write(tmp_path / "sparse.gguf")
    with open(path, "r+b") as f:
        f.truncate(4 << 30)
    with pytest.raises(GGUFError, match="128 MB of keys"):
        check(path)
