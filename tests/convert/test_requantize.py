"""GGUF -> GGUF gives the bytes that converting from the checkpoint gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.constants import GGUFValueType
from turbosparse.convert import convert
from turbosparse.convert.errors import GGUFError, UsageError
from turbosparse.convert.ggufile import GGUFFile, Value
from turbosparse.convert.quantize import TYPES
from turbosparse.convert.requantize import requantize
from turbosparse.convert.verify import verify

from tests.ggufedit import ARR, STR, U32, GgufEdit


def tensors(path: Path) -> dict[str, tuple[int, bytes]]:
    return {t.name: (int(t.tensor_type), np.asarray(t.data).tobytes()) for t in GGUFReader(path).tensors}


@pytest.mark.parametrize("outtype", [t for t in TYPES if t not in ("f32", "f16", "bf16")])
def test_same_bytes_as_converting(
    mixtral_dir: Path, tmp_path: Path, stats_file: Callable[..., Path], outtype: str
) -> None:
    stats = stats_file(2, 4, 160)
    full = convert(mixtral_dir, tmp_path / "f32.gguf", outtype="f32", stats=stats)
    direct = convert(mixtral_dir, tmp_path / "direct.gguf", outtype=outtype, stats=stats)
    again = requantize(full, tmp_path / "again.gguf", outtype).path
    assert tensors(again) == tensors(direct)
    verify(again, mixtral_dir).raise_on_failure()
    a, b = GgufEdit(again), GgufEdit(direct)
    assert {k.name: k.value for k in a.keys if k.name != "general.converter"} == {
        k.name: k.value for k in b.keys if k.name != "general.converter"
    }


def test_bf16_file_of_a_bf16_checkpoint_is_as_good_as_the_source(mistral_bf16_dir: Path, tmp_path: Path) -> None:
    full = convert(mistral_bf16_dir, tmp_path / "bf16.gguf", outtype="bf16")
    again = requantize(full, tmp_path / "again.gguf", "q4_0").path
    assert tensors(again) == tensors(convert(mistral_bf16_dir, tmp_path / "d.gguf", outtype="q4_0"))


def test_quantised_rows_only_on_request(mistral_dir: Path, tmp_path: Path) -> None:
    q8 = convert(mistral_dir, tmp_path / "q8.gguf", outtype="q8_0")
    with pytest.raises(UsageError, match="--allow-requantize"):
        requantize(q8, tmp_path / "q4.gguf", "q4_0")
    assert not (tmp_path / "q4.gguf").exists()
    requantize(q8, tmp_path / "q4.gguf", "q4_0", allow_requantize=True)
    same = requantize(q8, tmp_path / "same.gguf", "q8_0").path  # nothing is rounded again
    assert tensors(same) == tensors(q8)


def test_other_keys_survive_byte_for_byte(mistral_dir: Path, tmp_path: Path) -> None:
    edit = GgufEdit(convert(mistral_dir, tmp_path / "m.gguf", outtype="f32"))
    edit.set("x.array", [1, 2**32 - 1], ARR, U32)
    edit.set("x.bytes", b"\x02\0\0\0\0\0\0\0\xff\xfe", STR)
    src = edit.write(tmp_path / "extra.gguf")
    out = tmp_path / "out.gguf"
    requantize(src, out, "q4_0")
    with GGUFFile(out) as file:
        assert file.values["x.array"] == Value(GGUFValueType.ARRAY, [1, 2**32 - 1], GGUFValueType.UINT32)
    assert b"x.bytes\x08\0\0\0\x02\0\0\0\0\0\0\0\xff\xfe" in out.read_bytes()


def test_input_is_never_the_output(mistral_dir: Path, tmp_path: Path) -> None:
    src = convert(mistral_dir, tmp_path / "m.gguf")
    with pytest.raises(UsageError, match="the input itself"):
        requantize(src, src, "q4_0", force=True)


def test_broken_input(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(GGUFError):
        requantize(tmp_path / "x.gguf", tmp_path / "y.gguf", "q4_0")
