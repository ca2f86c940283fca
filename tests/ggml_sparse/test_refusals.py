"""Every line of "What a loader must refuse" (docs/gguf-extension.md), made by breaking one thing in a sound file.

Each refusal is a typed error that names the place, what was expected and what was found; the process goes on: after
every refusal the sound file still loads in the same process.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import ggufedit
from tests.conftest import Case
from tests.ggufedit import ARR, F32, I32, STR, U32, U64, GgufEdit, Key, Tensor

GATE, DOWN, FC1, FC2 = (f"blk.1.ffn_{k}.weight" for k in ("gate", "down_t", "pred_fc1", "pred_fc2"))
FC2_T = "blk.1.ffn_pred_fc2_t.weight"
FREQ, PERM, SCALE = "blk.1.ffn_neuron_freq", "blk.1.ffn_neuron_perm", "blk.1.ffn_pred_in_scale"


@dataclasses.dataclass(frozen=True)
class Refusal:
    """`kind` is the error's class; `where` is in its `where` (or message for the container), `found` in its message."""

    edit: Callable[[GgufEdit], object]
    kind: str
    where: str
    found: str = ""


def fmt(edit: Callable[[GgufEdit], object], where: str, found: str = "") -> Refusal:
    return Refusal(edit, "ModelFormatError", where, found)


def unsupported(key: str, value: Any) -> Refusal:
    return Refusal(lambda f: f.set(key, value), "UnsupportedModelError", key, str(value))


def rewrite(name: str, change: Callable[[np.ndarray[Any, Any]], object]) -> Callable[[GgufEdit], None]:
    def edit(file: GgufEdit) -> None:
        array = file.array(name)
        change(array.reshape(-1))
        file.set_array(name, array)

    return edit


def put(index: int, value: float) -> Callable[[np.ndarray[Any, Any]], None]:
    return lambda a: a.__setitem__(index, value)


def retype(name: str, kind: int, nbytes: int | None = None) -> Callable[[GgufEdit], None]:
    def edit(file: GgufEdit) -> None:
        t = file.tensor(name)
        t.type = kind
        t.data = (t.data * 4)[: nbytes or len(t.data)]

    return edit


def reshape(name: str, shape: list[int]) -> Callable[[GgufEdit], None]:
    return lambda f: setattr(f.tensor(name), "shape", shape)


def grow(name: str, shape: list[int]) -> Callable[[GgufEdit], None]:
    """Another shape with data to match, so that only the contract can object."""

    def edit(file: GgufEdit) -> None:
        t = file.tensor(name)
        t.shape, t.data = shape, bytes(4 * int(np.prod(shape)))

    return edit


def surplus(name: str, shape: tuple[int, ...]) -> Refusal:
    return fmt(lambda f: f.add_array(name, np.zeros(shape, np.float32)), name, "surplus")


def new_kind(name: str, kind: int) -> Callable[[GgufEdit], None]:
    def edit(file: GgufEdit) -> None:
        file.key(name).kind, file.key(name).value = kind, b""

    return edit


UNKNOWN = {
    "version 0": unsupported("turbosparse.version", 0),
    "version 2": unsupported("turbosparse.version", 2),
    "version 4294967295": unsupported("turbosparse.version", 2**32 - 1),
    "activation": unsupported("turbosparse.ffn.activation", "swiglu"),
    "predictor kind": unsupported("turbosparse.predictor.kind", "transformer"),
    "base architecture": unsupported("turbosparse.base_architecture", "mamba"),
    "layout": unsupported("turbosparse.ffn.layout", "bundle"),
    "required feature": Refusal(
        lambda f: f.set("turbosparse.required_features", ["time_travel"], ARR, STR),
        "UnsupportedModelError", "turbosparse.required_features", "time_travel",
    ),
    "second required feature": Refusal(
        lambda f: f.set("turbosparse.required_features", ["a", "b"], ARR, STR),
        "UnsupportedModelError", "turbosparse.required_features",
    ),
    "architecture llama": unsupported("general.architecture", "llama"),
    "neuron order": fmt(lambda f: f.set("turbosparse.ffn.neuron_order", "by name"), "neuron_order", "by name"),
    "default mode": fmt(lambda f: f.set("turbosparse.default_mode", "fast"), "default_mode", "fast"),
    "first branch 2": fmt(lambda f: f.set("turbosparse.ffn.first_branch", [0, 2]), "first_branch", "2"),
    "GGUF version 1": fmt(lambda f: setattr(f, "version", 1), "version", "1"),
    "GGUF version 4": fmt(lambda f: setattr(f, "version", 4), "version", "4"),
    "big-endian version": fmt(lambda f: setattr(f, "version", 3 << 24), "version", str(3 << 24)),
    "magic PWRI": fmt(lambda f: setattr(f, "magic", b"PWRI"), "magic"),
    "magic GGML": fmt(lambda f: setattr(f, "magic", b"GGML"), "magic"),
}  # fmt: skip

KEYS = {
    "no architecture": fmt(lambda f: f.drop_key("general.architecture"), "general.architecture"),
    "no version": fmt(lambda f: f.drop_key("turbosparse.version"), "turbosparse.version"),
    "no block count": fmt(lambda f: f.drop_key("turbosparse.block_count"), "block_count"),
    "no activation": fmt(lambda f: f.drop_key("turbosparse.ffn.activation"), "activation"),
    "no rank": fmt(lambda f: f.drop_key("turbosparse.predictor.rank"), "predictor.rank"),
    "version as string": fmt(lambda f: f.set("turbosparse.version", "1", STR), "turbosparse.version"),
    "block count as float": fmt(lambda f: f.set("turbosparse.block_count", 2.0, F32), "block_count"),
    "block count 0": fmt(lambda f: f.set("turbosparse.block_count", 0), "block_count", "0"),
    "block count 3": fmt(lambda f: f.set("turbosparse.block_count", 3), ""),
    "block count 1": fmt(lambda f: f.set("turbosparse.block_count", 1), ""),
    "block count 2^31": fmt(lambda f: f.set("turbosparse.block_count", 2**31), "block_count", str(2**31)),
    "embedding 0": fmt(lambda f: f.set("turbosparse.embedding_length", 0), "embedding_length", "0"),
    "embedding 2^64 - 1": fmt(lambda f: f.set("turbosparse.embedding_length", 2**64 - 1, U64), "embedding_length"),
    "heads 3": fmt(lambda f: f.set("turbosparse.attention.head_count", 3), "head_count", "3"),
    "KV heads 3": fmt(lambda f: f.set("turbosparse.attention.head_count_kv", 3), "head_count_kv", "3"),
    "KV heads 0": fmt(lambda f: f.set("turbosparse.attention.head_count_kv", 0), "head_count_kv", "0"),
    "rope dimensions": fmt(lambda f: f.set("turbosparse.rope.dimension_count", 999), "rope.dimension_count", "999"),
    "rope base NaN": fmt(lambda f: f.set("turbosparse.rope.freq_base", float("nan")), "rope.freq_base"),
    "epsilon 0": fmt(lambda f: f.set("turbosparse.attention.layer_norm_rms_epsilon", 0.0), "epsilon"),
    "epsilon negative": fmt(lambda f: f.set("turbosparse.attention.layer_norm_rms_epsilon", -1.0), "epsilon"),
    "ranks too short": fmt(lambda f: f.set("turbosparse.predictor.rank", [32]), "predictor.rank", "1"),
    "ranks as strings": fmt(lambda f: f.set("turbosparse.predictor.rank", ["32", "48"], ARR, STR), "predictor.rank"),
    "rank negative": fmt(lambda f: f.set("turbosparse.predictor.rank", [32, -48]), "predictor.rank", "-48"),
    "threshold NaN": fmt(lambda f: f.set("turbosparse.predictor.threshold", [0.0, float("nan")]), "threshold"),
    "thresholds too many": fmt(lambda f: f.set("turbosparse.predictor.threshold", [0.0] * 3), "threshold", "3"),
    "experts without tensors": fmt(
        lambda f: (f.set("turbosparse.expert_count", 4, U32), f.set("turbosparse.expert_used_count", 2, U32)), "blk.0."
    ),
    "more experts used than there are": fmt(
        lambda f: (f.set("turbosparse.expert_count", 4, U32), f.set("turbosparse.expert_used_count", 5, U32)),
        "expert_used_count", "5",
    ),
    "predicted without predictor": fmt(
        lambda f: ([f.drop_tensor(f"blk.{il}.{t}") for il in (0, 1) for t in
                    ("ffn_pred_fc1.weight", "ffn_pred_fc2.weight", "ffn_pred_in_scale")],
                   f.set("turbosparse.predictor.rank", [0, 0])), "default_mode", "predicted",
    ),
    "vocabulary smaller than the tensors": fmt(lambda f: f.set("turbosparse.vocab_size", 100), ""),
    "token list shorter": fmt(lambda f: f.key("tokenizer.ggml.tokens").value.pop(), "tokenizer.ggml.tokens", "383"),
    "bos beyond the vocabulary": fmt(lambda f: f.set("tokenizer.ggml.bos_token_id", 384), "bos_token_id", "384"),
    "alignment 0": fmt(lambda f: f.set("general.alignment", 0), "general.alignment", "0"),
    "alignment 48": fmt(lambda f: f.set("general.alignment", 48), "general.alignment", "48"),
}  # fmt: skip


def by_unit(file: GgufEdit, rows: tuple[int, ...] = (48, 160), feature: bool = True, both: bool = False) -> None:
    """fc2 of both layers becomes fc2_t; `rows` is the shape of layer 1's as numpy has it."""
    for il, shape in ((0, (32, 160)), (1, rows)):
        name = f"blk.{il}.ffn_pred_fc2.weight"
        if not both:
            file.drop_tensor(name)
        file.add_array(name.replace("fc2", "fc2_t"), np.ones(shape, np.float32))
    if feature:
        file.set("turbosparse.required_features", ["predictor.fc2_t"], ARR, STR)


FEATURE = {
    "fc2_t without its feature": fmt(lambda f: by_unit(f, feature=False), "ffn_pred_fc2.weight", "no such"),
    "fc2 and fc2_t": fmt(lambda f: by_unit(f, both=True), "ffn_pred_fc2.weight", "surplus"),
    "fc2_t with one row less": fmt(lambda f: by_unit(f, (47, 160)), FC2_T, "{160, 47}"),
    "fc2_t as fc2 lies": fmt(lambda f: by_unit(f, (160, 48)), FC2_T, "{48, 160}"),
    "feature without fc2_t": fmt(
        lambda f: f.set("turbosparse.required_features", ["predictor.fc2_t"], ARR, STR), "ffn_pred_fc2_t", "no such"
    ),
}

TENSORS = {
    "missing gate": fmt(lambda f: f.drop_tensor(GATE), GATE, "no such"),
    "missing down_t": fmt(lambda f: f.drop_tensor(DOWN), DOWN, "no such"),
    "missing norm": fmt(lambda f: f.drop_tensor("blk.0.ffn_norm.weight"), "blk.0.ffn_norm.weight", "no such"),
    "missing attention": fmt(lambda f: f.drop_tensor("blk.1.attn_q.weight"), "blk.1.attn_q.weight", "no such"),
    "missing embedding": fmt(lambda f: f.drop_tensor("token_embd.weight"), "token_embd.weight", "no such"),
    "missing fc1": fmt(lambda f: f.drop_tensor(FC1), FC1, "no such"),
    "missing fc2": fmt(lambda f: f.drop_tensor(FC2), FC2, "no such"),
    "surplus bias": surplus("blk.0.attn_q.bias", (64,)),
    "surplus layer": surplus("blk.2.ffn_norm.weight", (64,)),
    "surplus ffn_down": surplus("blk.0.ffn_down.weight", (64, 160)),
    "surplus junk": surplus("junk", (4,)),
    "gate transposed": fmt(reshape(GATE, [160, 64]), GATE, "{160, 64}"),
    "gate one row short": fmt(grow(GATE, [64, 159]), GATE, "{64, 159}"),
    "gate one row more": fmt(grow(GATE, [64, 161]), GATE, "{64, 161}"),
    "gate in 3-D": fmt(grow(GATE, [64, 160, 2]), GATE, "{64, 160, 2}"),
    "fc1 rank off": fmt(grow(FC1, [64, 47]), FC1, "{64, 47}"),
    "fc2 rank off": fmt(grow(FC2, [47, 160]), FC2, "{47, 160}"),
    "scale too long": fmt(grow(SCALE, [65]), SCALE, "{65}"),
    "norm too short": fmt(grow("output_norm.weight", [63]), "output_norm.weight", "{63}"),
    "gate of i32": Refusal(retype(GATE, ggufedit.TYPE_I32), "UnsupportedModelError", GATE, "i32"),
    "norm of f16": fmt(retype("output_norm.weight", ggufedit.TYPE_F16), "output_norm.weight", "f16"),
    "attention of i32": fmt(retype("blk.0.attn_q.weight", ggufedit.TYPE_I32), "blk.0.attn_q.weight", "i32"),
    "perm of f32": fmt(retype(PERM, ggufedit.TYPE_F32), PERM, "f32"),
    "freq of i32": fmt(retype(FREQ, ggufedit.TYPE_I32), FREQ, "i32"),
    "scale of f16": fmt(retype(SCALE, ggufedit.TYPE_F16), SCALE, "f16"),
    "type 4, removed from ggml": fmt(retype(GATE, 4), GATE, "4"),
    "type 1000": fmt(retype(GATE, 1000), GATE, "1000"),
    "type 2^32 - 1": fmt(retype(GATE, 2**32 - 1), GATE, str(2**32 - 1)),
    "q4_0 rows that are no multiple of 32": fmt(
        lambda f: (retype(FC2, ggufedit.TYPE_Q4_0)(f), reshape(FC2, [48, 160])(f)), FC2, "48"
    ),
}  # fmt: skip

VALUES = {
    "perm repeats": fmt(rewrite(PERM, lambda a: a.__setitem__(3, a[4])), PERM, "element 4"),
    "perm negative": fmt(rewrite(PERM, put(0, -1)), PERM, "-1"),
    "perm too large": fmt(rewrite(PERM, put(159, 160)), PERM, "160"),
    "perm of zeros": fmt(rewrite(PERM, lambda a: a.fill(0)), PERM, "element 1"),
    "frequency above 1": fmt(rewrite(FREQ, put(0, 1.5)), FREQ, "1.5"),
    "frequency below 0": fmt(rewrite(FREQ, put(159, -0.25)), FREQ, "-0.25"),
    "frequency NaN": fmt(rewrite(FREQ, put(80, float("nan"))), FREQ, "nan"),
    "frequency infinite": fmt(rewrite(FREQ, put(80, float("inf"))), FREQ, "inf"),
    "frequencies rise": fmt(rewrite(FREQ, lambda a: a.sort()), FREQ, "after"),
    "in_scale infinite": fmt(rewrite(SCALE, put(7, float("inf"))), SCALE, "inf"),
    "in_scale NaN": fmt(rewrite(SCALE, put(7, float("nan"))), SCALE, "nan"),
}


def raw_value(name: str, data: bytes) -> Callable[[GgufEdit], None]:
    return lambda f: setattr(f.key(name), "value", data)


def last_tensor_beyond(file: GgufEdit) -> None:
    file.tensors[-1].offset = 1 << 40


CONTAINER = {
    "tensor count 2^63": fmt(lambda f: setattr(f, "n_tensors", 2**63), "tensor", str(2**63)),
    "tensor count one more": fmt(lambda f: setattr(f, "n_tensors", len(f.tensors) + 1), ""),
    "key count 2^64 - 1": fmt(lambda f: setattr(f, "n_keys", 2**64 - 1), "key", str(2**64 - 1)),
    "key count one less": fmt(lambda f: setattr(f, "n_keys", len(f.keys) - 1), ""),
    "key twice": fmt(lambda f: f.keys.append(Key("turbosparse.version", U32, 1)), "turbosparse.version", "twice"),
    "tensor twice": fmt(lambda f: f.tensors.append(f.tensor(GATE)), GATE, "twice"),
    "string longer than the file": fmt(raw_value("general.name", struct.pack("<Q", 2**40)), "general.name", str(2**40)),
    "string of 2^64 - 1": fmt(raw_value("general.name", struct.pack("<Q", 2**64 - 1)), "general.name", str(2**64 - 1)),
    "array longer than the file": fmt(
        raw_value("turbosparse.predictor.rank", struct.pack("<IQ", I32, 1 << 40)), "predictor.rank", str(1 << 40)
    ),
    "array of 2^62 numbers": fmt(
        raw_value("turbosparse.predictor.rank", struct.pack("<IQ", I32, 1 << 62)), "predictor.rank", str(1 << 62)
    ),
    "array of strings that do not fit": fmt(
        raw_value("tokenizer.ggml.tokens", struct.pack("<IQ", STR, 1 << 50)), "tokenizer.ggml.tokens", str(1 << 50)
    ),
    "array of arrays": fmt(
        raw_value("turbosparse.predictor.rank", struct.pack("<IQIQ", ARR, 1, I32, 0)), "predictor.rank", "array"
    ),
    "value type 13": fmt(new_kind("general.name", 13), "general.name", "13"),
    "array type 99": fmt(raw_value("turbosparse.predictor.rank", struct.pack("<IQ", 99, 1)), "predictor.rank", "99"),
    "nameless key": fmt(lambda f: f.keys.insert(0, Key("", U32, 1)), "key name", "0"),
    "nameless tensor": fmt(lambda f: f.tensors.append(Tensor("", [4], 0, bytes(16))), "tensor name", "0"),
    "tensor name of 64 bytes": fmt(surplus("x" * 64, (4,)).edit, "tensor name", "64"),
    "tensor name of 70 kB": fmt(surplus("x" * 70000, (4,)).edit, "tensor name", "70000"),
    "no dimensions": fmt(reshape(GATE, []), GATE, "0"),
    "five dimensions": fmt(reshape(GATE, [64, 160, 1, 1, 1]), GATE, "5"),
    "dimension 0": fmt(reshape(GATE, [64, 0]), GATE, "0"),
    "dimension 2^63": fmt(reshape(GATE, [64, 2**63]), GATE, str(2**63)),
    "product overflows to 0": fmt(reshape(GATE, [2**32, 2**32]), GATE, str(2**32)),
    "product overflows to the right size": fmt(reshape(GATE, [2**62 + 64, 4, 40]), GATE),
    "offset beyond the file": fmt(last_tensor_beyond, PERM, str(1 << 40)),
    "offset 2^64 - 4096": fmt(lambda f: setattr(f.tensors[-1], "offset", 2**64 - 4096), PERM, str(2**64 - 4096)),
    "offset not aligned": fmt(lambda f: setattr(f.tensors[-1], "offset", 100), PERM, "100"),
    "two tensors at one place": fmt(lambda f: setattr(f.tensors[-1], "offset", 0), PERM, "0"),
    "size beyond the file": fmt(lambda f: setattr(f.tensors[-1], "data", b""), PERM),
}  # fmt: skip

ALL = {
    "unknown": UNKNOWN,
    "keys": KEYS,
    "tensors": TENSORS,
    "feature": FEATURE,
    "values": VALUES,
    "container": CONTAINER,
}


@pytest.fixture(scope="module")
def sound(mistral_hot: Case) -> GgufEdit:
    return GgufEdit(mistral_hot.gguf)


def refuse(path: Path, kind: str) -> Any:
    """Open `path`, which must raise the class `kind` (not merely a subclass of Exception); returns the error."""
    import turbosparse

    with pytest.raises(turbosparse.TurboSparseError) as caught:
        turbosparse.Model(path)
    assert type(caught.value).__name__ == kind, caught.value
    assert path.name in str(caught.value), "the message names the file"
    return caught.value


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, table in ALL.items() for n in table])
def test_broken_file_is_refused(sound: GgufEdit, mistral_hot: Case, tmp_path: Path, group: str, name: str) -> None:
    refusal = ALL[group][name]
    file = sound.copy()
    refusal.edit(file)
    error = refuse(file.write(tmp_path / "broken.gguf"), refusal.kind)
    assert refusal.where in error.where
    assert error.where
    assert error.expected
    assert error.found
    assert refusal.found in f"{error.found} {error.where} {error}"
    with mistral_hot.open(n_ctx=16) as model:
        assert model.info.n_layer == 2


def test_unchanged_copy_loads(sound: GgufEdit, mistral_hot: Case, tmp_path: Path) -> None:
    """The editor itself breaks nothing."""
    path = sound.copy().write(tmp_path / "same.gguf")
    assert path.read_bytes() == mistral_hot.gguf.read_bytes()


def test_unknown_optional_keys_are_only_warned_about(sound: GgufEdit, mistral_hot: Case, tmp_path: Path) -> None:
    """Required features are refused, other unknown keys are not; nor is a file without the optional tensors."""
    file = sound.copy()
    file.set("turbosparse.some.future.key", 7, U32)
    file.set("vendor.note", "hello", STR)
    file.set("turbosparse.required_features", [], ARR, STR)
    for il in (0, 1):
        file.drop_tensor(f"blk.{il}.ffn_neuron_freq")
        file.drop_tensor(f"blk.{il}.ffn_neuron_perm")
    tokens = mistral_hot.tokens(8)
    with mistral_hot.open(n_ctx=16) as model:
        expected = model.logits(tokens)
    with Case(mistral_hot.hf, file.write(tmp_path / "future.gguf")).open(n_ctx=16) as model:
        np.testing.assert_array_equal(model.logits(tokens), expected)


# --- files that are not even containers ---------------------------------------


def cuts(sound: GgufEdit, size: int) -> list[int]:
    header = sound.header_size
    places = [1, 3, 4, 8, 16, 23, 24, 30, 100, header // 2, header - 1, header, header + 1, size // 2]
    return [*places, size - 8192, size - 4096]


def test_truncated_anywhere(sound: GgufEdit, mistral_hot: Case, tmp_path: Path) -> None:
    data = mistral_hot.gguf.read_bytes()
    for cut in cuts(sound, len(data)):
        path = tmp_path / f"cut{cut}.gguf"
        path.write_bytes(data[:cut])
        error = refuse(path, "ModelFormatError")
        assert all((error.where, error.expected, error.found)), cut
    with mistral_hot.open(n_ctx=16):
        pass


def test_every_prefix_of_the_header_is_refused(sound: GgufEdit, mistral_hot: Case, tmp_path: Path) -> None:
    data = mistral_hot.gguf.read_bytes()
    path = tmp_path / "prefix.gguf"
    for cut in range(1, sound.header_size, 97):
        path.write_bytes(data[:cut])
        refuse(path, "ModelFormatError")


@pytest.mark.parametrize("size", [0, 1, 4, 24, 100, 4096, 100_000])
def test_random_and_empty_files(tmp_path: Path, size: int) -> None:
    path = tmp_path / "random.gguf"
    path.write_bytes(np.random.default_rng(size).bytes(size))
    error = refuse(path, "ModelFormatError")
    assert error.expected
    assert error.found


def test_random_bytes_after_a_sound_start(sound: GgufEdit, mistral_hot: Case, tmp_path: Path) -> None:
    data = mistral_hot.gguf.read_bytes()
    for keep in (4, 8, 24, 64, 500, sound.header_size // 2):
        path = tmp_path / f"half{keep}.gguf"
        path.write_bytes(data[:keep] + np.random.default_rng(keep).bytes(len(data) - keep))
        refuse(path, "ModelFormatError")


def test_directory_missing_file_and_device(tmp_path: Path) -> None:
    directory = tmp_path / "dir.gguf"
    directory.mkdir()
    missing = tmp_path / "absent.gguf"
    for path in (directory, missing, Path("/dev/null")):
        refuse(path, "FileError")


# --- scales, when asked ---------------------------------------------------------


def check_load(path: Path, check: bool) -> tuple[int, str, str]:
    """(status, where, found) of ggml_sparse_model_load."""
    from turbosparse._native import ffi, lib

    error = ffi.new("struct ggml_sparse_error *")
    handle = ffi.new("struct ggml_sparse_model **")
    status = lib.ggml_sparse_model_load(str(path).encode(), check, handle, error)
    if status == 0:
        lib.ggml_sparse_model_free(handle[0])
    else:
        assert handle[0] == ffi.NULL
    return status, ffi.string(error.where).decode(), ffi.string(error.found).decode()


@pytest.mark.parametrize("tensor", [GATE, DOWN, "blk.0.attn_q.weight", "token_embd.weight", FC2_T])
@pytest.mark.parametrize("value", [b"\x00\x7e", b"\x00\x7c", b"\x00\xfc"], ids=["nan", "inf", "-inf"])
def test_bad_scales_when_asked_to_check(cases: Any, tmp_path: Path, tensor: str, value: bytes) -> None:
    """An F16 scale of the last Q8_0 block becomes NaN or infinite: found by check_tensors, and only by it."""
    case = cases("mistral", "q8_0", hot=True, convert={"predictor_type": "q8_0"}, ranks=(32, 64))
    assert check_load(case.gguf, True)[0] == 0
    file = GgufEdit(case.gguf)
    t = file.tensor(tensor)
    assert t.type == ggufedit.TYPE_Q8_0
    end = int(np.prod(t.shape)) // 32 * 34
    t.data = t.data[: end - 34] + value + t.data[end - 32 :]
    path = file.write(tmp_path / "bad.gguf")
    assert check_load(path, False)[0] == 0
    status, where, found = check_load(path, True)
    assert status == 3
    assert where == tensor
    assert found


def test_bad_f32_value_when_asked_to_check(sound: GgufEdit, tmp_path: Path) -> None:
    file = sound.copy()
    rewrite(GATE, put(1234, float("nan")))(file)
    status, where, _ = check_load(file.write(tmp_path / "nan.gguf"), True)
    assert status == 3
    assert where == GATE
