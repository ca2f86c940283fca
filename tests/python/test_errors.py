"""C status codes become typed exceptions with their data."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest
import turbosparse
from turbosparse import _native as native
from turbosparse import errors

from tests.python.sources import HEADER

TYPES: dict[str, tuple[type[errors.TurboSparseError], type[Exception], int]] = {
    "ARGUMENT": (errors.ArgumentError, ValueError, 2),
    "FILE": (errors.FileError, OSError, 4),
    "FORMAT": (errors.ModelFormatError, ValueError, 4),
    "UNSUPPORTED": (errors.UnsupportedModelError, Exception, 3),
    "HOST": (errors.HostError, ImportError, 7),
    "MEMORY": (errors.OutOfMemoryError, MemoryError, 5),
    "CONTEXT": (errors.ContextOverflowError, Exception, 2),
    "CANCELLED": (errors.CancelledError, Exception, 130),
    "GRAMMAR": (errors.GrammarError, ValueError, 2),
    "BACKEND": (errors.BackendError, Exception, 8),
}


def c_error(**values: Any) -> Any:
    err = native.new_error()
    for name, value in values.items():
        setattr(err, name, value)
    return err


def test_every_status_of_the_header_has_a_type() -> None:
    declared = set(re.findall(r"GGML_SPARSE_ERR_(\w+)", HEADER.read_text(encoding="utf-8")))
    assert declared == set(TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_status_to_exception(name: str) -> None:
    kind, base, exit_code = TYPES[name]
    err = c_error(message=b"what is wrong", where=b"blk.0.x", expected=b"a", found="\u00fc".encode())
    with pytest.raises(kind) as caught:
        native.check(getattr(native.lib, f"GGML_SPARSE_ERR_{name}"), err)
    error = caught.value
    assert isinstance(error, base)
    assert isinstance(error, errors.TurboSparseError)
    assert str(error) == "what is wrong"
    assert (error.where, error.expected, error.found, error.exit_code) == ("blk.0.x", "a", "\u00fc", exit_code)


def test_ok_is_silent() -> None:
    native.check(native.lib.GGML_SPARSE_OK, c_error(message=b"left over"))


def test_numbers_are_carried() -> None:
    memory = native.to_exception(native.lib.GGML_SPARSE_ERR_MEMORY, c_error(message=b"m", needed=2**40, available=7))
    assert isinstance(memory, errors.OutOfMemoryError)
    assert (memory.needed, memory.available) == (2**40, 7)
    context = native.to_exception(
        native.lib.GGML_SPARSE_ERR_CONTEXT, c_error(message=b"m", needed=5000, available=4096)
    )
    assert isinstance(context, errors.ContextOverflowError)
    assert (context.n_prompt, context.n_ctx, context.needed, context.available) == (5000, 4096, 5000, 4096)


def test_an_unknown_status_is_a_backend_error() -> None:
    error = native.to_exception(99, native.new_error())
    assert type(error) is errors.BackendError
    assert "99" in str(error)


@pytest.mark.parametrize("kind", [kind for kind, _, _ in TYPES.values()])
def test_exceptions_survive_pickling(kind: type[errors.TurboSparseError]) -> None:
    again = pickle.loads(pickle.dumps(kind("text", where="w", expected="e", found="f")))
    assert (type(again), str(again), again.where, again.expected, again.found) == (kind, "text", "w", "e", "f")


def test_the_package_exports_them_all() -> None:
    kinds = {kind.__name__ for kind, _, _ in TYPES.values()} | {"TurboSparseError"}
    assert kinds <= set(turbosparse.__all__)
    assert all(getattr(turbosparse, name) is getattr(errors, name) for name in kinds)


def test_handles_are_freed_once_and_before_their_parents() -> None:
    freed: list[str] = []

    def handle(name: str, *parents: Any) -> Any:
        return native.own(native.ffi.new("char[]", 1), lambda pointer: freed.append(name), *parents)

    parent = handle("parent")
    child = handle("child", parent)
    del parent
    assert freed == []
    native.release(child)
    native.release(child)
    assert freed[0] == "child"
    del child
    assert freed == ["child", "parent"]
