"""Errors of conversion. Each is one paragraph for a person, and carries its data for a program.

`exit_code` is what the command line returns: 2 usage, 3 unsupported model, 4 bad input,
5 not enough space, 6 verification failed.
"""

from __future__ import annotations

from typing import Any


class ConvertError(Exception):
    """Base class. `data` holds what the message says: path, tensor, key, expected, found, ..."""

    exit_code = 4

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class UsageError(ConvertError):
    """The command was given arguments that contradict each other or the disk."""

    exit_code = 2


class UnsupportedModelError(ConvertError):
    """A sound checkpoint that this converter must not, or cannot, export."""

    exit_code = 3


class CheckpointError(ConvertError):
    """A checkpoint directory that is incomplete or broken."""


class GGUFError(ConvertError):
    """A GGUF file that breaks the format or docs/gguf-extension.md."""


class NoSpaceError(ConvertError):
    """`needed` and `available` are bytes on the output's file system."""

    exit_code = 5


class VerifyError(ConvertError):
    """The file differs from its source; `failures` lists tensors with their measured error."""

    exit_code = 6


class MissingPackageError(UsageError):
    """An optional package is needed for what was asked; `package` names it."""
