"""What the kernel says of the machine, from files whose content is known, and of this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from turbosparse import hardware

FIRST = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: A CPU: fast\nflags\t\t: fpu avx2\n\n"
X86 = FIRST + "model name\t: B\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\n\nModel\t\t: A board\n"


@pytest.mark.parametrize(
    ("text", "name", "generation", "flags"),
    [(X86, "A CPU: fast", "family 25, model 17", {"fpu", "avx2"}), (ARM, "A board", "", {"fp", "asimd"})],
)
def test_the_cpu(tmp_path: Path, text: str, name: str, generation: str, flags: set[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert hardware.cpu_name(tmp_path) == name
    assert hardware.cpu_generation(tmp_path) == generation
    assert hardware.cpu_flags(tmp_path) == flags


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert hardware.cpu_name(tmp_path)  # what Python knows
    assert hardware.cpu_flags(tmp_path) == set()
    assert (hardware.memory_total(tmp_path), hardware.memory_available(tmp_path, tmp_path)) == (0, 0)


def test_available_memory_respects_the_control_group(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8000 kB\nMemAvailable:    4000 kB\n")
    assert hardware.memory_total(tmp_path) == 8000 * 1024
    assert hardware.memory_available(tmp_path, tmp_path) == 4000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert hardware.memory_available(tmp_path, tmp_path) == 4000 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert hardware.memory_available(tmp_path, tmp_path) == 4000


def test_this_machine() -> None:
    assert hardware.cpu_flags()
    assert 2**20 < hardware.memory_available() <= hardware.memory_total() < 2**45
