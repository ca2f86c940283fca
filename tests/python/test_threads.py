"""Physical cores, from the kernel's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from turbosparse.threads import default_threads


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four hardware threads on two cores, all allowed."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        topology = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    return tmp_path


def test_hyper_threads_count_once(system: Path) -> None:
    assert default_threads(system) == 2


def test_affinity_counts(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    assert default_threads(system) == 1


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 2), ("50000 100000", 1), ("150000 100000", 2), ("900000 100000", 2)]
)
def test_quota_counts(system: Path, quota: str, expected: int) -> None:
    (system / "fs/cgroup").mkdir(parents=True)
    (system / "fs/cgroup/cpu.max").write_text(quota)
    assert default_threads(system) == expected


def test_a_kernel_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5})
    assert default_threads(tmp_path) == 2


def test_here() -> None:
    assert 1 <= default_threads() <= (os.cpu_count() or 1)
