"""Dequantising a GGUF file for llama.cpp changes no weight; tests/torch/test_engine_checks.py compares the models."""

from __future__ import annotations

import gguf
import numpy as np
from turbosparse.train.teacher_check import write_f32

from tests.train.fakes import bpe_model


def test_a_dequantised_file_has_the_same_weights_and_keys(tmp_path):
    source = bpe_model(tmp_path / "tiny.gguf")
    write_f32(source, tmp_path / "f32.gguf")
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(tmp_path / "f32.gguf")
    assert [t.name for t in before.tensors] == [t.name for t in after.tensors]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert new.tensor_type == gguf.GGMLQuantizationType.F32
        assert np.array_equal(new.data, gguf.dequantize(old.data, old.tensor_type))
        assert list(old.shape) == list(new.shape)
    skipped = ("GGUF.", "general.alignment")
    keys = [{k: f.contents() for k, f in r.fields.items() if not k.startswith(skipped)} for r in (before, after)]
    assert keys[0] == keys[1]
