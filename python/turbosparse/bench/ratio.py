"""How much faster one contender is than another, from turns that they took in pairs."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 2000
MIN_PAIRS = 3


@dataclass(frozen=True)
class Ratio:
    """Time of `a` over time of `b`.

    Attributes:
        median: of the pairs' ratios.
        low, high: 95 % interval of that median, by bootstrap over the pairs with a fixed seed.
        pairs: how many there were.
    """

    median: float
    low: float
    high: float
    pairs: int


def bootstrap(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % interval of the median of `values`, the percentile method; the same seed gives the same interval."""
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(resamples))
    return medians[int(0.025 * resamples)], medians[int(0.975 * resamples) - 1]


def paired(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> Ratio | None:
    """Of times a over times b, taken in the same turn, pair by pair; None when there are fewer than MIN_PAIRS.

    Drift of the machine hits both of a pair and cancels; the median shrugs off turns that something
    else interrupted.
    """
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    if len(ratios) < MIN_PAIRS:
        return None
    low, high = bootstrap(ratios, seed=seed)
    return Ratio(statistics.median(ratios), low, high, len(ratios))
