"""The sparse operators on numpy arrays: the very kernels that the engine runs.

    >>> w = ops.quantize(weights, "q4_0")                  # float32 [n_row, n_col] -> Matrix
    >>> out = ops.gather_dot(w, x, ids)                    # w[ids] . x
    >>> y = ops.ffn(x, gate=g, up=u, down_t=d, mode="exact").y

Activations are float32, ids int32, row-major. Results are bit-equal for every n_threads and
for every split of the tokens into calls. The C side is the section "Operators" of
ggml-sparse.h. Wrong shapes, types and ids raise ArgumentError, unknown types and
instruction sets that this CPU lacks UnsupportedModelError.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from . import errors
from ._native import check, ffi, lib, new_error, read_struct, text
from .choices import ACTIVATIONS, ISAS, LAYOUTS, MODES, choose
from .options import Activation as Activation
from .options import Isa as Isa
from .options import Layout as Layout
from .options import Mode as Mode

Floats: TypeAlias = npt.NDArray[np.float32]
Ids: TypeAlias = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class TypeInfo:
    """One weight type of quants.def.

    Attributes:
        name: as in gguf, "q4_0".
        id: enum ggml_type.
        block_size: row lengths are multiples of it.
        type_size: bytes per block.
        x_name: type that activations are rounded to before a dot; "f32" = not at all.
    """

    name: str
    id: int
    block_size: int
    type_size: int
    x_name: str

    @property
    def bytes_per_value(self) -> float:
        """Scales included."""
        return self.type_size / self.block_size


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Rows of one weight type: data uint8 [n_row, bytes per row], each row n_col values.

    The bytes of a row lie side by side; rows may lie apart, as in every second row of an array (see pair).
    layout: how a row's bytes are ordered: "rows" as ggml does, "packed" or "sums" (see pack).
    """

    type: str
    n_col: int
    data: npt.NDArray[np.uint8]
    layout: Layout = "rows"

    def __post_init__(self) -> None:
        if self.data.ndim != 2 or self.data.dtype != np.uint8 or not self._has_whole_rows():
            found = f"{self.data.dtype} {list(self.data.shape)}, strides {list(self.data.strides)}"
            raise errors.ArgumentError(
                f"data must be uint8 [n_row, bytes] with contiguous rows, not {found}.",
                where="data",
                expected="uint8 [n_row, bytes] with contiguous rows",
                found=found,
            )

    def _has_whole_rows(self) -> bool:
        data = self.data
        return data.flags.c_contiguous or (data.strides[1] == 1 and data.strides[0] >= data.shape[1])

    @property
    def n_row(self) -> int:
        """Number of rows."""
        return int(self.data.shape[0])


@dataclasses.dataclass(frozen=True)
class FfnResult:
    """What ffn returns.

    Attributes:
        y: float32 [n_tokens, n_embd].
        mask: bool [n_tokens, n_ff], True where the neuron was selected.
        stats: the fields of ggml_sparse_layer_stats: rows computed, bytes read, neurons active.
    """

    y: Floats
    mask: npt.NDArray[np.bool_]
    stats: dict[str, int]


def types() -> list[TypeInfo]:
    """Every weight type that this build can run, in the order of quants.def."""
    infos = []
    for i in range(lib.ggml_sparse_type_count()):
        info = ffi.new("struct ggml_sparse_type_info *")
        lib.ggml_sparse_type_get(i, info)
        infos.append(
            TypeInfo(
                text(info.name),
                info.type,
                info.block_size,
                info.type_size,
                text(info.x_name),
            )
        )
    return infos


def isas() -> list[Isa]:
    """Instruction sets that this CPU can run, "generic" first, the best last."""
    usable = [name for name, isa in ISAS.items() if name != "auto" and lib.ggml_sparse_isa_usable(isa)]
    return cast("list[Isa]", usable)


def quantize(x: Floats, type: str) -> Matrix:
    """Round rows x, float32 [n_row, n_col], to a weight type with ggml's own quantiser."""
    info, rows = _type(type), _floats(x, 2, "x")
    n_row, n_col = rows.shape
    data = np.zeros((n_row, -(-n_col // info.block_size) * info.type_size), np.uint8)
    _call(lib.ggml_sparse_quantize, info.id, _in(rows), n_row, n_col, _out(data))
    return Matrix(info.name, n_col, data)


def pack(w: Matrix, layout: Layout = "packed") -> Matrix:
    """The same rows in another layout: "packed" is for dots, "sums" for sums of rows, "rows" is ggml's.

    Results are equal bits. Quantised types in rows of a multiple of 512 can be packed, q4_0 alone has "sums"; others
    raise UnsupportedModelError and ArgumentError. gather_axpy wants "rows", ffn's down_t and fc2_t "rows" or "sums".
    """
    data = np.empty(w.data.shape, np.uint8)
    _call(lib.ggml_sparse_pack, _matrix(w, "w"), choose("layout", layout, LAYOUTS), _out(data))
    return Matrix(w.type, w.n_col, data, layout)


def pair(a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """The same matrices with rows i side by side: so ffn reads gate and up fastest where a predictor picks neurons."""
    _same("b", a.data.shape, b.data.shape)
    both = np.stack([a.data, b.data], axis=1)
    return dataclasses.replace(a, data=both[:, 0]), dataclasses.replace(b, data=both[:, 1])


def dequantize(w: Matrix) -> Floats:
    """The values of a Matrix, float32 [n_row, n_col]."""
    dst = np.empty((w.n_row, w.n_col), np.float32)
    _call(lib.ggml_sparse_dequantize, _matrix(w, "w"), _out(dst, "float *"))
    return dst


def round_x(x: Floats, type: str) -> Floats:
    """Activations x, float32 [n, n_col], as a dot against `type` sees them: rounded to its x_name and back."""
    rows = _floats(x, 2, "x")
    dst = np.empty_like(rows)
    _call(lib.ggml_sparse_round_x, _type(type).id, _in(rows), *rows.shape, _out(dst, "float *"))
    return dst


def gather_dot(w: Matrix, x: Floats, ids: Ids, *, n_threads: int = 1, isa: Isa = "auto") -> Floats:
    """out[t, i] = w[ids[t, i]] . x[t]: x float32 [n_tokens, n_col], ids int32 [n_tokens, n_ids] -> float32 as ids.

    An id < 0 is skipped and gives 0; an id >= n_row raises ArgumentError.
    """
    rows, index = _floats(x, 2, "x"), _ids(ids)
    _same("x", (index.shape[0], w.n_col), rows.shape)
    out = np.empty(index.shape, np.float32)
    _call(
        lib.ggml_sparse_op_gather_dot,
        _matrix(w, "w"),
        _in(rows),
        _in(index, "int32_t *"),
        *index.shape,
        _out(out, "float *"),
        n_threads,
        choose("isa", isa, ISAS),
    )
    return out


def gather_axpy(w: Matrix, h: Floats, ids: Ids, *, n_threads: int = 1, isa: Isa = "auto") -> Floats:
    """y[t] = sum_i h[t, i] w[ids[t, i]]: h float32 and ids int32 [n_tokens, n_ids] -> float32 [n_tokens, n_col].

    Sums in ascending i, one FMA per element. Ids as in gather_dot.
    """
    scales, index = _floats(h, 2, "h"), _ids(ids)
    _same("h", index.shape, scales.shape)
    y = np.empty((index.shape[0], w.n_col), np.float32)
    _call(
        lib.ggml_sparse_op_gather_axpy,
        _matrix(w, "w"),
        _in(scales),
        _in(index, "int32_t *"),
        *index.shape,
        _out(y, "float *"),
        n_threads,
        choose("isa", isa, ISAS),
    )
    return y


def ffn(
    x: Floats,
    *,
    up: Matrix,
    down_t: Matrix,
    gate: Matrix | None = None,
    activation: Activation = "drelu",
    mode: Mode = "exact",
    first_branch: Literal["gate", "up"] = "gate",
    fc1: Matrix | None = None,
    fc2: Matrix | None = None,
    fc2_t: Matrix | None = None,
    pred_in_scale: Floats | None = None,
    threshold: float = 0.0,
    n_threads: int = 1,
    isa: Isa = "auto",
) -> FfnResult:
    """One sparse FFN of x, float32 [n_tokens, n_embd].

    drelu  y = down(relu(gate x) * relu(up x))        (arXiv 2406.05955, section 3.2)
    reglu  y = down(relu(gate x) * (up x))
    relu   y = down(relu(up x)), no gate

    Args:
        gate, up, down_t: [n_ff, n_embd], one row per neuron.
        mode: "dense" computes every row, "exact" the second branch and down only where needed (same bits),
            "predicted" only neurons with fc2 . relu(fc1 . (x * pred_in_scale)) > threshold, "reference" is
            scalar double code that selects by the predictor when fc1 is given.
        first_branch: which branch of drelu is evaluated first.
        fc1, fc2: [r, n_embd] and [n_ff, r], the predictor. fc2_t [r, n_ff] instead of fc2: rows of hidden units
            that are zero are not read. pred_in_scale: float32 [n_embd].
    """
    rows = _floats(x, 2, "x")
    _same("x", (rows.shape[0], up.n_col), rows.shape)
    params = ffi.new(
        "struct ggml_sparse_ffn *",
        {
            "activation": choose("activation", activation, ACTIVATIONS),
            "mode": choose("mode", mode, MODES),
            "first_branch": int(first_branch == "up"),
            "threshold": threshold,
        },
    )
    matrices = {"gate": gate, "up": up, "down_t": down_t, "fc1": fc1, "fc2": fc2, "fc2_t": fc2_t}
    for name, matrix in matrices.items():
        if matrix is not None:
            setattr(params, name, _matrix(matrix, name)[0])
    if pred_in_scale is not None:
        scale = _floats(pred_in_scale, 1, "pred_in_scale")  # params do not own it: alive until return
        _same("pred_in_scale", (up.n_col,), scale.shape)
        params.pred_in_scale = _in(scale)
    y, mask = np.empty_like(rows), np.empty((rows.shape[0], up.n_row), np.uint8)
    stats = ffi.new("struct ggml_sparse_layer_stats *")
    _call(
        lib.ggml_sparse_op_ffn,
        params,
        _in(rows),
        rows.shape[0],
        _out(y, "float *"),
        _out(mask, "uint8_t *"),
        stats,
        n_threads,
        choose("isa", isa, ISAS),
    )
    return FfnResult(y, mask.astype(bool), read_struct(stats))


def attention(
    q: Floats,
    k: Matrix,
    v: Matrix,
    mask: npt.NDArray[np.floating[Any]],
    *,
    scale: float | None = None,
    n_threads: int = 1,
    isa: Isa = "auto",
) -> Floats:
    """softmax(scale * q . k + mask) v: q float32 [n_tokens, n_head, d_k] -> float32 [n_tokens, n_head, d_v].

    Args:
        k, v: rows [n_kv, n_head_kv] of width d_k and d_v, multiples of 16, in f32, f16 or q8_0; head h reads KV head
            h // (n_head // n_head_kv).
        mask: [n_tokens, n_kv], rounded to float16; -inf hides a row. A token that sees none gets zeros.
        scale: None = 1 / sqrt(d_k).
    """
    heads, shown = _floats(q, 3, "q"), np.ascontiguousarray(mask, np.float16)
    n_tokens, n_head, d_k = heads.shape
    _same("q", (n_tokens, n_head, k.n_col), heads.shape)
    _same("mask", (n_tokens, *shown.shape[1:2]), shown.shape)
    out = np.empty((n_tokens, n_head, v.n_col), np.float32)
    _call(
        lib.ggml_sparse_op_attention,
        _matrix(k, "k"),
        _matrix(v, "v"),
        _in(heads),
        _in(shown, "uint16_t *"),
        n_tokens,
        n_head,
        shown.shape[1],
        d_k**-0.5 if scale is None else scale,
        _out(out, "float *"),
        n_threads,
        choose("isa", isa, ISAS),
    )
    return out


def _call(function: Any, *args: Any) -> None:
    err = new_error()
    check(function(*args, err), err)


def _type(name: str) -> TypeInfo:
    known = {info.name.lower(): info for info in types()}
    if name.lower() not in known:
        raise errors.UnsupportedModelError(
            f"{name} is not a weight type of this build; use one of {', '.join(known)}.",
            where="type",
            expected=", ".join(known),
            found=name,
        )
    return known[name.lower()]


def _same(what: str, expected: tuple[int, ...], found: tuple[int, ...]) -> None:
    if expected != found:
        raise errors.ArgumentError(
            f"{what} must have shape {list(expected)}, not {list(found)}.",
            where=what,
            expected=str(list(expected)),
            found=str(list(found)),
        )


def _floats(x: Floats, n_dim: int, what: str) -> Floats:
    array = np.ascontiguousarray(x, np.float32)
    if array.ndim != n_dim:
        raise errors.ArgumentError(
            f"{what} must have {n_dim} dimensions, not {array.ndim}.",
            where=what,
            expected=str(n_dim),
            found=str(array.ndim),
        )
    return array


def _ids(ids: Ids) -> Ids:
    array = np.asarray(ids)
    limits = np.iinfo(np.int32)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise errors.ArgumentError(
            f"ids must be integers [n_tokens, n_ids], not {array.dtype} with {array.ndim} dimensions.",
            where="ids",
            expected="int32 [n_tokens, n_ids]",
            found=f"{array.dtype}, {array.ndim}-d",
        )
    return np.ascontiguousarray(array.clip(limits.min, limits.max), np.int32)


def _in(array: npt.NDArray[Any], c_type: str = "float *") -> Any:
    """A pointer that keeps `array` alive."""
    return ffi.from_buffer(c_type, array)


def _out(array: npt.NDArray[Any], c_type: str = "void *") -> Any:
    return ffi.from_buffer(c_type, array, require_writable=True)


def _matrix(w: Matrix, what: str) -> Any:
    """struct ggml_sparse_matrix * over w, checked for its size. Points into w.data: keep w alive."""
    info = _type(w.type)
    _same(f"{what}.data", (w.n_row, w.n_col // info.block_size * info.type_size), w.data.shape)
    data = ffi.cast("uint8_t *", w.data.ctypes.data)
    stride = w.data.strides[0] if w.n_row > 1 else 0
    return ffi.new(
        "struct ggml_sparse_matrix *",
        (info.id, w.n_col, w.n_row, data, choose("layout", w.layout, LAYOUTS), stride),
    )
