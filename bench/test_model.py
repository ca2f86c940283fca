"""Decode, prefill and several sequences of a model of real width, and loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from turbosparse.bench.engine import Counters, Engine, load_time
from turbosparse.bench.plan import Settings, Test, Work

from bench import paired

ONE = Settings(1)  # one thread: barriers of a team on a shared machine would be all that is timed
MODES = ("dense", "exact", "predicted")
WORKS = {"decode": (Work(8, n_gen=6, warm=True), 1), "prefill": (Work(0, 128), 1), "batch4": (Work(8, n_gen=3), 4)}
# A gate for regressions, not a claim: the whole interval must lie beyond it to fail.
SLOWER = {"decode": 1.0, "prefill": 1.3, "batch4": 1.3}


def engine(path: Path, n_seq: int) -> Engine:
    opened = Engine(path, ONE, 256, n_seq)
    opened.seat(8)
    return opened


def check(found: Counters, opened: Engine, mode: str) -> None:
    """What the counters must say of each other, exactly."""
    info = opened.model.info
    assert found.n_active <= found.n_selected <= found.n_neuron
    assert (found.n_selected == found.n_neuron) == (mode != "predicted")
    assert (found.bytes_predictor > 0) == (mode == "predicted")
    if mode == "dense":
        assert found.rows == found.n_neuron * info.branches
    else:
        assert found.rows < 0.7 * found.n_neuron * info.branches
        assert found.rows >= found.n_selected + found.n_active  # the first branch, and down


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", WORKS)
@pytest.mark.parametrize("file", ["wide", "experts"])
def test_speed(benchmark: Any, request: pytest.FixtureRequest, file: str, kind: str, mode: str) -> None:
    work, n_seq = WORKS[kind]
    benchmark.group = f"{kind} {file}"
    with engine(request.getfixturevalue(file), n_seq) as opened:
        counters = opened.run(work, mode)[1]
        check(counters, opened, mode)
        benchmark.pedantic(lambda: opened.run(work, mode), rounds=4, iterations=1, warmup_rounds=1)
        assert opened.run(work, mode)[1].rows == counters.rows  # run to run the same
    tokens = work.n_tokens * n_seq
    benchmark.extra_info.update(
        tok_s=tokens / benchmark.stats.stats.median,
        active_frac=counters.n_active / counters.n_neuron,
        bytes_per_token=counters.bytes_read / counters.n_tokens,
    )


@pytest.mark.parametrize("kind", WORKS)
def test_sparse_is_not_slower_than_dense(wide: Path, kind: str) -> None:
    work, n_seq = WORKS[kind]
    with engine(wide, n_seq) as opened:
        for mode in ("exact", "predicted"):
            ratio = paired.compare(lambda m=mode: opened.run(work, m), lambda: opened.run(work, "dense"), rounds=9)
            print(f"\n{kind}: {mode} / dense {ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
            assert ratio.low <= SLOWER[kind]


@pytest.mark.benchmark(group="load")
def test_load(benchmark: Any, wide: Path) -> None:
    benchmark.pedantic(lambda: load_time(wide, ONE, "exact"), rounds=5, iterations=1, warmup_rounds=1)
    with engine(wide, 1) as opened:
        assert opened.model.info.ffn_bytes_read_at_load == 0


def test_turns_of_a_test_are_what_is_timed_here() -> None:
    assert Test(n_gen=6, n_depth=8).turns() == [WORKS["decode"][0]]
