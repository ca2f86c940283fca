"""The machine: system, build tools, CPU, memory, graphics, disk."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from .. import hardware
from ..bundled import cache_directory
from ..summary import show_bytes
from ..threads import default_threads
from . import child, instructions
from .check import Check

PROC = Path("/proc")
SCRIPT = Path(__file__).with_name("instructions.py")
OURS = ("avx2", "fma", "f16c", "avx_vnni", "avx512", "avx512_vnni")  # what our kernels have variants for
# what the kernel's flags call them
FLAGS = {"avx512": "avx512f", "avx512_vbmi": "avx512vbmi"}
ROOM = 10e9  # bytes; a converted 7B model takes about half


def system() -> Iterator[Check]:
    """Operating system and Python."""
    found = f"{platform.system()} {platform.release()}, {platform.machine()}, {' '.join(platform.libc_ver())}"
    linux = platform.system() == "Linux"
    yield Check(
        "system", "system", "ok" if linux else "fail", found, "" if linux else "turbosparse runs on Linux only, so far"
    )
    yield Check("system", "python", "ok", f"{platform.python_version()} ({sys.executable})")


def tools() -> Iterator[Check]:
    """What building takes; a missing tool matters only to those who build."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    said = child.output([compiler, "--version"]) if compiler else None
    if said:
        yield Check("build tools", "compiler", "ok", said.splitlines()[0])
    else:
        advice = "install a C++17 compiler: apt install g++ (needed to build, not to run)"
        yield Check("build tools", "compiler", "warn", f"{compiler or 'none'} does not run", advice)
    for name, advice in (("cmake", "pip install cmake"), ("ninja", "pip install ninja")):
        said = child.output([name, "--version"])
        found = said.splitlines()[0] if said else "not found"
        yield Check("build tools", name, "ok" if said else "note", found, "" if said else f"{advice} (to build)")


def cpu() -> Iterator[Check]:
    """What it is, and which instructions really run."""
    cores, threads = default_threads(), os.cpu_count() or 1
    yield Check(
        "cpu", "cpu", "ok", f"{hardware.cpu_name(PROC)}; {cores} physical cores for us, {threads} hardware threads"
    )
    if platform.machine() != "x86_64":
        yield Check("cpu", "instructions", "note", f"{platform.machine()}: portable kernels, no vector variants yet")
        return
    flags = hardware.cpu_flags(PROC)
    for instruction in instructions.CODE:
        yield instruction_check(instruction, FLAGS.get(instruction, instruction) in flags)


def instruction_check(name: str, advertised: bool) -> Check:
    """Does the instruction run, and does the CPU say so?"""
    code = child.python(SCRIPT, name, limit=20).returncode
    if code == 0:
        return Check("cpu", name, "ok", "runs")
    if code == -signal.SIGILL and advertised:
        consequence = "we do not use it" if name not in OURS else "kernels with it must not be chosen"
        advice = "programs that trust the flag crash here (torch: set ONEDNN_MAX_CPU_ISA=AVX512_CORE)"
        found = f"advertised, but dies of SIGILL; {consequence}"
        return Check("cpu", name, "warn", found, advice if name.startswith("amx") else "")
    if code == -signal.SIGILL:
        slower = name in ("avx2", "fma", "f16c")
        return Check("cpu", name, "warn" if slower else "note", "not there" + ", so kernels are portable C" * slower)
    return Check("cpu", name, "note", f"advertised: {'yes' if advertised else 'no'}; cannot be tried here")


def memory() -> Iterator[Check]:
    """How much; its bandwidth is measured with the engine."""
    total, available = hardware.memory_total(PROC), hardware.memory_available(PROC)
    if not total:
        yield Check("memory", "size", "note", "the kernel does not say")
        return
    little = total < 8e9
    yield Check(
        "memory", "size", "warn" if little else "ok", f"{show_bytes(total)}, of which {show_bytes(available)} is free",
        "a 7B model in Q4_0 needs about 5 GB" if little else "",
    )  # fmt: skip


def graphics() -> Iterator[Check]:
    """NVIDIA cards, for those who have one."""
    said = child.output(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    if said:
        for line in said.splitlines():
            yield Check("graphics", "nvidia", "note", f"{line.strip()}; not used by this version")
    elif (PROC / "driver/nvidia").exists():
        yield Check("graphics", "nvidia", "warn", "a driver without nvidia-smi", "reinstall the NVIDIA driver")
    else:
        yield Check("graphics", "nvidia", "ok", "none, and none is needed")


def disk() -> Iterator[Check]:
    """Room where converted models are kept."""
    place = cache_directory()
    base = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(base).free
    if not os.access(base, os.W_OK):
        yield Check("disk", "cache", "fail", f"{base} cannot be written", "set XDG_CACHE_HOME to a directory of yours")
    elif free < ROOM:
        yield Check(
            "disk", "cache", "warn", f"{place}: {show_bytes(free)} free", "free some, or set XDG_CACHE_HOME elsewhere"
        )
    else:
        yield Check("disk", "cache", "ok", f"{place}: {show_bytes(free)} free")
