"""A run's state on disk: whole or not there, whatever happens while it is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from turbosparse.train.faults import DiskFullError, SettingsError, is_full


def write_state(state: dict[str, Any], file: Path) -> None:
    """Atomic, and on the disk when it returns; DiskFullError leaves the state before."""
    part = file.with_suffix(".part")
    try:
        with part.open("wb") as out:
            torch.save(state, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and not is_full(error):
            raise
        raise DiskFullError(
            f"{file}: the state could not be written ({error}); the one before it is intact. Free about "
            f"{_bytes(state) >> 20} MiB and run again with --resume", path=str(file),
        ) from error  # fmt: skip


def read_state(file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `write_state` wrote; SettingsError if that is not what the file is."""
    try:
        return dict(torch.load(file, weights_only=True, map_location=device))
    except Exception as error:
        raise SettingsError(
            f"{file} is no state of a run ({type(error).__name__}: {error}); delete it and start without --resume",
            path=str(file),
        ) from error


def _bytes(state: Any) -> int:
    """Of the tensors in it."""
    if isinstance(state, torch.Tensor):
        return int(state.nbytes)
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(map(_bytes, parts))


def changed_settings(then: dict[str, str], now: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Settings that a resumed run has otherwise than the one that wrote its state, as (then, now)."""
    return {name: (then[name], now[name]) for name in then.keys() & now.keys() if then[name] != now[name]}


def changed_lines(changed: dict[str, tuple[str, str]]) -> list[str]:
    """A line for each of them."""
    return [f"note: {name} was {then} before, is {now} from here on" for name, (then, now) in sorted(changed.items())]
