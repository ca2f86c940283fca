"""What this machine is, in the kernel's own words; 0 or "" where it does not say."""

from __future__ import annotations

import platform
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def _fields(path: Path) -> dict[str, str]:
    """key -> value of lines "key : value", the first of each key."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in lines]
    return {key.strip(): value.strip() for key, _, value in reversed(pairs)}


def cpu_name(proc: Path = PROC) -> str:
    """As llama-bench prints it."""
    found = _fields(proc / "cpuinfo")
    named = (found[key] for key in ("model name", "Model", "Hardware") if found.get(key))
    return next(named, "") or platform.processor() or platform.machine()


def cpu_generation(proc: Path = PROC) -> str:
    """What tells apart processors of one name in a virtual machine: "family 25, model 17, stepping 1"; "" off x86."""
    found = _fields(proc / "cpuinfo")
    keys = {"family": "cpu family", "model": "model", "stepping": "stepping"}
    return ", ".join(f"{name} {found[key]}" for name, key in keys.items() if found.get(key))


def cpu_flags(proc: Path = PROC) -> set[str]:
    """Instruction sets that the first processor advertises, by the kernel's names."""
    found = _fields(proc / "cpuinfo")
    return set((found.get("flags") or found.get("Features", "")).split())


def memory_total(proc: Path = PROC) -> int:
    """Bytes."""
    return _bytes(proc, "MemTotal")


def memory_available(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Bytes that a program may still take without swapping, the control group's limit respected."""
    free = _bytes(proc, "MemAvailable")
    try:
        limit = int((cgroup / "memory.max").read_text())
        return max(min(free, limit - int((cgroup / "memory.current").read_text())), 0)
    except (OSError, ValueError):  # no such group, or "max"
        return free


def _bytes(proc: Path, key: str) -> int:
    words = _fields(proc / "meminfo").get(key, "").split()
    return int(words[0]) * 1024 if words else 0
