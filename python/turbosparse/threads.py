"""How many threads an evaluation should have."""

from __future__ import annotations

import os
from pathlib import Path

SYSTEM = Path("/sys")


def default_threads(system: Path = SYSTEM) -> int:
    """Physical cores that this process may use, at least 1.

    Kernels that wait for memory gain nothing from a core's second hardware thread, and OpenMP
    suffers badly from more threads than the process gets time for: hyper-threads are counted
    once, and affinity and the control group's quota are respected.
    """
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = len({_core(system, cpu) for cpu in cpus})
    return max(1, min(cores, _quota(system)))


def _core(system: Path, cpu: int) -> str:
    """The hardware threads of `cpu`'s core, in the kernel's words; cpu itself where it does not say."""
    try:
        return (system / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota(system: Path) -> int:
    """CPUs' worth of time that the control group grants, rounded up."""
    try:
        quota, period = (system / "fs/cgroup/cpu.max").read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return 1 << 16
