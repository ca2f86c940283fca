"""The host and the engine, tried step by step. A script of its own, for any step may crash:

    python probe.py host | engine | speed

Prints a JSON object per step done. The host is examined without our library, so that a missing or
mismatched one of either is told apart.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def tell(**facts: Any) -> None:
    """Print what is known so far."""
    print(json.dumps(facts), flush=True)


def load_host_module() -> ModuleType:
    """turbosparse._native.host, without what importing turbosparse._native does."""
    package = importlib.util.find_spec("turbosparse")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "_native" / "host.py"
    spec = importlib.util.spec_from_file_location("turbosparse._native.host", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def host() -> None:
    """llama.cpp: where, which version, built with what, which devices."""
    module = load_host_module()
    tell(expected=module.PACKAGE, ggml_expected=module.GGML_VERSION, command=module.install_command())
    try:
        directory = module.find_directory()
        tell(directory=str(directory))
        module.check_version(directory)
        tell(**module.describe(directory))
    except ImportError as error:  # HostError is one
        tell(error=str(error))


def engine() -> None:
    """libggml-sparse: loads, passes its self-test, computes alike with every instruction set, writes."""
    try:
        from turbosparse._native import ffi, lib, text
    except ImportError as error:
        tell(error=str(error))
        return
    tell(version=text(lib.ggml_sparse_version()), built_for=text(lib.ggml_sparse_built_for()))
    why = ffi.new("struct ggml_sparse_error *")
    if lib.ggml_sparse_init(why) != lib.GGML_SPARSE_OK:
        tell(error=text(why.message))
        return
    tell(selftest=True)
    tell(isas=isas())
    from turbosparse import Model, bundled

    with Model(bundled.default_model(), n_threads=1, n_ctx=64) as model:
        result = model.generate("Once upon a time", max_tokens=8, ignore_eos=True, temperature=0)
        tell(model=model.path.name, tokens=len(result.tokens), mode=model.mode)


def isas() -> dict[str, bool]:
    """Instruction set -> whether its kernels give the numbers of the portable ones, up to rounding."""
    import numpy as np

    from turbosparse import ops

    random = np.random.default_rng(0)
    x = random.standard_normal((2, 256), dtype=np.float32)
    weights = ops.quantize(random.standard_normal((32, 256), dtype=np.float32), "q4_0")
    ids = np.tile(np.arange(32, dtype=np.int32), (2, 1))
    expected = ops.gather_dot(weights, x, ids, isa="generic")
    scale = float(np.abs(expected).max())
    return {
        isa: bool(np.abs(ops.gather_dot(weights, x, ids, isa=isa) - expected).max() < 1e-3 * scale)
        for isa in ops.isas()
    }


def speed() -> None:
    """Bytes per second that all our threads read from memory."""
    from turbosparse.bandwidth import read_bandwidth
    from turbosparse.threads import default_threads

    threads = default_threads()
    tell(threads=threads, bandwidth=read_bandwidth(threads, n_bytes=256 << 20, passes=3))


if __name__ == "__main__":
    {"host": host, "engine": engine, "speed": speed}[sys.argv[1]]()
