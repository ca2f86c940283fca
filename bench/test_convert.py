"""Writing a file: a checkpoint through `convert`, and a file once more through `quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from turbosparse.convert import convert
from turbosparse.convert.requantize import requantize
from turbosparse.convert.synth import write_checkpoint
from turbosparse.convert.synth_model import SynthModel
from turbosparse.convert.synth_shapes import shape

from bench.conftest import RANKS, WIDE


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(SynthModel(shape("custom", ranks=RANKS, **WIDE), 3), folder / "hf")
    return folder / "hf"


@pytest.mark.parametrize("outtype", ["q4_0", "q8_0", "q4_k", "f16"])
@pytest.mark.benchmark(group="convert")
def test_convert(benchmark: Any, checkpoint: Path, tmp_path: Path, outtype: str) -> None:
    out = tmp_path / "m.gguf"
    benchmark.pedantic(lambda: convert(checkpoint, out, outtype=outtype, force=True), rounds=2, iterations=1)
    store(benchmark, checkpoint, out)


@pytest.mark.benchmark(group="convert")
def test_quantize(benchmark: Any, checkpoint: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "f16.gguf", tmp_path / "q4_0.gguf"
    convert(checkpoint, source, outtype="f16")
    benchmark.pedantic(lambda: requantize(source, out, "q4_0", force=True), rounds=2, iterations=1)
    store(benchmark, source, out)


def store(benchmark: Any, source: Path, out: Path) -> None:
    files = [source] if source.is_file() else sorted(source.glob("*.safetensors"))
    read = sum(file.stat().st_size for file in files)
    benchmark.extra_info.update(mb_s=read / benchmark.stats.stats.median / 1e6, bytes_out=out.stat().st_size)
