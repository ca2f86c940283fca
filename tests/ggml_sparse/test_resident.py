"""Weights copied into memory of their own: the same bytes at the same addresses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

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
    with pytest.raises(FileError, match=r"m\.gguf"):
        module._settle(handle, "resident")


def test_an_unknown_word_names_the_choices(mistral) -> None:
    with pytest.raises(ArgumentError, match="auto, mapped, resident"):
        Model(mistral.gguf, memory="swap")
