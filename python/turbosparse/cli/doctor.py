"""turbosparse doctor"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonOption

if TYPE_CHECKING:
    from ..doctor import Check

COLOURS = {"ok": "32", "note": "2", "warn": "33", "fail": "31"}
WIDTH = 100


def command(
    quick: Annotated[bool, typer.Option("--quick", help="Leave the measurement of memory bandwidth out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Examine this machine and installation, and say what is missing and how to mend it.

    Looks at the compiler, the CPU instructions that really run (each is executed in a process of its
    own), memory and its bandwidth, graphics, disk, llama.cpp and its devices, the engine with its
    self-test and a first generation, and packages. Works when the engine does not.

    Exit code 0: turbosparse works, whatever else is said. 1: it does not.

    turbosparse doctor

    turbosparse doctor --json
    """
    from ..doctor import examine, healthy

    checks: list[Check] = []
    for check in examine(quick=quick):
        if not as_json:
            show(check, new_section=not checks or checks[-1].section != check.section)
        checks.append(check)
    if as_json:
        print(json.dumps({"ok": healthy(checks), "checks": [check.as_dict() for check in checks]}, indent=1))
    else:
        print("\n" + verdict(checks))
    if not healthy(checks):
        raise typer.Exit(1)


def show(check: Check, *, new_section: bool) -> None:
    """Print a finding, and what mends it."""
    if new_section:
        print(f"\n{check.section}" if check.section != "system" else check.section)
    head = f"  {_coloured(check.status)} {check.name:<18} "
    indent = " " * 26
    value = textwrap.fill(check.value, WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
    print(head + value.replace("\n", f"\n{indent}"))
    if check.fix:
        print(f"{indent}-> {check.fix}")
    sys.stdout.flush()


def _coloured(status: str) -> str:
    text = f"{status:<4}"
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\x1b[{COLOURS[status]}m{text}\x1b[0m"


def verdict(checks: list[Check]) -> str:
    """The last line."""
    count = {status: sum(check.status == status for check in checks) for status in COLOURS}
    failed = ", ".join(f"{check.section}: {check.name}" for check in checks if check.status == "fail")
    warned = f"{count['warn']} warning{'s' * (count['warn'] != 1)}"
    return f"turbosparse does not work here: {failed}." if failed else f"turbosparse works here, {warned}."
