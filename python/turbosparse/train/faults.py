"""Errors of `train.drelu`: one paragraph for a person, data for a program, an exit code for the shell."""

from __future__ import annotations

from typing import Any


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
