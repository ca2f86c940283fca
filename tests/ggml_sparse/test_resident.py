"""Weights copied into memory of their own: the same results, though rows may be packed there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turbosparse import Model
from turbosparse.errors import ArgumentError, FileError

TOKENS = [1, 5, 9, 3]


def test_logits_are_the_same_bits(mistral) -> None:
    found = {}
    for memory in ("mapped", "resident"):
        with Model(mistral.gguf, memory=memory, n_threads=1, n_ctx=64) as model:
            assert model.resident == (memory == "resident")
            found[memory] = model.logits(TOKENS)
    np.testing.assert_array_equal(found["mapped"], found["resident"])


@pytest.mark.parametrize(
    ("family", "outtype"), [("mistral", "q4_0"), ("mistral", "q4_k"), ("mixtral", "q8_0"), ("reglu", "q6_k")]
)
def test_packed_rows_change_no_bit(cases: Any, family: str, outtype: str) -> None:
    """Rows of 512, which are packed: one column and several, every mode, several experts."""
    shape = {"n_embd": 512, "n_ff": 512, "n_head": 4, "n_layer": 1, "ranks": (512,)}
    case = cases(family, outtype, **shape)
    modes = ["dense", "exact", "reference"] + ["predicted"] * (family != "reglu")
    found: dict[tuple[str, str], Any] = {}
    for memory, made_for in (("mapped", None), ("resident", modes[-1]), ("resident", "exact")):
        with case.open(memory=memory, mode=made_for, n_threads=1, n_ctx=64) as model:
            layer, moved = model.layers[0], memory == "resident"
            assert layer.layout_up == ("packed" if moved else "rows")
            assert layer.layout_down == ("sums" if moved and outtype == "q4_0" else "rows")
            assert layer.paired == (moved and made_for == "predicted")
            for mode in modes:
                many = model.logits([1, 5, 9, 3, 8], mode=mode)
                one = [model.logits([token], mode=mode) for token in (4, 7)]
                found[made_for, mode] = np.concatenate([many, *one])
    for mode in modes:
        for made_for in (modes[-1], "exact"):
            np.testing.assert_array_equal(found[None, mode], found[made_for, mode])
        assert np.ptp(found[None, mode]) > 0


def test_a_small_file_is_left_where_it_is(mistral) -> None:
    with Model(mistral.gguf, n_threads=1, n_ctx=64) as model:
        assert not model.resident


def test_a_resident_model_needs_no_file(mistral, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    shutil.copy(mistral.gguf, path)
    with Model(path, memory="resident", n_threads=1, n_ctx=64) as model:
        before = model.logits(TOKENS)
        os.truncate(path, 0)  # a mapping would be read to death by SIGBUS
        np.testing.assert_array_equal(model.logits(TOKENS), before)


def test_what_cannot_be_read_is_an_error(mistral, tmp_path: Path) -> None:
    import turbosparse.model as module  # the loader in two steps: the file shrinks in between

    path = tmp_path / "m.gguf"
    shutil.copy(mistral.gguf, path)
    handle = module._load(path, check_tensors=False)
    os.truncate(path, 4096)
    with pytest.raises(FileError, match=r"m\.gguf.*Input/output error"):
        module._settle(handle, "resident", 0)


def test_an_unknown_word_names_the_choices(mistral) -> None:
    with pytest.raises(ArgumentError, match="auto, mapped, resident"):
        Model(mistral.gguf, memory="swap")
