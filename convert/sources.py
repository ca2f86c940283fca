"""Where the rows of an output tensor come from.

A source yields blocks: a number of consecutive rows, and a thunk that returns them as [n, n_cols] in
their storage type. Thunks are safe to run in several threads. No source holds more than TILE bytes for
itself, whatever the size of the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .checkpoint import STORAGE, Tensor

TILE = 256 * 1024 * 1024  # bytes of `down` that are held transposed at a time
CHUNK = 128  # rows of `down` read and transposed at a time: what the cache holds (2.5 x faster than 512)
READERS = 4  # threads that transpose: the encoders idle meanwhile

Read = Callable[[], NDArray[Any]]
Block = tuple[int, Read]


def spans(total: int, step: int) -> Iterator[tuple[int, int]]:
    """[start, stop) pairs that cover range(total)."""
    for start in range(0, total, step):
        yield start, min(start + step, total)


class Source(Protocol):
    """Rows of one output tensor."""

    def blocks(self, n: int) -> Iterator[Block]:
        """All rows in order, about `n` per block."""
        ...


@dataclass(frozen=True)
class Array:
    """Rows that are already in memory: norms, maps, scales."""

    rows: NDArray[Any]  # [n_rows, n_cols]

    def blocks(self, n: int) -> Iterator[Block]:
        """All rows in order, about `n` per block."""
        for start, stop in spans(len(self.rows), n):
            yield stop - start, partial(self._read, start, stop)

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        return self.rows[start:stop]


@dataclass(frozen=True)
class Rows:
    """A matrix as it is, or with its rows in the order `perm` (stored row -> row of the tensor)."""

    tensor: Tensor
    perm: NDArray[np.int32] | None = None

    def blocks(self, n: int) -> Iterator[Block]:
        """All rows in order, about `n` per block."""
        for start, stop in spans(self.tensor.shape[0], n):
            yield stop - start, partial(self._read, start, stop)

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
        """All rows in order, about `n` per block."""
        for start, stop in spans(self.tensor.shape[0], max(n // self.head_dim, 1) * self.head_dim):
            yield stop - start, partial(self._read, start, stop)

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        rows = self.tensor.read(start, stop)
        halves = rows.reshape(-1, 2, self.head_dim // 2, rows.shape[1])
        out: NDArray[Any] = halves.swapaxes(1, 2).reshape(rows.shape)
        return out


@dataclass(frozen=True)
class Columns:
    """The columns of a matrix as rows (`down` by neuron), optionally in the order `perm`."""

    tensor: Tensor  # [n_embd, n_ff]
    perm: NDArray[np.int32] | None = None

    def blocks(self, n: int) -> Iterator[Block]:
        """All rows in order, about `n` per block."""
        n_embd, n_ff = self.tensor.shape
        row_bytes = n_embd * STORAGE[self.tensor.dtype].itemsize
        for start, stop in spans(n_ff, max(TILE // row_bytes // n, 1) * n):
            yield from Array(self._tile(start, stop)).blocks(n)

    def _tile(self, start: int, stop: int) -> NDArray[Any]:
        """Neurons [start, stop) of the stored order, transposed: [stop - start, n_embd]."""
        n_embd = self.tensor.shape[0]
        out = np.empty((stop - start, n_embd), STORAGE[self.tensor.dtype])

        def fill(rows: tuple[int, int]) -> None:
            chunk = self.tensor.read(*rows)
            if self.perm is None:
                chunk = chunk[:, start:stop]
            else:
                chunk = np.take(chunk, self.perm[start:stop], axis=1, mode="clip")
            out[:, slice(*rows)] = chunk.T

        with ThreadPoolExecutor(READERS) as pool:
            deque(pool.map(fill, spans(n_embd, CHUNK)), maxlen=0)
        return out


@dataclass(frozen=True)
class Elements:
    """The rows of `source` with their elements in the order `perm` (stored element -> element of the row)."""

    source: Source
    perm: NDArray[np.int32]

    def blocks(self, n: int) -> Iterator[Block]:
        """All rows in order, about `n` per block."""
        for count, read in self.source.blocks(n):
            yield count, partial(self._read, read)

    def _read(self, read: Read) -> NDArray[Any]:
        return np.take(read(), self.perm, axis=1)


@dataclass(frozen=True)
class Stack:
    """Experts one after another."""

    parts: Sequence[Source]

    def blocks(self, n: int) -> Iterator[Block]:
        """All rows in order, about `n` per block."""
        for part in self.parts:
            yield from part.blocks(n)
