"""Where the sources lie, for tests that read or run them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "ggml_sparse" / "include" / "ggml-sparse.h"
PACKAGE = ROOT / "python" / "turbosparse"
NATIVE = PACKAGE / "_native"
MICRO = ROOT / "models" / "turbosparse-micro"
HELDOUT = ROOT / "models" / "text" / "heldout.txt"


def load_build_ffi() -> ModuleType:
    """build_ffi.py is a build script: it is not part of the installed package."""
    spec = importlib.util.spec_from_file_location("build_ffi", NATIVE / "build_ffi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python(code: str, *arguments: str) -> str:
    """Standard output of `code` in a fresh interpreter, which must succeed."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
