"""Row sources: every block size and tile size gives the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turbosparse.convert import sources
from turbosparse.convert.sources import Array, Columns, RopeRows, Rows, Source, Stack


@dataclass
class Memory:
    """A checkpoint tensor that counts what is read of it."""

    data: np.ndarray[Any, Any]
    name: str = "x"
    dtype: str = "BF16"
    largest: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        self.largest = max(self.largest, stop - start)
        return self.data[start:stop].copy()


def matrix(rows: int, cols: int) -> Memory:
    return Memory(np.random.default_rng(rows * cols).integers(0, 1 << 16, (rows, cols)).astype(np.uint16))


def collect(source: Source, n: int) -> np.ndarray[Any, Any]:
    blocks = list(source.blocks(n))  # all are made before one is read, as the pool does
    rows = [read() for _, read in blocks]
    assert [len(r) for r in rows] == [k for k, _ in blocks]
    return np.concatenate(rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 80), st.integers(1, 4096), st.booleans())
def test_columns_are_the_transpose(n_embd: int, n_ff: int, n: int, tile: int, permuted: bool) -> None:
    tensor = matrix(n_embd, n_ff)
    perm = np.random.default_rng(n).permutation(n_ff).astype(np.int32) if permuted else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "TILE", tile)
        patch.setattr(sources, "CHUNK", 8)
        got = collect(Columns(tensor, perm), n)
    expected = tensor.data.T if perm is None else tensor.data.T[perm]
    np.testing.assert_array_equal(got, expected)
    assert tensor.largest <= 8


@pytest.mark.parametrize("n", [1, 3, 7, 100])
def test_rows_and_their_order(n: int) -> None:
    tensor = matrix(7, 5)
    np.testing.assert_array_equal(collect(Rows(tensor), n), tensor.data)
    perm = np.array([6, 0, 3, 3, 1, 2, 5], np.int32)
    np.testing.assert_array_equal(collect(Rows(tensor, perm), n), tensor.data[perm])
    np.testing.assert_array_equal(collect(Array(tensor.data), n), tensor.data)
    np.testing.assert_array_equal(
        collect(Stack([Rows(tensor), Rows(tensor, perm)]), n), np.vstack([tensor.data, tensor.data[perm]])
    )


@pytest.mark.parametrize("n", [1, 4, 9, 64])
def test_rope_rows_stay_within_their_head(n: int) -> None:
    tensor = Memory(np.arange(16, dtype=np.uint16).reshape(16, 1))
    got = collect(RopeRows(tensor, 8), n).ravel().tolist()
    assert got == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
