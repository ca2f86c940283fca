"""One FFN with a known mask: rows and bytes must be exactly the stored ones, on every machine.

The signs of all dots are planted far from zero, so no rounding of any kernel can move a neuron.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from turbosparse import ops

N_EMBD, N_FF, RANK = 512, 2048, 64
TYPES = ("q4_0", "q8_0", "q4_k", "q6_k", "f16", "bf16")
MODES: tuple[ops.Mode, ...] = ("dense", "exact", "predicted")


def planted(rng: np.random.Generator, n: int, x: np.ndarray[Any, Any], share: float) -> np.ndarray[Any, Any]:
    """Rows [n, len(x)] whose dot with x is about +|x|^2 for `share` of them, -|x|^2 for the others."""
    signs = np.where(np.arange(n) % 20 < round(20 * share), 1.0, -1.0)
    return (rng.standard_normal((n, len(x))) * 0.3 + signs[:, None] * x).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("kind", TYPES)
def test_counters(kind: str, share: float, mode: ops.Mode, expected: Callable[..., None]) -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((1, N_EMBD)).astype(np.float32)
    gate, up = planted(rng, N_FF, x[0], share), planted(rng, N_FF, x[0], 1.0)
    down = rng.standard_normal((N_FF, N_EMBD)).astype(np.float32)
    # a predictor that selects the active neurons and one in twenty besides
    fc1 = planted(rng, RANK, x[0], 1.0)
    wanted = np.where(np.arange(N_FF) % 20 < round(20 * share) + 1, 1.0, -1.0)
    fc2 = (wanted[:, None] * np.ones((1, RANK))).astype(np.float32)
    result = ops.ffn(
        x,
        gate=ops.quantize(gate, kind),
        up=ops.quantize(up, kind),
        down_t=ops.quantize(down, kind),
        fc1=ops.quantize(fc1, "q8_0"),
        fc2=ops.quantize(fc2, "q8_0"),
        mode=mode,
    )
    expected("ffn", f"{kind} {share} {mode}", {k: int(v) for k, v in result.stats.items()})
