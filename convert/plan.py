"""What will be written: every tensor with its type, shape, size and source, decided before a byte is.

Nothing of the checkpoint is dropped silently: a tensor that no rule takes is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import keys
from .arch import Family, Hparams
from .arch import base as hf
from .checkpoint import Tensor
from .errors import CheckpointError, UnsupportedModelError
from .neurons import LayerOrder, Stats
from .predictor import Predictors
from .quantize import EXACT, FLOATS, T, Type, fitting_type, row_bytes, to_f32, type_name
from .sources import Array, Columns, Elements, RopeRows, Rows, Source, Stack

# Types for which llama-quantize gives the output matrix more bits: logits suffer first.
# Of quantised files: half the bytes of Q8_0 for 0.3 points of recall and 0.2 % of perplexity (docs/selection.md).
PREDICTOR_TYPE = T.Q4_0
OUTPUT_Q6_K = (T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q4_K, T.Q5_K)


@dataclass(frozen=True)
class Planned:
    """A tensor of the file. `shape` is in ggml order, fastest dimension first."""

    name: str
    shape: tuple[int, ...]
    qtype: Type
    source: Source
    wanted: Type | None = None  # the type asked for, where its blocks do not fit the width
    origin: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        """Rows of shape[0] elements."""
        return math.prod(self.shape[1:])

    @property
    def n_bytes(self) -> int:
        """Bytes without padding."""
        return row_bytes(self.qtype, self.shape[0]) * self.n_rows


@dataclass(frozen=True)
class Types:
    """Which type each kind of matrix gets, and how fc2 is stored.

    `predictor` None keeps predictors as trained, or takes PREDICTOR_TYPE where the matrices are quantised.
    `by_unit` None stores fc2 by hidden unit where predictors are quantised, and as trained otherwise.
    """

    out: Type
    predictor: Type | None = None
    pure: bool = False  # the output matrix gets `out` too
    by_unit: bool | None = None

    def output(self) -> Type:
        """Type of output.weight: at least Q6_K, as llama-quantize does, unless pure."""
        return T.Q6_K if self.out in OUTPUT_Q6_K and not self.pure else self.out

    def for_predictor(self, dtype: str) -> Type:
        """Type of a predictor trained in storage type `dtype`."""
        if self.predictor is not None:
            return self.predictor
        return EXACT[dtype] if self.out in FLOATS else PREDICTOR_TYPE

    def fc2_by_unit(self, qtype: Type, n_ff: int) -> bool:
        """Whether fc2 of this type becomes fc2_t, whose rows are n_ff long."""
        fits = fitting_type(qtype, n_ff) not in FLOATS
        return (qtype not in FLOATS and fits) if self.by_unit is None else self.by_unit


@dataclass
class Plan:
    """The tensors in file order, the predictors' ranks per layer, and what the user should know."""

    tensors: list[Planned]
    ranks: list[int]
    ignored: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)  # required_features of the file

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors, each padded to the alignment."""
        return sum(-(-t.n_bytes // keys.ALIGNMENT) * keys.ALIGNMENT for t in self.tensors)

    @property
    def fallbacks(self) -> list[Planned]:
        """Tensors whose width does not fit the blocks of the type asked for."""
        return [t for t in self.tensors if t.wanted is not None]


@dataclass
class _Builder:
    hp: Hparams
    family: Family
    types: Types
    tensors: Mapping[str, Tensor]
    stats: Stats | None
    used: set[str] = field(default_factory=set)
    out: list[Planned] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)

    def take(self, name: str, shape: tuple[int | None, ...]) -> Tensor:
        """The tensor `name` of the checkpoint; None in `shape` stands for any size above 0."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"the checkpoint has no tensor {name}", tensor=name)
        found = tensor.shape
        same = len(found) == len(shape) and all(
            n > 0 and want in (n, None) for n, want in zip(found, shape, strict=True)
        )
        if not same:
            expected = ["any" if n is None else n for n in shape]
            raise CheckpointError(
                f"tensor {name} has shape {list(found)}, config.json implies {expected}",
                tensor=name,
                expected=expected,
                found=list(found),
            )
        if tensor.dtype not in EXACT:
            known = ", ".join(EXACT)
            raise CheckpointError(f"tensor {name} is {tensor.dtype}; known weight types: {known}", tensor=name)
        self.used.add(name)
        return tensor

    def matrix(self, name: str, source: Source, shape: tuple[int, ...], qtype: Type, origin: Sequence[Tensor]) -> None:
        fits = fitting_type(qtype, shape[0])
        wanted = qtype if fits is not qtype else None
        self.out.append(Planned(name, shape, fits, source, wanted, tuple(t.name for t in origin)))

    def array(self, name: str, rows: NDArray[np.float32] | NDArray[np.int32], origin: tuple[str, ...] = ()) -> None:
        """A small tensor, kept as it is: F32 or I32."""
        qtype = T.I32 if rows.dtype == np.int32 else T.F32
        flat = rows.reshape(-1, rows.shape[-1])
        self.out.append(Planned(name, rows.shape[::-1], qtype, Array(flat), origin=origin))

    def norm(self, name: str, source: str) -> NDArray[np.float32]:
        tensor = self.take(source, (self.hp.n_embd,))
        w = to_f32(tensor.read(0, self.hp.n_embd))
        if not np.isfinite(w).all():
            at = int(np.flatnonzero(~np.isfinite(w))[0])
            raise CheckpointError(f"tensor {source} holds {w[at]} at element {at}", tensor=source, found=float(w[at]))
        self.array(name, w, (source,))
        return w

    def rope(self, name: str, source: str, n_head: int) -> None:
        hp = self.hp
        tensor = self.take(source, (n_head * hp.head_dim, hp.n_embd))
        self.matrix(name, RopeRows(tensor, hp.head_dim), tensor.shape[::-1], self.types.out, [tensor])

    def plain(self, name: str, source: str, shape: tuple[int | None, ...], qtype: Type) -> None:
        tensor = self.take(source, shape)
        self.matrix(name, Rows(tensor), tensor.shape[::-1], qtype, [tensor])


def build_plan(
    tensors: Mapping[str, Tensor],
    family: Family,
    hp: Hparams,
    types: Types,
    *,
    predictors: Predictors | None = None,
    stats: Stats | None = None,
) -> Plan:
    """Lay out the file. Raises CheckpointError for missing, misshapen or unknown tensors."""
    outside = predictors.tensors if predictors else {}
    twice = sorted(set(outside) & set(tensors))
    if twice:
        raise CheckpointError(f"{twice[0]} is both in the checkpoint and in the predictor directory", tensors=twice)
    b = _Builder(hp, family, types, {**tensors, **outside}, stats)
    b.plain(keys.TOKEN_EMBD, hf.TOKEN_EMBD, (hp.n_vocab, hp.n_embd), types.out)
    b.norm(keys.OUTPUT_NORM, hf.OUTPUT_NORM)
    if hf.OUTPUT in b.tensors:  # absent when tied to token_embd
        b.plain(keys.OUTPUT, hf.OUTPUT, (hp.n_vocab, hp.n_embd), types.output())
    for il in range(hp.n_layer):
        _attention(b, il)
        _ffn(b, il)
    fc2_t = any(".ffn_pred_fc2_t" in t.name for t in b.out)
    return Plan(b.out, b.ranks, _leftovers(b), [keys.FEATURE_FC2_T] if fc2_t else [])


def _attention(b: _Builder, il: int) -> None:
    hp, out = b.hp, b.types.out
    b.norm(keys.ATTN_NORM.format(il), hf.ATTN_NORM.format(il=il))
    b.rope(keys.ATTN_Q.format(il), hf.ATTN_Q.format(il=il), hp.n_head)
    b.rope(keys.ATTN_K.format(il), hf.ATTN_K.format(il=il), hp.n_head_kv)
    b.plain(keys.ATTN_V.format(il), hf.ATTN_V.format(il=il), (hp.n_head_kv * hp.head_dim, hp.n_embd), out)
    b.plain(keys.ATTN_OUTPUT.format(il), hf.ATTN_OUTPUT.format(il=il), (hp.n_embd, hp.n_head * hp.head_dim), out)


def _ffn(b: _Builder, il: int) -> None:
    hp, names, out = b.hp, b.family.ffn, b.types.out
    order = b.stats.layers[il] if b.stats else None
    norm = b.norm(keys.FFN_NORM.format(il), hf.FFN_NORM.format(il=il))
    if hp.n_expert:
        router = b.take(names.router.format(il=il), (hp.n_expert, hp.n_embd))
        b.out.append(
            Planned(keys.FFN_GATE_INP.format(il), router.shape[::-1], T.F32, Rows(router), origin=(router.name,))
        )
    moe = hp.n_expert > 0
    _stack(b, il, order, keys.FFN_GATE_EXPS if moe else keys.FFN_GATE, names.gate, out)
    _stack(b, il, order, keys.FFN_UP_EXPS if moe else keys.FFN_UP, names.up, out)
    _down(b, il, order)
    _predictor(b, il, order, norm)
    if order is not None:
        _maps(b, il, order)


def _experts(b: _Builder, il: int, template: str, shape: tuple[int | None, ...]) -> list[Tensor]:
    """The tensor of a dense layer, or one per expert."""
    return [b.take(template.format(il=il, e=e), shape) for e in range(max(b.hp.n_expert, 1))]


def _perm(order: LayerOrder | None, e: int) -> NDArray[np.int32] | None:
    return None if order is None else order.perm[e]


def _shape(b: _Builder, n_cols: int, n_rows: int) -> tuple[int, ...]:
    return (n_cols, n_rows, b.hp.n_expert) if b.hp.n_expert else (n_cols, n_rows)


def _stack(b: _Builder, il: int, order: LayerOrder | None, key: str, template: str, qtype: Type) -> None:
    """gate or up: rows are neurons."""
    experts = _experts(b, il, template, (b.hp.n_ff, b.hp.n_embd))
    source = Stack([Rows(t, _perm(order, e)) for e, t in enumerate(experts)])
    b.matrix(key.format(il), source, _shape(b, b.hp.n_embd, b.hp.n_ff), qtype, experts)


def _down(b: _Builder, il: int, order: LayerOrder | None) -> None:
    hp = b.hp
    experts = _experts(b, il, b.family.ffn.down, (hp.n_embd, hp.n_ff))
    source = Stack([Columns(t, _perm(order, e)) for e, t in enumerate(experts)])
    key = keys.FFN_DOWN_T_EXPS if hp.n_expert else keys.FFN_DOWN_T
    b.matrix(key.format(il), source, _shape(b, hp.n_embd, hp.n_ff), b.types.out, experts)


def _predictor(b: _Builder, il: int, order: LayerOrder | None, norm: NDArray[np.float32]) -> None:
    hp, names = b.hp, b.family.ffn
    if names.fc1.format(il=il, e=0) not in b.tensors:
        b.ranks.append(0)  # the layer runs exactly; a lone fc2 is reported as left over
        return
    rank = b.take(names.fc1.format(il=il, e=0), (None, hp.n_embd)).shape[0]
    fc1 = _experts(b, il, names.fc1, (rank, hp.n_embd))
    fc2 = _experts(b, il, names.fc2, (hp.n_ff, rank))
    qtype = b.types.for_predictor(fc1[0].dtype)
    key = keys.FFN_PRED_FC1_EXPS if hp.n_expert else keys.FFN_PRED_FC1
    b.matrix(key.format(il), Stack([Rows(t) for t in fc1]), _shape(b, hp.n_embd, rank), qtype, fc1)
    if b.types.fc2_by_unit(qtype, hp.n_ff):
        key = keys.FFN_PRED_FC2_T_EXPS if hp.n_expert else keys.FFN_PRED_FC2_T
        source = Stack([_by_unit(t, _perm(order, e)) for e, t in enumerate(fc2)])
        b.matrix(key.format(il), source, _shape(b, hp.n_ff, rank), qtype, fc2)
    else:
        key = keys.FFN_PRED_FC2_EXPS if hp.n_expert else keys.FFN_PRED_FC2
        source = Stack([Rows(t, _perm(order, e)) for e, t in enumerate(fc2)])
        b.matrix(key.format(il), source, _shape(b, rank, hp.n_ff), qtype, fc2)
    if b.family.pre_norm:
        b.array(keys.FFN_PRED_IN_SCALE.format(il), in_scale(norm, il))
    b.ranks.append(rank)


def _by_unit(fc2: Tensor, perm: NDArray[np.int32] | None) -> Source:
    """Columns of fc2 [n_ff, r] as rows, neurons in stored order."""
    return Columns(fc2) if perm is None else Elements(Columns(fc2), perm)


def in_scale(norm: NDArray[np.float32], il: int) -> NDArray[np.float32]:
    """1/w of the FFN's RMSNorm [n_embd]; UnsupportedModelError when it is not finite."""
    with np.errstate(divide="ignore", over="ignore"):
        scale: NDArray[np.float32] = np.float32(1) / norm
    bad = np.flatnonzero(~np.isfinite(scale))
    if len(bad):
        name = hf.FFN_NORM.format(il=il)
        raise UnsupportedModelError(
            f"layer {il}: {name}[{bad[0]}] = {norm[bad[0]]:g} has no finite inverse, so the predictor's input cannot "
            f"be recovered from the normalised one ({len(bad)} such elements). To export without: --no-predictors",
            layer=il,
            tensor=name,
            found=float(norm[bad[0]]),
        )
    return scale


def _maps(b: _Builder, il: int, order: LayerOrder) -> None:
    moe = b.hp.n_expert > 0
    b.array(keys.FFN_NEURON_FREQ.format(il), order.freq if moe else order.freq[0])
    b.array(keys.FFN_NEURON_PERM.format(il), order.perm if moe else order.perm[0])
    if moe:
        b.array(keys.FFN_EXPERT_FREQ.format(il), order.expert_freq)


def _leftovers(b: _Builder) -> list[str]:
    left = sorted(set(b.tensors) - b.used)
    ignored = [name for name in left if name.endswith(hf.IGNORABLE)]
    unknown = [name for name in left if name not in ignored]
    if unknown:
        shown = ", ".join(unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        raise CheckpointError(
            f"{len(unknown)} tensors have no place in a {b.family.name} model; nothing is dropped silently: {shown}",
            tensors=unknown,
        )
    return ignored


def describe(t: Planned) -> str:
    """One line of the plan for people."""
    note = f"  ({type_name(t.wanted)} does not fit a width of {t.shape[0]})" if t.wanted is not None else ""
    return f"{t.name:<40} {type_name(t.qtype):<5} {list(t.shape)!s:<24} {t.n_bytes:>14,}{note}"
