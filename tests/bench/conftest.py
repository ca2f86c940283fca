"""A tiny synthetic model and its dense twin, written once."""

from __future__ import annotations

from pathlib import Path

import pytest
from turbosparse.convert.synth_gguf import write_ggufs
from turbosparse.convert.synth_model import SynthModel
from turbosparse.convert.synth_shapes import shape


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m.gguf; m.dense.gguf lies beside it."""
    path = tmp_path_factory.mktemp("bench") / "m.gguf"
    made = shape("custom", n_layer=2, n_embd=256, n_ff=512, n_head=4, n_head_kv=2, n_vocab=512, ranks=(64, 96))
    write_ggufs(SynthModel(made, 5), path, outtype="q4_0", dense=path.with_name("m.dense.gguf"))
    return path
