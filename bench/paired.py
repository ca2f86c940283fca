"""Fair comparison of two functions on a noisy machine: taking turns, ratios round by round."""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Time of a over time of b: the median of the rounds and a bootstrap interval of it."""

    median: float
    low: float
    high: float
    rounds: int


def seconds(f: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def bootstrap(values: list[float], n: int = 2000) -> tuple[float, float]:
    """95 % interval of the median, from resamples with a fixed seed."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(n))
    return medians[int(0.025 * n)], medians[int(0.975 * n)]


def compare(a: Callable[[], object], b: Callable[[], object], rounds: int = 21) -> Ratio:
    """Call a and b alternately, each first in half of the rounds; warm up once."""
    a(), b()
    ratios = []
    for i in range(rounds):
        if i % 2:
            t_b, t_a = seconds(b), seconds(a)
        else:
            t_a, t_b = seconds(a), seconds(b)
        ratios.append(t_a / t_b)
    low, high = bootstrap(ratios)
    return Ratio(statistics.median(ratios), low, high, rounds)
