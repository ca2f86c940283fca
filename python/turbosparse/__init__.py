"""TurboSparse: activation-sparse language models inside stock llama.cpp.

    from turbosparse import Model, stream

    with Model("m.gguf", mode="predicted") as model:
        for chunk in stream(model, "Once upon a time", max_tokens=64):
            print(chunk.text, end="", flush=True)

See turbosparse.generate for whole results. Importing the package loads no library; the first
use of Model does.
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
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from .generate import Chunk, Generation, Result, stream
    from .model import Model
    from .sampling import SamplingParams

__all__ = [
    "ArgumentError",
    "BackendError",
    "CancelledError",
    "Chunk",
    "ContextOverflowError",
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
    "UnsupportedModelError",
    "stream",
]

_LAZY = {
    "Chunk": "generate",
    "Generation": "generate",
    "Result": "generate",
    "stream": "generate",
    "Model": "model",
    "SamplingParams": "sampling",
}


def __getattr__(name: str) -> Any:
    """Heavy names on first use, so that `import turbosparse` and `turbosparse -h` stay fast."""
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("turbosparse")
    except PackageNotFoundError:
        return "0.0.0+checkout"
