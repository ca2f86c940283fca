"""Pickles, only with --allow-pickle and only plain tensors: the same file as from safetensors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch  # `make test-torch` runs this module, `make test` leaves it out
from turbosparse.convert import convert
from turbosparse.convert.errors import CheckpointError


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bin_checkpoint(
    mistral_dir: Path, mistral_bf16_dir: Path, edited: Any, weights: Any, tmp_path: Path, dtype: str
) -> None:
    src = edited(mistral_dir, files={"model.safetensors": None})
    state = {k: torch.from_numpy(v).to(getattr(torch, dtype)) for k, v in weights(mistral_dir).items()}
    torch.save(state, src / "pytorch_model.bin")
    a = convert(src, tmp_path / "a.gguf", outtype="f32", allow_pickle=True)
    twin = mistral_dir if dtype == "float32" else mistral_bf16_dir
    b = convert(twin, tmp_path / "b.gguf", outtype="f32")
    assert a.read_bytes()[-100_000:] == b.read_bytes()[-100_000:]


def test_code_in_a_pickle_does_not_run(mistral_dir: Path, edited: Any, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "pwned",))

    src = edited(mistral_dir, files={"model.safetensors": None})
    (src / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Bomb()}))
    with pytest.raises(CheckpointError, match="not a plain torch state dict"):
        convert(src, tmp_path / "m.gguf", allow_pickle=True)
    assert not (tmp_path / "pwned").exists()
