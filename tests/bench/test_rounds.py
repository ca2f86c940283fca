"""Rounds of one-token decode count only while the memory keeps its speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from turbosparse.bandwidth import BandwidthProbe
from turbosparse.bench import runner
from turbosparse.bench.plan import Settings, Test
from turbosparse.bench.record import Record
from turbosparse.bench.runner import Job, Runner, Window
from turbosparse.errors import ArgumentError

GB = 1e9


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SETTLE", "WAIT"):
        monkeypatch.setattr(runner, name, 0.0)


def measured(
    monkeypatch: pytest.MonkeyPatch, twins: Path, speeds: Sequence[float], window: Window | None = None
) -> tuple[Record, int]:
    """The record of one round when the memory reads at `speeds` in turn (the last one from then on), and of how many
    readings it was made."""
    left = list(speeds)
    taken = 0

    def measure(self: BandwidthProbe, n_threads: int) -> float:
        nonlocal taken
        taken += 1
        return GB * (left.pop(0) if len(left) > 1 else left[0])

    monkeypatch.setattr(BandwidthProbe, "measure", measure)
    job = Job(twins, [Settings(1)], [Test(n_gen=2)], ["exact"], 1, False, window=window)
    ((record,),) = Runner(job, lambda text: None, lambda label, done, total: None).run()
    return record, taken


def test_a_round_in_which_the_speed_changes_is_taken_again(monkeypatch: pytest.MonkeyPatch, twins: Path) -> None:
    record, taken = measured(monkeypatch, twins, [40, 70, 70, 40, 41, 43])
    assert (record.bandwidth, taken) == (42 * GB, 6)
    assert record.as_dict()["bytes_per_token"] == measured(monkeypatch, twins, [40])[0].as_dict()["bytes_per_token"]


def test_an_unsteady_memory_is_put_up_with(monkeypatch: pytest.MonkeyPatch, twins: Path) -> None:
    record, taken = measured(monkeypatch, twins, [40, 70] * 50)
    assert (record.bandwidth, taken) == (55 * GB, 2 * runner.ROUND_TRIES)


def test_only_the_wanted_speeds_count(monkeypatch: pytest.MonkeyPatch, twins: Path) -> None:
    record, taken = measured(monkeypatch, twins, [70, 71, 50, 60, 50, 48], Window(45 * GB, 55 * GB))
    assert (record.bandwidth, taken) == (49 * GB, 6)


def test_the_wait_for_them_ends(monkeypatch: pytest.MonkeyPatch, twins: Path) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 0.0)
    with pytest.raises(ArgumentError, match="--bandwidth") as caught:
        measured(monkeypatch, twins, [70], Window(45 * GB, 55 * GB))
    assert (caught.value.expected, caught.value.found) == ("45 to 55 GB/s", "70.0 GB/s at last")
