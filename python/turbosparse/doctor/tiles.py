"""Multiply in libggml-cpu's AMX buffers, as llama_cpp.Llama does when it reads a prompt. A script:

    python tiles.py DIRECTORY_OF_THE_HOST_LIBRARIES

Prints {"amx": true} when the product is right, false when it is wrong, null when there are no such
buffers; on many machines it dies instead, which is what its parent wants to know. (GCC before 11.5,
12.4 and 13.3 drops most of the tile configuration: bug 114098.)
"""

from __future__ import annotations

import ctypes
import json
import struct
import sys
from itertools import count
from pathlib import Path
from typing import Any

F32, Q4_0 = 0, 2  # enum ggml_type
N, ROWS, COLUMNS = 256, 64, 32


class InitParams(ctypes.Structure):
    """struct ggml_init_params"""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Library:
    """Functions that take pointers, integers and bytes, and return a pointer or a size."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        function.restype = ctypes.c_void_p

        def call(*arguments: Any) -> Any:
            return function(*(ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments))

        return call


def amx_buffer_type(base: Library, cpu: Library) -> int | None:
    """The buffer type of that name, None when the CPU device has none."""
    registry = cpu.ggml_backend_cpu_reg()
    address = base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return None
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)
    types = listed(base.ggml_backend_reg_dev_get(registry, 0))
    for i in count():
        kind = types[i] if types else None
        if kind is None or ctypes.string_at(base.ggml_backend_buft_name(kind)) == b"AMX":
            return kind
    return None


def place(base: Library, tensor: int, kind: int, data: bytes | None = None) -> None:
    """Give a tensor memory of a buffer type, and its data."""
    buffer = base.ggml_backend_buft_alloc_buffer(kind, base.ggml_backend_buft_get_alloc_size(kind, tensor))
    base.ggml_backend_tensor_alloc(buffer, tensor, base.ggml_backend_buffer_get_base(buffer))
    if data is not None:
        base.ggml_backend_tensor_set(tensor, data, 0, len(data))


def product(base: Library, cpu: Library, kind: int) -> list[float]:
    """Rows of ones, in Q4_0, times columns of ones: each element is N."""
    context = base.ggml_init(InitParams(1 << 20, None, True))
    w = base.ggml_new_tensor_2d(context, Q4_0, N, ROWS)
    x = base.ggml_new_tensor_2d(context, F32, N, COLUMNS)
    y = base.ggml_mul_mat(context, w, x)
    plain = base.ggml_backend_cpu_buffer_type()
    place(base, w, kind, (b"\x00\x3c" + b"\x99" * 16) * (N // 32 * ROWS))  # scale 1.0, nibbles 9 - 8
    place(base, x, plain, struct.pack("f", 1.0) * (N * COLUMNS))
    place(base, y, plain)
    graph = base.ggml_new_graph(context)
    base.ggml_build_forward_expand(graph, y)
    backend = cpu.ggml_backend_cpu_init()
    cpu.ggml_backend_cpu_set_n_threads(backend, 1)
    base.ggml_backend_graph_compute(backend, graph)
    out = ctypes.create_string_buffer(4 * ROWS * COLUMNS)
    base.ggml_backend_tensor_get(y, out, 0, len(out))
    return list(struct.unpack(f"{ROWS * COLUMNS}f", out.raw))


def main(directory: Path) -> None:
    """Say what came out."""
    base, cpu = Library(directory / "libggml-base.so.0"), Library(directory / "libggml-cpu.so.0")
    kind = amx_buffer_type(base, cpu)
    right = None if kind is None else all(abs(y - N) < 1 for y in product(base, cpu, kind))
    print(json.dumps({"amx": right}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
