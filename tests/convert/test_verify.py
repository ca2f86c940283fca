"""verify passes what convert wrote, in every type and order, and catches every kind of difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from turbosparse.convert import convert
from turbosparse.convert.errors import CheckpointError, ConvertError, GGUFError, VerifyError
from turbosparse.convert.quantize import TYPES
from turbosparse.convert.verify import NMSE, verify

from tests import tiny
from tests.ggufedit import GgufEdit

FLOATS = ("f32", "f16", "bf16")


@pytest.mark.parametrize("hot", [False, True])
@pytest.mark.parametrize("outtype", list(TYPES))
def test_passes(
    mixtral_dir: Path, wide_dir: Path, tmp_path: Path, stats_file: Callable[..., Path], outtype: str, hot: bool
) -> None:
    for src, shape in ((mixtral_dir, (2, 4, 160)), (wide_dir, (1, 0, 96))):
        stats = stats_file(*shape, seed=shape[1]) if hot else None
        out = convert(src, tmp_path / f"{src.name}.gguf", outtype=outtype, stats=stats)
        report = verify(out, src)
        report.raise_on_failure()
        assert report.keys == []
        assert len(report.tensors) == (27 if src is mixtral_dir else 15)
        for t in report.tensors:
            assert t.bound == NMSE.get(t.qtype, 0)
            assert (t.nmse == 0) == (t.qtype.name.lower() in FLOATS)


def changed(src: Path, out: Path, change: Callable[[GgufEdit], None]) -> Path:
    edit = GgufEdit(src)
    change(edit)
    edit.write(out)
    return out


def swap_rows(edit: GgufEdit, name: str, row: int) -> None:
    t = edit.tensor(name)
    data = bytearray(t.data)
    data[:row], data[row : 2 * row] = data[row : 2 * row], data[:row]
    t.data = bytes(data)


ROW = 64 // 32 * 18  # bytes of a row of 64 in q4_0


def zero_last(edit: GgufEdit) -> None:
    t = edit.tensor("blk.1.ffn_up.weight")
    t.data = t.data[: 159 * ROW] + bytes(len(t.data) - 159 * ROW)


def swap_tensors(edit: GgufEdit) -> None:
    gate, up = edit.tensor("blk.0.ffn_gate.weight"), edit.tensor("blk.0.ffn_up.weight")
    gate.data, up.data = up.data, gate.data


def one_bit_of_a_norm(edit: GgufEdit) -> None:
    t = edit.tensor("blk.0.attn_norm.weight")
    t.data = bytes([t.data[0] ^ 1]) + t.data[1:]


def nan_scale(edit: GgufEdit) -> None:
    t = edit.tensor("blk.0.attn_v.weight")
    t.data = np.float16(np.nan).tobytes() + t.data[2:]


def shift_perm(edit: GgufEdit) -> None:
    t = edit.tensor("blk.0.ffn_neuron_perm")
    perm = np.frombuffer(t.data[: 160 * 4], np.int32)
    t.data = np.roll(perm, 1).tobytes()


DAMAGE = {
    "two rows swapped": (lambda e: swap_rows(e, "blk.0.ffn_down_t.weight", ROW), "blk.0.ffn_down_t"),
    "last row zero": (zero_last, "blk.1.ffn_up"),
    "gate and up swapped": (swap_tensors, "blk.0.ffn_"),
    "one bit of a norm": (one_bit_of_a_norm, "blk.0.attn_norm"),
    "a NaN scale": (nan_scale, "blk.0.attn_v"),
    "permutation off by one": (shift_perm, "blk.0.ffn_"),
    "another eos": (lambda e: e.set("tokenizer.ggml.eos_token_id", 2), "eos_token_id"),
    "another rope base": (lambda e: e.set("turbosparse.rope.freq_base", 1e6), "freq_base"),
    "one token renamed": (lambda e: e.key("tokenizer.ggml.tokens").value.__setitem__(300, "x"), "tokens"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_catches(mistral_dir: Path, tmp_path: Path, stats_file: Callable[..., Path], name: str) -> None:
    out = convert(mistral_dir, tmp_path / "m.gguf", outtype="q4_0", stats=stats_file(2, 0, 160))
    change, where = DAMAGE[name]
    bad = changed(out, tmp_path / "bad.gguf", change)
    with pytest.raises(VerifyError, match=where) as caught:
        verify(bad, mistral_dir).raise_on_failure()
    assert caught.value.exit_code == 6


def test_another_source(mistral_dir: Path, mixtral_dir: Path, wide_dir: Path, tmp_path: Path) -> None:
    out = convert(mistral_dir, tmp_path / "m.gguf")
    other = tiny.write_mistral(tmp_path / "other", seed=9)
    with pytest.raises(VerifyError, match="differ from the source"):
        verify(out, other).raise_on_failure()
    for src in (mixtral_dir, wide_dir):
        with pytest.raises(VerifyError, match="not of this source"):
            verify(out, src)


def test_broken_inputs_are_input_errors(mistral_dir: Path, tmp_path: Path) -> None:
    out = convert(mistral_dir, tmp_path / "m.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(out.read_bytes()[:-5000])
    with pytest.raises(GGUFError, match="truncated"):
        verify(cut, mistral_dir)
    with pytest.raises(CheckpointError):
        verify(out, tmp_path)


def test_predictors_from_a_directory_and_left_out(mistral_dir: Path, tmp_path: Path) -> None:
    base = tiny.write_mistral(tmp_path / "b", with_predictor=False)
    predictors = tiny.write_predictor_dir(tmp_path / "p")
    out = convert(base, tmp_path / "a.gguf", predictors=predictors)
    verify(out, base, predictors=predictors).raise_on_failure()
    with pytest.raises(ConvertError, match="not of this source"):
        verify(out, base)
    verify(convert(mistral_dir, tmp_path / "n.gguf", no_predictors=True), mistral_dir).raise_on_failure()


def test_bf16_source(mistral_bf16_dir: Path, tmp_path: Path) -> None:
    for outtype in ("bf16", "f32", "f16", "q8_0"):
        out = convert(mistral_bf16_dir, tmp_path / f"{outtype}.gguf", outtype=outtype)
        verify(out, mistral_bf16_dir).raise_on_failure()
