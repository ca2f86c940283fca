"""Memory and time that writing a plan will take: rough, and said to be."""

from __future__ import annotations

from .checkpoint import STORAGE
from .export import BLOCK
from .plan import Plan, Planned
from .quantize import T, Type
from .sources import TILE, Columns, Source, Stack

# Million elements per second and thread, measured on a 2.x GHz server core with AVX-512.
RATES: dict[Type, int] = {T.F32: 600, T.F16: 250, T.BF16: 200, T.Q8_0: 180, T.Q4_K: 15, T.Q5_K: 18, T.Q6_K: 30}
OTHER_RATE = 250
DISK = 600e6  # bytes per second read and written, a plain SSD
PYTHON = 120 << 20  # bytes: interpreter, numpy, headers, vocabulary


def seconds(plan: Plan, threads: int, n_bytes_in: int) -> float:
    """Time to read `n_bytes_in` and write the plan with `threads` threads."""
    work = sum(t.n_rows * t.shape[0] / (RATES.get(t.qtype, OTHER_RATE) * 1e6) for t in plan.tensors)
    return max(work / threads, (n_bytes_in + plan.n_bytes) / DISK)


def peak_bytes(plan: Plan, threads: int) -> int:
    """Resident memory at its peak: blocks in flight, and `down` tiles (one in use, one being read)."""
    blocks = (2 * threads + 1) * BLOCK * 12
    return PYTHON + blocks + 2 * max((_tile(t) for t in plan.tensors), default=0)


def _tile(t: Planned) -> int:
    return max((_tile_of(s) for s in _leaves(t.source)), default=0)


def _tile_of(source: Source) -> int:
    if not isinstance(source, Columns):
        return 0
    n_embd, n_ff = source.tensor.shape
    return min(n_embd * n_ff * STORAGE[source.tensor.dtype].itemsize, TILE)


def _leaves(source: Source) -> list[Source]:
    return list(source.parts) if isinstance(source, Stack) else [source]
