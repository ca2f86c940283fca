"""A KV cache of any depth without a prefill: a few real rows, repeated.

Attention's time does not depend on what the rows hold, so a benchmark at depth 4096 need not
evaluate 4096 tokens first, which the AMX buffer type of a machine without working tiles could not
do at all. The bytes are those of libllama's llama_state_seq_get_data for the pinned host
(llama_kv_cache::state_write); a change of that format is an error here, never a wrong cache.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

SEED_TOKENS = 8  # real rows to repeat


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = memoryview(data), 0

    def take(self, n: int) -> memoryview:
        if self.at + n > len(self.data):
            raise ValueError("the state of the sequence is not in the format of the pinned host: it ends too early")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, code: str) -> int:
        return int(struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0])


def deepen(state: bytes, depth: int) -> bytes:
    """`state` of a sequence of some tokens as one of `depth` tokens, positions 0 .. depth - 1.

    Args:
        state: bytes of llama_state_seq_get_data, one sequence at positions from 0.

    Raises:
        ValueError: the format is not that of the pinned host.
    """
    reader, out = _Reader(state), bytearray()
    out += reader.take(8)  # magic, sequence
    n_stream = reader.number("I")
    out += struct.pack("<I", n_stream)
    for _ in range(n_stream):
        n_cell = reader.number("I")
        out += struct.pack("<I", depth if n_cell else 0)
        if n_cell:
            _stream(reader, out, n_cell, depth)
    if reader.at != len(state):
        raise ValueError("the state of the sequence is not in the format of the pinned host: bytes are left over")
    return bytes(out)


def _stream(reader: _Reader, out: bytearray, n_cell: int, depth: int) -> None:
    cells = np.frombuffer(reader.take(12 * n_cell), dtype="<i4").reshape(n_cell, 3)  # position, 1, sequence
    if not (cells[:, 1] == 1).all():
        raise ValueError("the state of the sequence is not in the format of the pinned host: cells of many sequences")
    deep = np.empty((depth, 3), dtype="<i4")
    deep[:, 0], deep[:, 1], deep[:, 2] = np.arange(depth), 1, cells[0, 2]
    out += deep.tobytes()
    transposed, n_layer = reader.number("I"), reader.number("I")
    out += struct.pack("<II", transposed, n_layer)
    for _ in range(n_layer):
        _rows(reader, out, n_cell, depth)
    for _ in range(n_layer):
        (_columns if transposed else _rows)(reader, out, n_cell, depth)


def _rows(reader: _Reader, out: bytearray, n_cell: int, depth: int) -> None:
    """One row per cell: type, bytes of a row, rows."""
    out += reader.take(4)
    size = reader.number("Q")
    out += struct.pack("<Q", size)
    out += _tile(np.frombuffer(reader.take(size * n_cell), np.uint8).reshape(n_cell, size), depth).tobytes()


def _columns(reader: _Reader, out: bytearray, n_cell: int, depth: int) -> None:
    """V without flash attention: type, bytes of an element, width; for every element all cells."""
    out += reader.take(4)
    size, width = reader.number("I"), reader.number("I")
    out += struct.pack("<II", size, width)
    values = np.frombuffer(reader.take(size * width * n_cell), np.uint8).reshape(width, n_cell, size)
    out += np.ascontiguousarray(_tile(values.transpose(1, 0, 2), depth).transpose(1, 0, 2)).tobytes()


def _tile(rows: npt.NDArray[np.uint8], depth: int) -> npt.NDArray[np.uint8]:
    return np.resize(rows, (depth, *rows.shape[1:]))
