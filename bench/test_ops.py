"""Gathered dot and axpy: every weight type x layout x instruction set x share of the rows.

Times are stored, never compared; what gates is that the counters and the sums are right. The
matrix is small enough for L2 or L3: this times kernels, decode times memory.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from turbosparse import ops

N_ROW, N_COL = 1024, 4096
SHARES = (0.1, 1.0)
TYPES = [info.name for info in ops.types()]
PACKED = [info.name for info in ops.types() if info.block_size > 1]  # as resident files have them


@functools.cache
def matrix(kind: str) -> ops.Matrix:
    return ops.quantize(np.random.default_rng(1).standard_normal((N_ROW, N_COL), np.float32), kind)


def ids(share: float) -> np.ndarray[Any, Any]:
    chosen = np.random.default_rng(2).choice(N_ROW, round(share * N_ROW), replace=False)
    return np.sort(chosen).astype(np.int32)[None]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize(("kind", "layout"), [(k, "rows") for k in TYPES] + [(k, "packed") for k in PACKED])
@pytest.mark.benchmark(group="dot")
def test_dot(benchmark: Any, kind: str, layout: ops.Layout, isa: ops.Isa, share: float) -> None:
    w, rows = ops.pack(matrix(kind), layout), ids(share)
    x = np.random.default_rng(3).standard_normal((1, N_COL), np.float32)
    out = benchmark.pedantic(lambda: ops.gather_dot(w, x, rows, isa=isa), rounds=5, iterations=2, warmup_rounds=1)
    wanted = ops.dequantize(matrix(kind))[rows[0]] @ ops.round_x(x, kind)[0]
    np.testing.assert_allclose(out[0], wanted, rtol=0, atol=2e-3)
    store(benchmark, w, rows.size)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.benchmark(group="axpy")
def test_axpy(benchmark: Any, kind: str, isa: ops.Isa, share: float) -> None:
    w, rows = matrix(kind), ids(share)
    h = np.random.default_rng(4).standard_normal(rows.shape, np.float32)
    out = benchmark.pedantic(lambda: ops.gather_axpy(w, h, rows, isa=isa), rounds=5, iterations=2, warmup_rounds=1)
    np.testing.assert_allclose(out[0], h[0] @ ops.dequantize(w)[rows[0]], rtol=0, atol=2e-3)
    store(benchmark, w, rows.size)


def store(benchmark: Any, w: ops.Matrix, n: int) -> None:
    """Rates beside the times: bytes of weights per second and time per row."""
    median = benchmark.stats.stats.median
    benchmark.extra_info.update(gbs=n * w.data.shape[1] / median / 1e9, ns_per_row=1e9 * median / n)
