"""The statistics, on timings whose truth is known."""

from __future__ import annotations

import random
import statistics

import pytest
from turbosparse.bench.ratio import bootstrap, paired


def turns(rng: random.Random, n: int, ratio: float, noise: float = 0.1) -> tuple[list[float], list[float]]:
    """Times of a and b on a machine that drifts by a factor of 3 and stalls in one turn of ten."""
    a, b, speed = [], [], 1.0
    for _ in range(n):
        speed = min(max(speed * rng.uniform(0.8, 1.25), 0.6), 1.8)
        for times, true in ((a, ratio), (b, 1.0)):
            stall = 3.0 if rng.random() < 0.1 else 1.0
            times.append(true / speed * rng.lognormvariate(0, noise) * stall)
    return a, b


def test_a_true_ratio_lies_in_the_interval() -> None:
    rng, hits = random.Random(1), 0
    for _ in range(200):
        found = paired(*turns(rng, 30, 2.3))
        assert found
        hits += found.low <= 2.3 <= found.high
    assert hits >= 180  # 95 % wanted; the percentile method on 30 pairs gives a little less


def test_drift_cancels() -> None:
    rng = random.Random(2)
    a, b = turns(rng, 40, 1.05, noise=0.01)
    found = paired(a, b)
    assert found
    assert abs(found.median - 1.05) < 0.02
    assert statistics.stdev(a) > 0.2  # while the times themselves are all over the place


def test_the_same_times_give_the_same_interval() -> None:
    a, b = turns(random.Random(3), 20, 1.5)
    assert paired(a, b) == paired(a, b)
    assert bootstrap(a, seed=1) == bootstrap(a, seed=1)


def test_direction_and_size() -> None:
    found = paired([2.0, 2.2, 1.8, 2.0], [1.0, 1.1, 0.9, 1.0])
    assert found
    assert found.median == pytest.approx(2.0)
    assert (found.low, found.high) == (pytest.approx(2.0), pytest.approx(2.0))
    assert found.pairs == 4


def test_too_few_pairs_say_nothing() -> None:
    assert paired([1.0, 1.0], [1.0, 1.0]) is None
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 2.0])
