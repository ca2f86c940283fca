"""Where the rows of an output tensor come from.

A source yields thunks, each returning a block of consecutive rows [n, n_cols] in its storage type.
Thunks are safe to run in several threads. No source holds more than TILE bytes for itself,
whatever the size of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .checkpoint import STORAGE, Tensor

TILE = 256 * 1024 * 1024  # bytes of `down` that are held transposed at a time
CHUNK = 16 * 1024 * 1024  # bytes of `down` read at a time

Block = Callable[[], NDArray[Any]]


class Source(Protocol):
    """Rows of one output tensor."""

    def blocks(self, n: int) -> Iterator[Block]:
        """Thunks for all rows in order, about `n` rows each."""
        ...


@dataclass(frozen=True)
class Array:
    """Rows that are already in memory: norms, maps, scales."""

    rows: NDArray[Any]  # [n_rows, n_cols]

    def blocks(self, n: int) -> Iterator[Block]:
        for r in range(0, len(self.rows), n):
            yield lambda r=r: self.rows[r : r + n]  # type: ignore[misc]


@dataclass(frozen=True)
class Rows:
    """A matrix as it is, or with its rows in the order `perm` (stored row -> row of the tensor)."""

    tensor: Tensor
    perm: NDArray[np.int32] | None = None

    def blocks(self, n: int) -> Iterator[Block]:
        for r in range(0, self.tensor.shape[0], n):
            yield lambda r=r: self._read(r, min(r + n, self.tensor.shape[0]))  # type: ignore[misc]

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        if self.perm is None:
            return self.tensor.read(start, stop)
        return np.concatenate([self.tensor.read(j, j + 1) for j in self.perm[start:stop].tolist()])


@dataclass(frozen=True)
class RopeRows:
    """Rows of q or k, from the half-split order of Hugging Face to the pairs of llama's rope.

    Within a head of d rows, row i of the first half and row i of the second become rows 2i, 2i + 1.
    """

    tensor: Tensor
    head_dim: int

    def blocks(self, n: int) -> Iterator[Block]:
        step = max(n // self.head_dim, 1) * self.head_dim
        for r in range(0, self.tensor.shape[0], step):
            yield lambda r=r: self._read(r, min(r + step, self.tensor.shape[0]))  # type: ignore[misc]

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        rows = self.tensor.read(start, stop)
        return rows.reshape(-1, 2, self.head_dim // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


@dataclass(frozen=True)
class Columns:
    """The columns of a matrix as rows (`down` by neuron), optionally in the order `perm`."""

    tensor: Tensor  # [n_embd, n_ff]
    perm: NDArray[np.int32] | None = None

    def blocks(self, n: int) -> Iterator[Block]:
        n_embd, n_ff = self.tensor.shape
        row_bytes = n_embd * STORAGE[self.tensor.dtype].itemsize
        step = max(TILE // row_bytes // n, 1) * n
        for start in range(0, n_ff, step):
            tile = self._tile(start, min(start + step, n_ff))
            for r in range(0, len(tile), n):
                yield lambda tile=tile, r=r: tile[r : r + n]  # type: ignore[misc]

    def _tile(self, start: int, stop: int) -> NDArray[Any]:
        """Neurons [start, stop) of the stored order, transposed: [stop - start, n_embd]."""
        n_embd, n_ff = self.tensor.shape
        storage = STORAGE[self.tensor.dtype]
        out = np.empty((stop - start, n_embd), storage)
        step = max(CHUNK // (n_ff * storage.itemsize), 1)
        for r in range(0, n_embd, step):
            chunk = self.tensor.read(r, min(r + step, n_embd))
            if self.perm is None:
                chunk = chunk[:, start:stop]
            else:
                chunk = np.take(chunk, self.perm[start:stop], axis=1, mode="clip")
            out[:, r : r + step] = chunk.T
        return out


@dataclass(frozen=True)
class Stack:
    """Experts one after another."""

    parts: Sequence[Source]

    def blocks(self, n: int) -> Iterator[Block]:
        for part in self.parts:
            yield from part.blocks(n)
