"""Probes that may crash run in a process of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIMIT = 120.0  # seconds


def python(script: Path, *arguments: str, limit: float = LIMIT) -> subprocess.CompletedProcess[str]:
    """Run a script with this interpreter."""
    command = [sys.executable, str(script), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {limit:g} s")


def facts(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON objects that a script printed, one per line, put together: as far as it came."""
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found.update(json.loads(line))
    return found


def ending(done: subprocess.CompletedProcess[str]) -> str:
    """How a script ended, in words; "" for well."""
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        try:
            return f"died of {signal.Signals(-done.returncode).name}"
        except ValueError:
            return f"died of signal {-done.returncode}"
    last = done.stderr.strip().splitlines()[-1:] or [""]
    return f"exit code {done.returncode}: {last[0]}"


def output(command: Sequence[str], limit: float = 10.0) -> str | None:
    """Standard output of a program; None when there is no such program, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
