"""Changing a file's default mode changes nothing else."""

from __future__ import annotations

import gguf
import numpy as np
from turbosparse.convert import convert
from turbosparse.convert.keys import DEFAULT_MODE
from turbosparse.train.set_mode import set_mode

from tests import tiny


def test_only_the_mode_changes(tmp_path):
    source = tiny.write_mistral(tmp_path / "hf")
    convert(source, tmp_path / "a.gguf", outtype="q8_0")
    convert(source, tmp_path / "b.gguf", outtype="q8_0")
    set_mode(tmp_path / "b.gguf", "exact")
    a, b = (gguf.GGUFReader(tmp_path / f"{name}.gguf") for name in "ab")
    keys = [{k: f.contents() for k, f in r.fields.items() if not k.startswith("GGUF")} for r in (a, b)]
    assert [k for k in keys[0] if keys[0][k] != keys[1].get(k)] == [DEFAULT_MODE]
    assert keys[1].keys() == keys[0].keys()
    assert keys[1][DEFAULT_MODE] == "exact"
    assert a.alignment == b.alignment
    assert [t.name for t in a.tensors] == [t.name for t in b.tensors]
    assert all(np.array_equal(x.data, y.data) for x, y in zip(a.tensors, b.tensors, strict=True))
    assert (tmp_path / "a.gguf").stat().st_size - (tmp_path / "b.gguf").stat().st_size in (0, a.alignment)
