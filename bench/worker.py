"""Times cases on request, in whichever build of turbosparse this interpreter has.

    {"case": "dot q4_0", "calls": 40}  ->  {"ns": 1234567}    CPU time

Started by bench/regress.py, once with the base's interpreter and once with the head's; the source is
the head's for both, so it uses only what both have.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from turbosparse import Model, ops

N_COL, N_FF = 4096, 2048
PAGE = 4096
N_READ, N_BYTES = 2048, 1 << 18  # rows per call, of a matrix of so many bytes
TYPES = ("q4_0", "q8_0", "q4_k", "q6_k", "f16")
DECODE_TOKENS = 4
Case = Callable[[], object]


def placed(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy that begins a page.

    Where numpy puts an array is luck that all processes of one environment share: rows that begin beside a cache
    line were a fifth slower than another environment's.
    """
    room = np.empty(values.nbytes + PAGE, np.uint8)
    begin = -room.ctypes.data % PAGE
    copy: np.ndarray[Any, Any] = room[begin : begin + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def rows(values: np.ndarray[Any, Any], kind: str) -> ops.Matrix:
    """Quantised, at a page's beginning."""
    w = ops.quantize(values, kind)
    return replace(w, data=placed(w.data))


def kernels(kind: str) -> dict[str, Case]:
    """Dot and axpy of a matrix that fits a core's own cache, read several times per call: they time arithmetic."""
    rng = np.random.default_rng(1)
    x = placed(rng.standard_normal((1, N_COL), np.float32))
    n_row = N_BYTES // ops.quantize(x, kind).data.nbytes
    w = rows(rng.standard_normal((n_row, N_COL), np.float32), kind)
    ids = (np.arange(N_READ, dtype=np.int32) % n_row)[None]
    h = rng.standard_normal(ids.shape, np.float32)
    found: dict[str, Case] = {
        f"dot {kind}": lambda: ops.gather_dot(w, x, ids),
        f"axpy {kind}": lambda: ops.gather_axpy(w, h, ids),
    }
    if hasattr(ops, "pack") and kind.startswith("q"):  # the layout of resident matrices, which older builds lack
        packed = ops.pack(w)
        packed = replace(packed, data=placed(packed.data))
        found[f"dot {kind} packed"] = lambda: ops.gather_dot(packed, x, ids)
    return found


def ffns(kind: str) -> dict[str, Case]:
    """An FFN with 10 % of its neurons active: one token exactly, and 32 at once."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((32, N_COL), np.float32)
    signs = np.where(np.arange(N_FF) % 10 == 0, 0.05, -0.05).astype(np.float32)
    gate = rng.standard_normal((N_FF, N_COL), np.float32) + signs[:, None] * x[0]
    up, down = (rng.standard_normal((N_FF, N_COL), np.float32) for _ in range(2))
    w: dict[str, Any] = {n: rows(m, kind) for n, m in (("gate", gate), ("up", up), ("down_t", down))}
    return {
        f"ffn exact {kind}": lambda: ops.ffn(x[:1], **w, mode="exact"),
        f"ffn dense {kind} x32": lambda: ops.ffn(x, **w, mode="dense"),
    }


def decode(file: str) -> dict[str, Case]:
    """A few tokens of a whole model, in both sparse modes."""
    model = Model(file, n_ctx=64, n_threads=1, memory="resident")

    def run(mode: str) -> None:
        model.reset()
        model.mode = mode
        for token in range(5, 5 + DECODE_TOKENS):
            model.eval([token])

    return {f"decode {mode}": lambda m=mode: run(m) for mode in ("exact", "predicted")}  # type: ignore[misc]


def cases(file: str) -> dict[str, Case]:
    """Everything that is compared, by name."""
    found: dict[str, Case] = {}
    for kind in TYPES:
        found |= kernels(kind)
    return found | ffns("q4_0") | decode(file)


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    known = cases(sys.argv[1])
    print(json.dumps(sorted(known)), file=answers, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        run, calls = known[ask["case"]], int(ask["calls"])
        run()  # the other side had the caches
        start = time.process_time_ns()  # all cases have one thread: what others do with the cores counts less
        for _ in range(calls):
            run()
        print(json.dumps({"ns": time.process_time_ns() - start}), file=answers, flush=True)


if __name__ == "__main__":
    main()
