"""One FFN of the Mistral-7B shape, one token: exact against dense, from memory.

`exact` must never be slower than `dense`, whatever share of the neurons is active. Several
copies of the weights are used in turn, so that no cache holds what comes next.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from turbosparse import ops

from bench import paired

N_EMBD, N_FF = 4096, 14336
N_COPIES = 4
TYPES = ("q4_0", "q8_0", "f16")
SHARES = (0.1, 0.5, 1.0)
THREADS = 1  # a team on a shared machine would time its barriers
# A gate for regressions, not a claim: the whole interval must lie beyond it to fail.
SLOWER = 1.03


def rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """float32 [n, N_EMBD], a pool of normals that each row reads from another place."""
    pool = rng.standard_normal(N_EMBD + 8191, dtype=np.float32)
    starts = rng.integers(0, 8192, n)
    return np.lib.stride_tricks.sliding_window_view(pool, N_EMBD)[starts]


def signed(rng: np.random.Generator, x: np.ndarray, share: float) -> np.ndarray:
    """Rows of which `share` have a positive dot with x, the others a negative one."""
    wanted = np.where(rng.random((N_FF, 1)) < share, 0.05, -0.05).astype(np.float32)
    return rows(rng, N_FF) + wanted * x  # the dot is 205 +- 64, or its negative


class Layers:
    """The same FFN several times in memory; each call uses the next."""

    def __init__(self, kind: str, share: float) -> None:
        rng = np.random.default_rng(1)
        self.x = rng.standard_normal((1, N_EMBD), dtype=np.float32)
        first = {
            "gate": ops.quantize(signed(rng, self.x[0], share), kind),
            "up": ops.quantize(signed(rng, self.x[0], 1.0), kind),
            "down_t": ops.quantize(rows(rng, N_FF).copy(), kind),
        }
        copies = [{k: ops.Matrix(m.type, m.n_col, m.data.copy()) for k, m in first.items()} for _ in range(N_COPIES)]
        self.copies: Iterator[dict[str, ops.Matrix]] = itertools.cycle(copies)

    def run(self, mode: str) -> ops.FfnResult:
        return ops.ffn(self.x, **next(self.copies), mode=mode, n_threads=THREADS)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("share", SHARES)
def test_exact_is_not_slower_than_dense(benchmark, kind: str, share: float) -> None:
    layers = Layers(kind, share)
    exact, dense = layers.run("exact"), layers.run("dense")
    assert exact.stats["rows_gate"] == N_FF
    assert abs(exact.stats["n_active"] / N_FF - share) < 0.02
    np.testing.assert_array_equal(exact.y, dense.y)

    ratio = paired.compare(lambda: layers.run("exact"), lambda: layers.run("dense"))
    benchmark.extra_info.update(
        exact_over_dense=ratio.median, ci95=(ratio.low, ratio.high), threads=THREADS, active=share,
        bytes_exact=exact.stats["bytes_ffn"], bytes_dense=dense.stats["bytes_ffn"],
    )  # fmt: skip
    benchmark.pedantic(lambda: layers.run("exact"), rounds=7, iterations=1, warmup_rounds=1)
    print(f"\n{kind} {share:.0%} active: exact/dense {ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
    assert ratio.low <= SLOWER
