"""Find, check and load the host libraries: the unmodified llama.cpp of llama-cpp-python.

The host is found without importing `llama_cpp` and loaded by absolute path, under the very
file names that `llama_cpp` and the libraries' own run paths use, so that a process holds one
copy whichever is imported first.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from ..errors import HostError
from ..hardware import cpu_flags

PACKAGE = "llama-cpp-python==0.3.36"
GGML_VERSION = "0.25.3"

# Dependencies first. Wheels hold copies instead of links, and glibc tells copies apart:
# llama_cpp opens `libllama.so`, whose run path pulls in the others as `*.so.0`.
BASE = "libggml-base.so.0"
CPU = "libggml-cpu.so.0"
REST = ("libggml.so.0", "libllama.so")

# What libggml-cpu says it was compiled for -> the flag of /proc/cpuinfo that running it takes.
CPU_FLAGS: Mapping[str, str] = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "avx": "avx",
    "avx_vnni": "avx_vnni",
    "avx2": "avx2",
    "bmi2": "bmi2",
    "f16c": "f16c",
    "fma": "fma",
    "avx512": "avx512f",
    "avx512_vbmi": "avx512vbmi",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
}


def install_command() -> str:
    """The command that builds the right host for this machine."""
    return f"pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python {PACKAGE}"


def find_directory() -> Path:
    """Directory of the host libraries. Raises HostError when the package is not installed."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise HostError(
            f"llama-cpp-python is not installed; turbosparse runs inside its libllama. Run: {install_command()}",
            where="llama_cpp",
            expected=PACKAGE,
            found="nothing",
        )
    return Path(spec.origin).parent / "lib"


def check_version(directory: Path) -> None:
    """Raise HostError unless `directory` holds exactly ggml GGML_VERSION; loads nothing."""
    stem = "libggml-base.so."
    versions = sorted(path.name.removeprefix(stem) for path in directory.glob(f"{stem}*.*.*"))
    if versions == [GGML_VERSION]:
        return
    shown = ", ".join(versions) or "none"
    raise HostError(
        f"{directory} holds ggml {shown}, turbosparse is built for ggml {GGML_VERSION} ({PACKAGE}). "
        f"Run: {install_command()}",
        where=str(directory),
        expected=GGML_VERSION,
        found=shown,
    )


def missing_flags(built_for: Mapping[str, bool], flags: set[str]) -> list[str]:
    """CPU flags that a library built with the features `built_for` takes and `flags` lacks."""
    if not flags:
        return []
    return [CPU_FLAGS[name] for name, used in built_for.items() if used and CPU_FLAGS[name] not in flags]


def features(libggml_cpu: ctypes.CDLL) -> dict[str, bool]:
    """What libggml-cpu was compiled with."""
    return {name: bool(getattr(libggml_cpu, f"ggml_cpu_has_{name}")()) for name in CPU_FLAGS}


def check_cpu(libggml_cpu: ctypes.CDLL, where: Path) -> None:
    """Raise HostError when the host was built for a CPU with more instructions than this one."""
    built_for = features(libggml_cpu)
    missing = missing_flags(built_for, cpu_flags())
    if missing:
        raise HostError(
            f"{where} was built for a CPU with {', '.join(missing)}, which this machine lacks; it would die of an "
            f"illegal instruction. Build it for this machine: {install_command()}",
            where=str(where),
            expected=f"a build without {', '.join(missing)}",
            found="a build with them",
        )


def load_library(path: Path) -> ctypes.CDLL:
    """Load one shared library by absolute path. Raises HostError with the linker's reason."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise HostError(
            f"{path} cannot be loaded: {error}. Run: {install_command()}",
            where=str(path),
            expected="a loadable library",
            found=str(error),
        ) from error


def load() -> Path:
    """Load the host libraries, checked, in order; returns their directory. Idempotent."""
    directory = find_directory()
    check_version(directory)
    load_library(directory / BASE)
    check_cpu(load_library(directory / CPU), directory / CPU)
    for name in REST:
        load_library(directory / name)
    return directory


def describe(directory: Path) -> dict[str, object]:
    """What the host in `directory` is, for people: version, commit, features, devices. Loads it, as load does."""
    load()
    base, registry = ctypes.CDLL(str(directory / BASE)), ctypes.CDLL(str(directory / REST[0]))
    built_for = features(ctypes.CDLL(str(directory / CPU)))
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for function in (
        base.ggml_version,
        base.ggml_commit,
        base.ggml_backend_dev_name,
        base.ggml_backend_dev_description,
    ):
        function.restype = ctypes.c_char_p
    base.ggml_backend_dev_name.argtypes = base.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    devices = map(registry.ggml_backend_dev_get, range(registry.ggml_backend_dev_count()))
    return {
        "ggml": base.ggml_version().decode(),
        "commit": base.ggml_commit().decode(),
        "features": [name for name, used in built_for.items() if used],
        "devices": [
            f"{base.ggml_backend_dev_name(device).decode()} ({base.ggml_backend_dev_description(device).decode()})"
            for device in devices
        ],
    }
