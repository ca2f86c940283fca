"""Finding, checking and loading the unmodified host libraries."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from turbosparse._native import host
from turbosparse.errors import HostError
from turbosparse.hardware import cpu_flags

from tests.python.sources import python

MAPPED = """
import re
names = set(re.findall(r"/\\S*/(lib(?:ggml|llama)[^/\\s]*)", open("/proc/self/maps").read()))
stems = sorted(re.match(r"lib[a-z-]+", name)[0] for name in names)
print(" ".join(stems))
"""


@pytest.mark.parametrize("imports", ["turbosparse._native, llama_cpp", "llama_cpp, turbosparse._native"])
def test_one_copy_of_each_library_in_either_import_order(imports: str) -> None:
    stems = python(f"import {imports}\n{MAPPED}").split()
    assert stems == ["libggml", "libggml-base", "libggml-cpu", "libggml-sparse", "libllama"]


def test_llama_cpp_is_not_imported() -> None:
    assert python("import sys, turbosparse._native; print('llama_cpp' in sys.modules)").strip() == "False"


def test_version_is_the_one_the_library_was_built_for() -> None:
    from turbosparse import _native

    assert _native.text(_native.lib.ggml_sparse_built_for()) == host.GGML_VERSION
    assert _native.text(_native.lib.ggml_sparse_host_version()) == host.GGML_VERSION


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["libggml-base.so.0.24.0"], "0.24.0"),
        (["libggml-base.so.1.0.0"], "1.0.0"),
        (["libggml-base.so.0.25.3", "libggml-base.so.0.26.0"], "0.25.3, 0.26.0"),
        (["libggml-base.so", "libggml-base.so.0"], "none"),
        ([], "none"),
    ],
)
def test_another_version_is_refused_before_loading(tmp_path: Path, files: list[str], found: str) -> None:
    for name in files:
        (tmp_path / name).write_text("not a library: loading it would fail otherwise")
    with pytest.raises(HostError) as caught:
        host.check_version(tmp_path)
    error = caught.value
    assert (error.expected, error.found, error.where) == ("0.25.3", found, str(tmp_path))
    assert error.exit_code == 7
    for part in (str(tmp_path), found, "0.25.3", "pip install", "llama-cpp-python==0.3.36"):
        assert part in str(error)


def test_the_right_version_passes(tmp_path: Path) -> None:
    for name in ("libggml-base.so", "libggml-base.so.0", "libggml-base.so.0.25.3"):
        (tmp_path / name).touch()
    host.check_version(tmp_path)


def test_a_missing_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HostError, match=r"llama-cpp-python is not installed.*pip install"):
        host.find_directory()


def test_an_unloadable_library_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "libggml-base.so.0"
    broken.write_text("no ELF")
    with pytest.raises(HostError, match=r"libggml-base\.so\.0 cannot be loaded: .*pip install") as caught:
        host.load_library(broken)
    assert caught.value.where == str(broken)


@pytest.mark.parametrize(
    ("built_for", "flags", "missing"),
    [
        ({"avx2": True, "avx512": True}, {"avx2"}, ["avx512f"]),
        ({"avx2": True, "avx512": False}, {"avx2"}, []),
        ({"sse3": True}, {"pni"}, []),
        ({"sse3": True, "amx_int8": True}, {"sse3"}, ["pni", "amx_int8"]),
        ({"avx2": True}, set(), []),  # no /proc/cpuinfo, nothing to go by
    ],
)
def test_missing_cpu_flags(built_for: dict[str, bool], flags: set[str], missing: list[str]) -> None:
    assert host.missing_flags(built_for, flags) == missing


class OtherBuild:
    """A libggml-cpu that was built for everything."""

    def __getattr__(self, name: str) -> Any:
        return lambda: 1


def test_a_build_for_another_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpu_flags", lambda: {"pni", "ssse3"})
    with pytest.raises(HostError, match=r"avx512f.*illegal instruction.*pip install") as caught:
        host.check_cpu(OtherBuild(), Path("lib/libggml-cpu.so.0"))  # type: ignore[arg-type]
    assert caught.value.where == "lib/libggml-cpu.so.0"


def test_this_machine_passes_and_says_so() -> None:
    """The flags that we look for are spelled as this kernel spells them: the installed build runs here."""
    host.load()
    assert len(cpu_flags() & set(host.CPU_FLAGS.values())) >= 4


def test_an_incomplete_installation_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from turbosparse import _native

    monkeypatch.setattr(_native, "_library_directories", lambda: [tmp_path / "lib", tmp_path])
    with pytest.raises(HostError, match=r"libggml-sparse\.so is in none of"):
        _native._find_library()
    (tmp_path / "libggml-sparse.so").touch()
    assert _native._find_library() == tmp_path / "libggml-sparse.so"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libggml-sparse.so").touch()
    assert _native._find_library() == tmp_path / "lib" / "libggml-sparse.so"


STALE = """
import turbosparse._native
turbosparse._native.lib = object()
try:
    from turbosparse import Model
except ImportError as error:
    print(type(error).__name__, error)
"""


def test_a_native_library_of_another_version_is_named() -> None:
    """Python code that is newer than the library: the usual state of a checkout after a pull."""
    said = python(STALE)
    assert said.startswith("HostError the native library does not fit")
    assert "make setup" in said
