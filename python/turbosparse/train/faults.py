"""Errors of `train.drelu`: one paragraph for a person, data for a program, an exit code for the shell."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TrainError(Exception):
    """Base class. `data` holds what the message says; `exit_code` is what the command returns (4: bad input)."""

    exit_code = 4

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class SettingsError(TrainError):
    """Options that contradict each other, the state to resume, or the machine."""

    exit_code = 2


class SourceError(TrainError):
    """A source model that is broken, or has parts that a dReLU student of this layout cannot have."""

    exit_code = 3


class DiskFullError(TrainError):
    """The state could not be written; the one before it is intact."""

    exit_code = 5


class OutOfMemoryError(TrainError):
    """The step did not fit; the message says which setting to lower."""

    exit_code = 7


class DivergedError(TrainError):
    """A loss or gradient that is not finite. `stage`, `step` and `batch_file` say where; the state on disk is good."""

    exit_code = 8


def is_full(error: BaseException) -> bool:
    """Whether a disk, a quota or a file's size limit is exhausted; safetensors says so in words only."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    code = re.search(r"(?:os error|code:) (\d+)", str(error))
    return type(error).__name__ == "SafetensorError" and code is not None and int(code[1]) in _FULL


def reported(command: Callable[[], int]) -> int:
    """Runs a command; errors that a user can mend become one line on stderr and an exit code, others pass."""
    try:
        return command()
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if not isinstance(code, int):
            if not is_full(error):
                raise
            code, error = DiskFullError.exit_code, DiskFullError(f"{error}: free some space, and run it again")
        print(f"error: {error}", file=sys.stderr)
        return code
