"""Activation counts: the stats file, and that hot-first files give the checkpoint's order back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from turbosparse import ArgumentError, FileError, Model
from turbosparse.profile import _windows, profile_file, profile_text

from tests.conftest import Case

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 8


def test_the_stats_file(model: Model, tmp_path: Path) -> None:
    profile = profile_text(model, TEXT, corpus="foxes")
    profile.save(tmp_path / "stats.safetensors")
    with safe_open(tmp_path / "stats.safetensors", "numpy") as file:
        assert file.metadata() == {
            "corpus": "foxes",
            "sha256": hashlib.sha256(TEXT.encode()).hexdigest(),
            "tokens": str(profile.tokens),
        }
        assert sorted(file.keys()) == [
            f"layers.{il}.{name}" for il in (0, 1) for name in ("branches", "columns", "counts")
        ]
        for il, layer in enumerate(profile.layers):
            counts = file.get_tensor(f"layers.{il}.counts")
            assert (counts.dtype, counts.shape) == (np.int64, (1, 160))
            np.testing.assert_array_equal(counts, layer.counts)
            np.testing.assert_array_equal(file.get_tensor(f"layers.{il}.columns"), layer.columns)


def test_the_converter_reads_it(mistral: Case, tmp_path: Path) -> None:
    from turbosparse.convert import convert

    text, stats, out = tmp_path / "t.txt", tmp_path / "s.safetensors", tmp_path / "hot.gguf"
    text.write_text(TEXT, encoding="utf-8")
    before = profile_file(mistral.gguf, text, stats, mode="exact")
    convert(mistral.hf, out, outtype="f32", stats=stats)
    with Model(out, n_ctx=64, mode="exact") as model:
        assert model.info.hot_first
        assert model.meta("turbosparse.profile.corpus") == "t.txt"
        assert model.meta("turbosparse.profile.tokens") == str(before.tokens)
        stored = model.profile([3, 4, 5])
        assert stored[0].counts.shape == (1, 160)
    counts = before.layers[0].counts[0]
    assert counts.max() > counts.min()


@pytest.mark.parametrize("families", [("mistral", "mistral_hot")])
def test_a_hot_first_file_gives_the_same_counts(request: pytest.FixtureRequest, families: tuple[str, str]) -> None:
    """The order of neurons changes no activation but by rounding of their sums: counts agree almost everywhere."""
    found: list[Any] = []
    for family in families:
        case: Case = request.getfixturevalue(family)
        with case.open(n_ctx=256, mode="exact") as model:
            found.append((profile_text(model, TEXT).layers, model.info.hot_first, model.profile(model.tokenize(TEXT))))
    (plain, plain_hot, _), (hot, hot_hot, stored) = found
    assert (plain_hot, hot_hot) == (False, True)
    for one, two, raw in zip(plain, hot, stored, strict=True):
        assert one.columns.tolist() == two.columns.tolist()
        assert np.abs(one.counts - two.counts).max() <= 1
        assert np.abs(one.counts - raw.counts).max() > 1  # the stored order is another


def test_experts_are_counted_apart(mixtral: Case) -> None:
    with mixtral.open(n_ctx=256) as model:
        profile = profile_text(model, TEXT)
        assert profile.layers[0].counts.shape == (model.info.n_expert, model.info.n_ff)
        assert profile.layers[0].columns.sum() == profile.tokens * model.info.n_expert_used


def test_limit_and_progress(model: Model) -> None:
    seen: list[tuple[int, int]] = []
    profile = profile_text(model, TEXT, max_tokens=300, progress=lambda *step: seen.append(step))
    assert seen[-1] == (profile.tokens, profile.tokens)
    assert 300 <= profile.tokens <= 302
    assert len(seen) == 2


def test_windows_begin_with_bos() -> None:
    assert _windows([1, 5, 6, 7, 8], 3, 1) == [[1, 5, 6], [1, 7, 8]]
    assert _windows([5, 6, 7], 3, 1) == [[1, 5, 6], [1, 7]]
    assert _windows([1], 3, 1) == [[1]]
    assert _windows([5, 6, 7], 2, None) == [[5, 6], [7]]


def test_nothing_to_read(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="empty"):
        profile_text(model, "")
    with pytest.raises(FileError, match=r"none\.txt"):
        profile_file(model.path, tmp_path / "none.txt", tmp_path / "s.safetensors")
