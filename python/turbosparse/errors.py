"""The exceptions of the engine.

Every one carries data besides its sentence: `where` (the file, tensor, key or parameter
at fault), `expected` and `found`, and an `exit_code` for the command line:

    1  unforeseen            5  memory or disk space does not suffice
    2  usage                 7  host library
    3  unsupported model     8  libllama or ggml failed
    4  bad input file        130  cancelled
"""

from __future__ import annotations

EXIT_USAGE = 2
EXIT_UNSUPPORTED = 3
EXIT_INPUT = 4
EXIT_MEMORY = 5
EXIT_HOST = 7
EXIT_BACKEND = 8
EXIT_CANCELLED = 130


class TurboSparseError(Exception):
    """Anything that this package raises on purpose.

    Attributes:
        where: file, tensor, key or parameter at fault, or "".
        expected, found: in words, or "".
        exit_code: of the command line.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", expected: str = "", found: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.expected = expected
        self.found = found


class ArgumentError(TurboSparseError, ValueError):
    """A parameter outside its documented range."""

    exit_code = EXIT_USAGE


class UnknownArgumentError(ArgumentError, TypeError):
    """An argument, named in `where`, that the function does not have or that this engine does not serve."""


class GrammarError(TurboSparseError, ValueError):
    """A GBNF grammar or JSON schema that does not parse."""

    exit_code = EXIT_USAGE


class FileError(TurboSparseError, OSError):
    """A file that cannot be opened, read, written or mapped."""

    exit_code = EXIT_INPUT


class ModelFormatError(TurboSparseError, ValueError):
    """A file that breaks the contract of docs/gguf-extension.md."""

    exit_code = EXIT_INPUT


class UnsupportedModelError(TurboSparseError):
    """A sound file, or a request, that needs what this build or this model lacks."""

    exit_code = EXIT_UNSUPPORTED


class HostError(TurboSparseError, ImportError):
    """llama-cpp-python is missing, of another version, or built for another CPU."""

    exit_code = EXIT_HOST


class BackendError(TurboSparseError):
    """libllama or ggml reported a failure."""

    exit_code = EXIT_BACKEND


class CancelledError(TurboSparseError):
    """The evaluation was cancelled; what was evaluated before it stays valid."""

    exit_code = EXIT_CANCELLED


class OutOfMemoryError(TurboSparseError, MemoryError):
    """Memory does not suffice.

    Attributes:
        needed, available: bytes.
    """

    exit_code = EXIT_MEMORY

    def __init__(
        self, message: str, *, needed: int = 0, available: int = 0, where: str = "", expected: str = "", found: str = ""
    ) -> None:
        super().__init__(message, where=where, expected=expected, found=found)
        self.needed = needed
        self.available = available


class ContextOverflowError(TurboSparseError):
    """Tokens do not fit the context; nothing is ever truncated silently.

    Attributes:
        needed: tokens that the request would put into the context (alias `n_prompt`).
        available: tokens that the context holds (alias `n_ctx`).
    """

    exit_code = EXIT_USAGE

    def __init__(
        self, message: str, *, needed: int = 0, available: int = 0, where: str = "", expected: str = "", found: str = ""
    ) -> None:
        super().__init__(message, where=where, expected=expected, found=found)
        self.needed = needed
        self.available = available

    @property
    def n_prompt(self) -> int:
        """Alias of needed."""
        return self.needed

    @property
    def n_ctx(self) -> int:
        """Alias of available."""
        return self.available
