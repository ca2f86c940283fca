"""Fair comparison of two functions on a noisy machine: taking turns, ratios round by round."""

from __future__ import annotations

import time
from collections.abc import Callable

from turbosparse.bench.ratio import Ratio, paired


def seconds(f: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def compare(a: Callable[[], object], b: Callable[[], object], rounds: int = 21) -> Ratio:
    """Time of a over time of b: called alternately, each first in half of the rounds; one warm-up."""
    a(), b()
    times_a, times_b = [], []
    for i in range(rounds):
        if i % 2:
            times_b.append(seconds(b))
            times_a.append(seconds(a))
        else:
            times_a.append(seconds(a))
            times_b.append(seconds(b))
    ratio = paired(times_a, times_b)
    assert ratio
    return ratio
