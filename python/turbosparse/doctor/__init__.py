"""Is everything there that turbosparse needs, does it really work, and what mends it?

    turbosparse doctor

Needs neither the native library nor llama.cpp: saying that they are missing is the point. What may
crash runs in processes of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from .check import Check

__all__ = ["Check", "examine", "healthy"]


def examine(*, quick: bool = False) -> Iterator[Check]:
    """All findings, section by section, as they come.

    Args:
        quick: leave the measurement of memory bandwidth out.
    """
    from . import engine, machine, packages

    yield from machine.system()
    yield from machine.tools()
    broken = []
    for check in machine.cpu():
        broken += [check.name] if check.status == "warn" and "advertised" in check.value else []
        yield check
    yield from machine.memory()
    if not quick:
        yield from engine.bandwidth()
    yield from machine.graphics()
    yield from machine.disk()
    yield from engine.host(broken)
    yield from engine.engine()
    yield from packages.packages()


def healthy(checks: list[Check]) -> bool:
    """Whether turbosparse works; warnings and notes do not count."""
    return all(check.status != "fail" for check in checks)
