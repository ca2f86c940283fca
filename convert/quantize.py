"""Weights to ggml types: row blocks of float32 in, bytes out.

F32, F16 and BF16 are numpy; every block type goes through libggml-base's public
ggml_quantize_chunk, found beside the llama_cpp package without importing it. ctypes releases the
GIL, so row blocks can be quantised by several threads.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from .errors import MissingPackageError, UsageError

T = GGMLQuantizationType
Type = GGMLQuantizationType

# Names that --outtype takes; the order is that of the help text.
TYPES: dict[str, Type] = {
    "f32": T.F32, "f16": T.F16, "bf16": T.BF16,
    "q8_0": T.Q8_0, "q4_0": T.Q4_0, "q4_1": T.Q4_1, "q5_0": T.Q5_0, "q5_1": T.Q5_1,
    "q4_k": T.Q4_K, "q5_k": T.Q5_K, "q6_k": T.Q6_K,
}  # fmt: skip
FLOATS = (T.F32, T.F16, T.BF16)
# general.file_type of a file whose matrices mostly have the type (llama_ftype).
FILE_TYPES = {
    T.F32: 0, T.F16: 1, T.BF16: 32, T.Q4_0: 2, T.Q4_1: 3, T.Q8_0: 7, T.Q5_0: 8, T.Q5_1: 9,
    T.Q4_K: 15, T.Q5_K: 17, T.Q6_K: 18,
}  # fmt: skip
# What llama-quantize writes when a row is not a multiple of 256.
FALLBACK = {T.Q4_K: T.Q5_0, T.Q5_K: T.Q5_1, T.Q6_K: T.Q8_0}
# What a tensor of this storage type is kept in without loss.
EXACT = {"F32": T.F32, "F16": T.F16, "BF16": T.BF16}


def parse_type(name: str) -> Type:
    """The ggml type called `name`, any case; UsageError lists the known ones."""
    try:
        return TYPES[name.lower()]
    except KeyError:
        raise UsageError(f"unknown type {name!r}; known: {', '.join(TYPES)}", found=name) from None


def type_name(qtype: Type) -> str:
    """As in --outtype: "q4_0"."""
    return qtype.name.lower()


def block_size(qtype: Type) -> int:
    """Elements per block; a row must be a multiple of it."""
    return GGML_QUANT_SIZES[qtype][0]


def row_bytes(qtype: Type, n_cols: int) -> int:
    """Bytes of a row of `n_cols` elements, a multiple of the block size."""
    block, size = GGML_QUANT_SIZES[qtype]
    return n_cols // block * size


def fitting_type(qtype: Type, n_cols: int) -> Type:
    """`qtype`, or what it falls back to when a row of `n_cols` does not fill its blocks."""
    if n_cols % block_size(qtype) == 0:
        return qtype
    qtype = FALLBACK.get(qtype, qtype)
    return qtype if n_cols % block_size(qtype) == 0 else T.F16


def to_f32(raw: NDArray[Any]) -> NDArray[np.float32]:
    """Storage type to float32, exactly. uint16 means bfloat16 bits."""
    if raw.dtype == np.float32:
        return raw
    if raw.dtype == np.uint16:
        wide = raw.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return raw.astype(np.float32)


def to_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even, as ggml does. NaN stays NaN."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    quiet = (bits >> 16) | 64
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, quiet, rounded).astype(np.uint16)


def encode(raw: NDArray[Any], qtype: Type) -> NDArray[np.uint8]:
    """Rows [n, n_cols] in a storage type -> [n, row_bytes] of `qtype`."""
    if (raw.dtype == np.uint16 and qtype is T.BF16) or (raw.dtype == np.float16 and qtype is T.F16):
        out: NDArray[Any] = np.ascontiguousarray(raw)
    elif qtype is T.F32:
        out = np.ascontiguousarray(to_f32(raw))
    elif qtype is T.F16:
        with np.errstate(over="ignore"):  # the caller refuses infinities by name
            out = np.ascontiguousarray(to_f32(raw).astype(np.float16))
    elif qtype is T.BF16:
        out = to_bf16(to_f32(raw))
    elif qtype is T.I32:
        out = np.ascontiguousarray(raw, np.int32)
    else:
        out = quantize_rows(to_f32(raw), qtype)
    return out.view(np.uint8).reshape(len(raw), -1)


def decode(data: NDArray[np.uint8], qtype: Type) -> NDArray[np.float32]:
    """[n, row_bytes] of `qtype` -> float32 [n, n_cols]."""
    if qtype is T.BF16:
        return to_f32(data.view(np.uint16))
    if qtype in (T.F32, T.F16):
        return to_f32(data.view(np.float32 if qtype is T.F32 else np.float16))
    from gguf.quants import dequantize

    out: NDArray[np.float32] = dequantize(data, qtype)
    return out


def quantize_rows(x: NDArray[np.float32], qtype: Type) -> NDArray[np.uint8]:
    """float32 [n, n_cols] -> blocks [n, row_bytes], by ggml's own quantiser."""
    n_rows, n_cols = x.shape
    x = np.ascontiguousarray(x)
    out = np.empty((n_rows, row_bytes(qtype, n_cols)), np.uint8)
    written = _ggml().ggml_quantize_chunk(int(qtype), x.ctypes.data, out.ctypes.data, 0, n_rows, n_cols, None)
    if written != out.nbytes:
        raise RuntimeError(f"ggml_quantize_chunk wrote {written} bytes of {type_name(qtype)}, expected {out.nbytes}")
    return out


@functools.cache
def _ggml() -> Any:
    """libggml-base, loaded once. ggml_quantize_chunk initialises a type on first use under a lock."""
    spec = importlib.util.find_spec("llama_cpp")
    folder = Path(spec.origin).parent / "lib" if spec and spec.origin else None
    names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
    found = [folder / name for name in names if (folder / name).is_file()] if folder else []
    if not found:
        raise MissingPackageError(
            "quantised types need ggml's library: pip install llama-cpp-python==0.3.36, or use f32, f16 or bf16",
            package="llama-cpp-python",
        )
    lib = ctypes.CDLL(str(found[0]))
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return lib
