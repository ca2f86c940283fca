"""Whether a measurement had the machine to itself: CPU time of others, by the kernel's own accounts."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter

PROC = Path("/proc")
TICK = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1


class Others:
    """Share of the machine's cores that processes other than ours and our descendants took, since this was made."""

    def __init__(self) -> None:
        self._start, self._all, self._ours = perf_counter(), everyone(), ours()

    def share(self) -> float:
        """0 .. 1."""
        seconds = max(perf_counter() - self._start, 1.0 / TICK)
        return max(everyone() - self._all - (ours() - self._ours), 0.0) / (seconds * CORES)


def everyone() -> float:
    """CPU seconds of the whole machine so far, idle and waiting for disks left out."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, (PROC / "stat").read_text().split()[1:9])
    return (user + nice + system + irq + soft + steal) / TICK


def ours() -> float:
    """CPU seconds of this process, of its living descendants, and of those that ended."""
    times, parents = {}, {}
    for path in PROC.glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        times[pid] = sum(map(int, fields[11:15])) / TICK  # of itself and of its children that ended
    return sum(time for pid, time in times.items() if _descends(pid, parents))


def _descends(pid: int, parents: dict[int, int]) -> bool:
    while pid not in (0, os.getpid()):
        pid = parents.get(pid, 0)
    return pid == os.getpid()
