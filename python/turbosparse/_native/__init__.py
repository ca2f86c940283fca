"""The only module that knows C: `include/ggml-sparse.h` through cffi in API mode.

Importing it loads the host libraries and libggml-sparse, or raises HostError with the
command that mends it. Nothing outside this package touches `ffi` types but by the names
exported here.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import errors
from . import host

LIBRARY = "libggml-sparse.so"
REBUILD = "pip install --force-reinstall --no-deps turbosparse, or `make` in a checkout"


def _library_directories() -> list[Path]:
    """Where libggml-sparse may lie: beside the extension, or in `lib` below it or this package."""
    spec = importlib.util.find_spec(f"{__name__}._ffi")
    parents = [Path(spec.origin).parent] if spec is not None and spec.origin is not None else []
    parents.append(Path(__file__).parent)
    return [directory for parent in parents for directory in (parent / "lib", parent)]


def _find_library() -> Path:
    directories = _library_directories()
    for directory in directories:
        if (directory / LIBRARY).is_file():
            return directory / LIBRARY
    searched = ", ".join(str(directory) for directory in dict.fromkeys(directories))
    raise errors.HostError(
        f"{LIBRARY} is in none of {searched}: this installation is not complete. Run: {REBUILD}",
        where=LIBRARY,
        expected=searched,
        found="nothing",
    )


def _load() -> Any:
    """The extension module, with everything that it links to loaded before it."""
    host.load()
    host.load_library(_find_library())
    try:
        return importlib.import_module(f"{__name__}._ffi")
    except ImportError as error:
        raise errors.HostError(
            f"the extension {__name__}._ffi cannot be imported ({error}). Run: {REBUILD}",
            where=f"{__name__}._ffi",
            expected="a loadable extension",
            found=str(error),
        ) from error


_ffi = _load()
ffi: Any = _ffi.ffi
lib: Any = _ffi.lib


def new_error() -> Any:
    """A fresh `struct ggml_sparse_error *` for one call."""
    return ffi.new("struct ggml_sparse_error *")


def text(chars: Any) -> str:
    """A C string as Python text; "" for NULL."""
    return ffi.string(chars).decode("utf-8", "replace") if chars else ""


def _error_types() -> dict[int, type[errors.TurboSparseError]]:
    return {
        lib.GGML_SPARSE_ERR_ARGUMENT: errors.ArgumentError,
        lib.GGML_SPARSE_ERR_FILE: errors.FileError,
        lib.GGML_SPARSE_ERR_FORMAT: errors.ModelFormatError,
        lib.GGML_SPARSE_ERR_UNSUPPORTED: errors.UnsupportedModelError,
        lib.GGML_SPARSE_ERR_HOST: errors.HostError,
        lib.GGML_SPARSE_ERR_MEMORY: errors.OutOfMemoryError,
        lib.GGML_SPARSE_ERR_CONTEXT: errors.ContextOverflowError,
        lib.GGML_SPARSE_ERR_CANCELLED: errors.CancelledError,
        lib.GGML_SPARSE_ERR_GRAMMAR: errors.GrammarError,
        lib.GGML_SPARSE_ERR_BACKEND: errors.BackendError,
    }


def to_exception(status: int, err: Any) -> errors.TurboSparseError:
    """The exception that says what a failed call put into `err`."""
    kind = _error_types().get(status, errors.BackendError)
    data: dict[str, Any] = {name: text(getattr(err, name)) for name in ("where", "expected", "found")}
    if issubclass(kind, (errors.OutOfMemoryError, errors.ContextOverflowError)):
        data.update(needed=err.needed, available=err.available)
    return kind(text(err.message) or f"ggml-sparse failed with status {status}", **data)


def check(status: int, err: Any) -> None:
    """Raise what `status` and `err` (from new_error) say, or return when the call succeeded."""
    if status != lib.GGML_SPARSE_OK:
        raise to_exception(status, err)


def own(handle: Any, free: Callable[[Any], None], *parents: Any) -> Any:
    """`handle`, freed with its last reference (or by release) and before its `parents`."""

    def finalise(pointer: Any, _parents: tuple[Any, ...] = parents) -> None:
        free(pointer)

    return ffi.gc(handle, finalise)


def release(handle: Any) -> None:
    """Free an owned handle now; a second call does nothing."""
    ffi.release(handle)


def read_struct(struct: Any) -> dict[str, Any]:
    """Fields of a flat C struct: text for char arrays, int for enums and integers, bool, float."""
    kind = ffi.typeof(struct)
    fields = (kind.item if kind.kind == "pointer" else kind).fields
    return {name: _field(struct, name, field.type) for name, field in fields}


def _field(struct: Any, name: str, kind: Any) -> Any:
    value = getattr(struct, name)
    if kind.kind == "struct":
        return read_struct(value)
    return text(value) if kind.kind == "array" else value
