"""The binding is derived from the public header: nothing left out, nothing added."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.python.sources import HEADER, NATIVE, load_build_ffi

build_ffi = load_build_ffi()


def header_functions() -> set[str]:
    text = HEADER.read_text(encoding="utf-8")
    declarations = re.findall(r"^GGML_SPARSE_API\b[^;(]*?(\w+)\s*\(", text, flags=re.MULTILINE)
    assert len(declarations) == len(re.findall(r"^GGML_SPARSE_API\b", text, flags=re.MULTILINE)) > 40
    return set(declarations)


def test_every_function_of_the_header_is_declared() -> None:
    cdef = build_ffi.derive_cdef(HEADER.read_text(encoding="utf-8"))
    assert set(re.findall(r"\b(ggml_sparse_\w+)\s*\(", cdef)) == header_functions()


def test_every_function_of_the_header_is_bound() -> None:
    from turbosparse import _native

    bound = {name for name in dir(_native.lib) if not name.startswith("GGML_SPARSE_")}
    assert bound == header_functions()


def test_every_enumerator_is_bound_with_its_value() -> None:
    from turbosparse import _native

    text = build_ffi.strip_comments(HEADER.read_text(encoding="utf-8"))
    declared = {name: int(value) for name, value in re.findall(r"\b(GGML_SPARSE_\w+)\s*=\s*(\d+)", text)}
    bound = {name: getattr(_native.lib, name) for name in dir(_native.lib) if name.startswith("GGML_SPARSE_")}
    assert declared == bound
    assert len(declared) > 20


def test_nothing_but_declarations_remains() -> None:
    cdef = build_ffi.derive_cdef(HEADER.read_text(encoding="utf-8"))
    for leftover in ("#", "//", "/*", 'extern "C"', "GGML_SPARSE_API", "NOEXCEPT"):
        assert leftover not in cdef


def test_preprocessor_keeps_the_c_side() -> None:
    source = "#if defined(A)\n#    define X \\\n  y\n#endif\n#ifdef __cplusplus\ncpp;\n#else\nc;\n#endif\nboth;\n"
    assert build_ffi.strip_preprocessor(source).split() == ["c;", "both;"]


def test_comments_go_and_code_between_them_stays() -> None:
    assert build_ffi.strip_comments("a; // b;\n/* c;\nd; */ e;").split() == ["a;", "e;"]


def test_the_script_emits_c(tmp_path: Path) -> None:
    out = tmp_path / "out.c"
    done = subprocess.run([sys.executable, NATIVE / "build_ffi.py", HEADER, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = out.read_text(encoding="utf-8")
    assert '#include "ggml-sparse.h"' in text
    assert all(name in text for name in header_functions())


@pytest.mark.parametrize("arguments", [[], ["only-one"]])
def test_the_script_explains_itself(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, NATIVE / "build_ffi.py", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: build_ffi.py HEADER OUT.c")
