"""Where the source comes from, and what is imported on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gguf import GGUFReader
from turbosparse.convert import convert
from turbosparse.convert.errors import CheckpointError, MissingPackageError, UsageError
from turbosparse.convert.job import Options, locate, open_job


def test_neither_torch_nor_transformers_nor_the_engine_is_imported(mistral_bf16_dir: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from turbosparse.convert import convert
convert({str(mistral_bf16_dir)!r}, {str(tmp_path / "m.gguf")!r}, outtype="q4_k")
bad = {{"torch", "transformers", "llama_cpp", "safetensors.torch", "turbosparse._native", "turbosparse.model"}}
sys.exit(", ".join(bad & set(sys.modules)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m.gguf").exists()


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, turbosparse.convert; sys.exit('numpy' in sys.modules or 'gguf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_hub_id_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r"org/model.*pip install huggingface_hub"):
        locate("org/model")


def test_hub_id_with_huggingface_hub(monkeypatch: pytest.MonkeyPatch, mistral_dir: Path) -> None:
    asked: list[Any] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(mistral_dir)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    with open_job("org/model", Options("f32")) as job:
        assert job.hp.n_layer == 2
    assert asked[0][0] == "org/model"
    assert "*.safetensors" in asked[0][1]
    assert not any("bin" in pattern or pattern[-2:] == "pt" for pattern in asked[0][1])  # no pickles by default


def test_a_missing_directory_is_not_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for src in (tmp_path / "none", "./a/b", "none"):
        with pytest.raises(CheckpointError, match="not a directory"):
            open_job(src, Options())
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        open_job(tmp_path / "file", Options())


def test_shards_are_closed(mistral_dir: Path) -> None:
    with open_job(mistral_dir, Options()) as job:
        assert job.checkpoint.fds
        held = list(job.checkpoint.fds)
    assert not job.checkpoint.fds
    import os

    for fd in held:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_metadata(mistral_dir: Path, edited: Any, tmp_path: Path) -> None:
    card = b"---\nlicense: apache-2.0\nlanguage:\n- en\n---\n# Model\n"
    src = edited(mistral_dir, config={"sliding_window": 64}, files={"README.md": card})
    fields = GGUFReader(convert(src, tmp_path / "m.gguf", outtype="q4_0")).fields
    assert fields["general.license"].contents() == "apache-2.0"
    assert fields["general.languages"].contents() == ["en"]
    assert fields["general.file_type"].contents() == 2
    assert fields["general.quantization_version"].contents() == 2
    assert fields["turbosparse.attention.sliding_window"].contents() == 64
    assert not [name for name in fields if name.startswith("general.sampling")]  # theirs is temperature 0.0
