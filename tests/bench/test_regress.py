"""The regression gate's verdict, on turns whose truth is known."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from bench import regress_proof
from bench.regress import FIRST, LIMIT, ROOT, SECOND, TURNS, judge


def turns(rng: random.Random, epochs: int, slowdown: float) -> list[list[tuple[float, float]]]:
    """(base, head) per process pair on a bad machine: drift, stalls, and +-2 % of luck per process."""
    found = []
    for _ in range(epochs):
        luck, speed, epoch = rng.gauss(1, 0.02), 1.0, []
        for _ in range(TURNS):
            speed = min(max(speed * rng.uniform(0.85, 1.2), 0.5), 2.0)
            pair = [
                true / speed * rng.lognormvariate(0, 0.06) * (3.0 if rng.random() < 0.1 else 1.0)
                for true in (1.0, slowdown * luck)
            ]
            epoch.append((pair[0], pair[1]))
        found.append(epoch)
    return found


def fails(rng: random.Random, slowdown: float) -> bool:
    """Both looks."""
    return all(judge("case", turns(rng, epochs, slowdown)).slower for epochs in (FIRST, SECOND))


def test_an_unchanged_tree_passes() -> None:
    rng = random.Random(1)
    assert sum(fails(rng, 1.0) for _ in range(100)) == 0


def test_a_little_slower_is_not_a_regression_yet() -> None:
    rng = random.Random(2)
    assert sum(fails(rng, 1.02) for _ in range(50)) <= 1


def test_15_percent_slower_fails() -> None:
    rng = random.Random(3)
    assert sum(fails(rng, 1.15) for _ in range(50)) >= 48


def test_one_unlucky_process_is_not_a_verdict() -> None:
    epochs = [[(1.0, 1.5)] * TURNS, [(1.0, 1.0)] * TURNS, [(1.0, 1.0)] * TURNS]
    verdict = judge("case", epochs)
    assert not verdict.slower
    assert verdict.medians == (1.5, 1.0, 1.0)


@pytest.mark.parametrize(("ratio", "slower"), [(LIMIT + 0.01, True), (LIMIT - 0.01, False), (0.8, False)])
def test_the_limit(ratio: float, slower: bool) -> None:
    assert judge("case", [[(1.0, ratio)] * TURNS] * FIRST).slower == slower


def test_the_planted_slowness_fits_the_code(tmp_path: Path) -> None:
    """Running it is `make bench-regress-proof`."""
    path = tmp_path / regress_proof.FILE
    path.parent.mkdir(parents=True)
    shutil.copy(ROOT / regress_proof.FILE, path)
    for _ in range(2):  # a checkout that is there already stays as it is
        regress_proof.plant(tmp_path)
        assert path.read_text().count("volatile float again") == 1
    path.write_text("")
    with pytest.raises(SystemExit, match="not the one line"):
        regress_proof.plant(tmp_path)
