"""Emit the C source of the extension `turbosparse._native._ffi`.

    python build_ffi.py HEADER OUT.c

The cdef is the public header itself with preprocessor lines, comments and the two
decoration macros taken away; nothing is listed by hand, so header and binding
cannot drift apart. Needs cffi and no part of turbosparse.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MODULE = "turbosparse._native._ffi"
DECORATIONS = ("GGML_SPARSE_API", "GGML_SPARSE_NOEXCEPT")


def strip_comments(source: str) -> str:
    """`source` without // and /* */ comments; the header holds no string literals."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", source, flags=re.DOTALL)


def strip_preprocessor(source: str) -> str:
    """`source` without directives, the C++ branches of `#ifdef __cplusplus` left out.

    Branches of other conditionals are kept: in the header they hold directives only.
    """
    kept: list[str] = []
    in_cplusplus: list[bool] = []  # one entry per open conditional
    for line in source.replace("\\\n", " ").splitlines():
        directive = re.match(r"\s*#\s*(\w+)\s*(.*)", line)
        if directive is None:
            if not any(in_cplusplus):
                kept.append(line)
            continue
        word, rest = directive.groups()
        if word in ("if", "ifdef", "ifndef"):
            in_cplusplus.append(word == "ifdef" and rest.strip() == "__cplusplus")
        elif word == "else":
            in_cplusplus[-1] = False
        elif word == "endif":
            in_cplusplus.pop()
    return "\n".join(kept)


def derive_cdef(header: str) -> str:
    """The declarations of `header` as cffi reads them."""
    source = strip_preprocessor(strip_comments(header))
    for word in DECORATIONS:
        source = re.sub(rf"\b{word}\b", "", source)
    lines = (" ".join(line.split()) for line in source.splitlines())
    return "\n".join(line for line in lines if line) + "\n"


def emit(header: Path, out: Path) -> None:
    """Write the C source that binds `header` to `out`."""
    import cffi  # type: ignore[import-untyped]

    ffi = cffi.FFI()
    ffi.cdef(derive_cdef(header.read_text(encoding="utf-8")))
    ffi.set_source(MODULE, f'#include "{header.name}"\n', py_limited_api=True)
    ffi.emit_c_code(str(out))


def main(argv: list[str]) -> int:
    """Command line entry; returns the exit code."""
    if len(argv) != 3:
        print(f"usage: {Path(argv[0]).name} HEADER OUT.c", file=sys.stderr)
        return 2
    emit(Path(argv[1]), Path(argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
