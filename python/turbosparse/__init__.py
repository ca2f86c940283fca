"""TurboSparse: activation-sparse language models inside stock llama.cpp.

    from turbosparse import Model

    with Model() as model:  # the bundled one; Model("m.gguf", mode="predicted") opens a file
        for chunk in model.stream("Once upon a time", max_tokens=64):
            print(chunk.text, end="", flush=True)

AsyncModel is its twin for asyncio, turbosparse.compat.Llama speaks llama-cpp-python, and
docs/python-api.md tells the whole story. Importing the package loads no library; the first use
of Model does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    ArgumentError,
    BackendError,
    CancelledError,
    ContextOverflowError,
    FileError,
    GrammarError,
    HostError,
    ModelFormatError,
    OutOfMemoryError,
    TurboSparseError,
    UnknownArgumentError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from .aio import AsyncGeneration, AsyncModel
    from .api import Model
    from .cancel import CancelToken
    from .conversation import Conversation
    from .generate import Chunk, Generation, Result, stream
    from .sampling import SamplingParams

__all__ = [
    "ArgumentError",
    "AsyncGeneration",
    "AsyncModel",
    "BackendError",
    "CancelToken",
    "CancelledError",
    "Chunk",
    "ContextOverflowError",
    "Conversation",
    "FileError",
    "Generation",
    "GrammarError",
    "HostError",
    "Model",
    "ModelFormatError",
    "OutOfMemoryError",
    "Result",
    "SamplingParams",
    "TurboSparseError",
    "UnknownArgumentError",
    "UnsupportedModelError",
    "stream",
]

_LAZY = {
    "AsyncGeneration": "aio",
    "AsyncModel": "aio",
    "CancelToken": "cancel",
    "Chunk": "generate",
    "Conversation": "conversation",
    "Generation": "generate",
    "Model": "api",
    "Result": "generate",
    "SamplingParams": "sampling",
    "stream": "generate",
}


def __getattr__(name: str) -> Any:
    """Heavy names on first use, so that `import turbosparse` and `turbosparse -h` stay fast."""
    if name in _LAZY:
        return getattr(_import(_LAZY[name]), name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _import(module: str) -> Any:
    """A module of this package; a native library of another version lacks names and is told as HostError.

    Without this `from turbosparse import Model` would say no more than that it cannot.
    """
    try:
        return import_module(f"{__name__}.{module}")
    except AttributeError as error:
        raise HostError(
            f"the native library does not fit this turbosparse ({error}). Run: turbosparse doctor; "
            "pip install --force-reinstall --no-deps turbosparse, or in a checkout make setup",
            where=f"{__name__}.{module}",
            expected="a library built with this version",
            found=str(error),
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("turbosparse")
    except PackageNotFoundError:
        return "0.0.0+checkout"
