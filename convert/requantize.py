"""GGUF -> GGUF with other types: the same tensors, keys and neuron order.

Matrices get the type as convert would give it; norms, router and maps stay. Quantised rows are taken
apart again only with `allow_requantize`, because the second rounding adds to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGUFValueType as V
from numpy.typing import NDArray

from . import keys
from .contract import check_contract
from .errors import UsageError
from .export import KV, Progress, Written, write_gguf
from .ggufile import GGUFFile, Info, Value
from .metadata import package_version
from .plan import PREDICTOR_TYPE, Planned, Types
from .quantize import FILE_TYPES, FLOATS, Type, decode, fitting_type, parse_type, type_name
from .sources import Array, Block, spans

KEEP = ("_norm.weight", "ffn_gate_inp.weight", "ffn_pred_in_scale", "_freq", "_perm")
FC1 = ("ffn_pred_fc1.weight", "ffn_pred_fc1_exps.weight")
FC2 = ("ffn_pred_fc2.weight", "ffn_pred_fc2_exps.weight")
FC2_T = ("ffn_pred_fc2_t.weight", "ffn_pred_fc2_t_exps.weight")


@dataclass(frozen=True)
class FileRows:
    """Rows of a tensor of a GGUF file: as stored (uint8) when the type stays, else as float32."""

    file: GGUFFile
    info: Info
    qtype: Type

    def blocks(self, n: int) -> Iterator[Block]:
        """All rows in order, about `n` per block."""
        for start, stop in spans(self.info.n_rows, n):
            yield stop - start, partial(self._read, start, stop)

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        data = self.file.rows(self.info, start, stop)
        return data if self.qtype is self.info.qtype else decode(data, self.info.qtype)


@dataclass(frozen=True)
class FileColumns:
    """A tensor {n_col, n_row[, n_expert]} with the columns of every expert's matrix as rows, float32."""

    file: GGUFFile
    info: Info

    def blocks(self, n: int) -> Iterator[Block]:
        """All rows in order, about `n` per block."""
        n_row = self.info.shape[1]
        for start, stop in spans(self.info.n_rows, n_row):
            matrix = decode(self.file.rows(self.info, start, stop), self.info.qtype)
            yield from Array(np.ascontiguousarray(matrix.T)).blocks(n)


def requantize(
    src: Path, out: Path, outtype: str, *, predictor_type: str | None = None, pure: bool = False,
    allow_requantize: bool = False, force: bool = False, threads: int | None = None,
    progress: Progress | None = None,
) -> Written:  # fmt: skip
    """Write `src` again as `out` in `outtype`; errors as for convert, and GGUFError for a broken `src`."""
    if out.exists() and src.exists() and out.samefile(src):
        raise UsageError(f"{out} is the input itself; name another output", path=str(out))
    with GGUFFile(src) as file:
        check_contract(file)
        types = Types(parse_type(outtype), parse_type(predictor_type) if predictor_type else None, pure)
        planned = [_planned(file, info, types, allow_requantize) for info in file.tensors.values()]
        kv = _kv(file, types.out)
        if any(t.name.endswith(FC2_T) for t in planned):
            kv[keys.REQUIRED_FEATURES] = (V.ARRAY, [keys.FEATURE_FC2_T])
        return write_gguf(out, kv, planned, force=force, threads=threads, progress=progress)


def _planned(file: GGUFFile, info: Info, types: Types, allow: bool) -> Planned:
    qtype = _target(info, types)
    fits = fitting_type(qtype, info.shape[0])
    if fits is not info.qtype and info.qtype not in FLOATS and not allow:
        raise UsageError(
            f"tensor {info.name} is {type_name(info.qtype)} already; rounding it again to {type_name(fits)} loses more "
            "than quantising the original would. Start from an f16, bf16 or f32 file, or pass --allow-requantize",
            tensor=info.name,
            found=type_name(info.qtype),
        )
    wanted = qtype if fits is not qtype else None
    if info.name.endswith(FC2) and info.qtype in FLOATS and types.fc2_by_unit(qtype, info.shape[1]):
        return _by_unit(file, info, qtype)
    return Planned(info.name, info.shape, fits, FileRows(file, info, fits), wanted)


def _by_unit(file: GGUFFile, info: Info, qtype: Type) -> Planned:
    """fc2 as convert stores it where predictors are quantised."""
    rank, n_ff, *experts = info.shape
    fits = fitting_type(qtype, n_ff)
    name = info.name.replace("ffn_pred_fc2", "ffn_pred_fc2_t")
    return Planned(name, (n_ff, rank, *experts), fits, FileColumns(file, info), qtype if fits is not qtype else None)


def _target(info: Info, types: Types) -> Type:
    if info.name.endswith(KEEP):
        return info.qtype
    if info.name.endswith(FC1 + FC2 + FC2_T):
        if types.predictor is None and (types.out in FLOATS or info.qtype not in FLOATS):
            return info.qtype
        return types.predictor or PREDICTOR_TYPE
    return types.output() if info.name == keys.OUTPUT else types.out


def _kv(file: GGUFFile, outtype: Type) -> KV:
    kv: KV = {key: (value.vtype, _raw(value)) for key, value in file.values.items() if key != keys.GENERAL_ALIGNMENT}
    kv[keys.GENERAL_FILE_TYPE] = (V.UINT32, FILE_TYPES[outtype])
    kv[keys.CONVERTER] = (V.STRING, f"turbosparse {package_version()}, quantize to {type_name(outtype)}")
    if outtype not in FLOATS:
        kv[keys.GENERAL_QUANTIZATION_VERSION] = (V.UINT32, 2)
    return kv


def _raw(value: Value) -> Any:
    """The value as the writer takes it: text as the bytes it came from, arrays with their element type."""
    if value.vtype is V.STRING:
        return value.value.encode("utf-8", "surrogateescape")
    if value.vtype is not V.ARRAY:
        return value.value
    items = value.value
    if value.sub_type is V.STRING:
        items = [item.encode("utf-8", "surrogateescape") for item in items]
    return TypedArray(items, value.sub_type)


class TypedArray(list[Any]):
    """An array whose element type is not to be guessed from its first element."""

    def __init__(self, items: list[Any], sub_type: V | None) -> None:
        super().__init__(items)
        self.sub_type = sub_type
