"""docs/gguf-extension.md as a check on a file: keys, tensors, shapes, types and placement maps.

The same rules as the engine's loader; inspect, verify and quantize run it before anything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import keys
from .arch import Hparams
from .errors import GGUFError, UnsupportedModelError
from .ggufile import GGUFFile, Info
from .quantize import TYPES, T


@dataclass(frozen=True)
class Contract:
    """What a sound file says about itself. `ranks` 0 = no predictor in that layer."""

    hp: Hparams
    activation: str
    order: str
    default_mode: str
    ranks: list[int]
    thresholds: list[float]
    first_branch: list[int]
    tied: bool
    fc2_by_unit: bool = False


def check_contract(file: GGUFFile) -> Contract:
    """Read the contract out of `file`.

    Raises UnsupportedModelError for another architecture or a newer version, GGUFError for a missing
    or surplus tensor, a wrong shape or type, and maps that are none.
    """
    return _Checker(file).run()


class _Checker:
    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.used: set[str] = set()

    def bad(self, what: str, **data: Any) -> GGUFError:
        return GGUFError(f"{self.file.path.name}: {what}", path=str(self.file.path), **data)

    def unsupported(self, what: str, **data: Any) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.file.path.name}: {what}", path=str(self.file.path), **data)

    def run(self) -> Contract:
        self.identity()
        hp = self.hparams()
        ranks = self.layer_array(keys.PREDICTOR_RANK, hp, 0)
        if self.one_of(keys.PREDICTOR_KIND, keys.PREDICTOR_KINDS, "none") == "none" and any(ranks):
            raise self.bad(f"{keys.PREDICTOR_RANK} is not 0, though {keys.PREDICTOR_KIND} is none")
        self.one_of(keys.FFN_LAYOUT, ("planar",), "planar")
        contract = Contract(
            hp,
            self.one_of(keys.FFN_ACTIVATION, keys.ACTIVATIONS, None),
            self.one_of(keys.FFN_NEURON_ORDER, keys.NEURON_ORDERS, "original"),
            self.one_of(keys.DEFAULT_MODE, ("exact", "predicted", "dense"), "exact"),
            ranks,
            self.layer_array(keys.PREDICTOR_THRESHOLD, hp, 0.0),
            self.layer_array(keys.FFN_FIRST_BRANCH, hp, 0),
            keys.OUTPUT not in self.file.tensors,
            keys.FEATURE_FC2_T in self.file.get(keys.REQUIRED_FEATURES, []),
        )
        self.tensors(contract)
        return contract

    def identity(self) -> None:
        arch = self.file.get(keys.GENERAL_ARCHITECTURE)
        if arch != keys.ARCHITECTURE:
            raise self.unsupported(
                f"architecture is {arch!r}, not 'turbosparse'; run it with llama.cpp, or make a TurboSparse file with "
                "`turbosparse convert`",
                key=keys.GENERAL_ARCHITECTURE,
                expected=keys.ARCHITECTURE,
                found=arch,
            )
        version = self.file.get(keys.FORMAT_VERSION)
        if version != keys.VERSION:
            raise self.unsupported(
                f"format version {version!r}; this turbosparse reads {keys.VERSION}",
                key=keys.FORMAT_VERSION,
                expected=keys.VERSION,
                found=version,
            )
        features = self.file.get(keys.REQUIRED_FEATURES, [])
        if not isinstance(features, list):
            raise self.bad(f"{keys.REQUIRED_FEATURES} should be an array of strings", key=keys.REQUIRED_FEATURES)
        lacking = [f for f in features if f not in keys.FEATURES]
        if lacking:
            raise self.unsupported(f"needs features that this turbosparse lacks: {lacking}", found=lacking)
        self.one_of(keys.BASE_ARCHITECTURE, ("llama",), None)

    def one_of(self, key: str, known: tuple[str, ...], default: str | None) -> str:
        value = self.file.get(key, default)
        if value not in known:
            raise self.bad(f"{key} is {value!r}, expected one of {', '.join(known)}", key=key, found=value)
        return str(value)

    def number(self, key: str, default: float | None = None, *, integer: bool = True) -> Any:
        value = self.file.get(key, default)
        kind = int if integer else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value) or value < 0:
            raise self.bad(f"{key} is {value!r}, expected a number of 0 or more", key=key, found=value)
        if default is None and not value:
            raise self.bad(f"{key} is 0", key=key, found=0)
        return value

    def hparams(self) -> Hparams:
        n_embd, n_head = self.number(keys.EMBEDDING_LENGTH), self.number(keys.HEAD_COUNT)
        n_head_kv = self.number(keys.HEAD_COUNT_KV)
        if n_embd % n_head or n_head % n_head_kv:
            raise self.bad(f"{n_head} heads and {n_head_kv} KV heads do not divide an embedding of {n_embd}")
        return Hparams(
            n_layer=self.number(keys.BLOCK_COUNT),
            n_embd=n_embd,
            n_ff=self.number(keys.FEED_FORWARD_LENGTH),
            n_head=n_head,
            n_head_kv=n_head_kv,
            head_dim=n_embd // n_head,
            n_vocab=self.number(keys.VOCAB_SIZE),
            n_ctx=self.number(keys.CONTEXT_LENGTH),
            rms_eps=self.number(keys.RMS_EPSILON, integer=False),
            rope_theta=self.number(keys.ROPE_FREQ_BASE, 10000.0, integer=False),
            rope_linear=self.number(keys.ROPE_SCALING_FACTOR, 1.0, integer=False),
            sliding_window=self.number(keys.SLIDING_WINDOW, 0),
            n_expert=self.number(keys.EXPERT_COUNT, 0),
            n_expert_used=self.number(keys.EXPERT_USED_COUNT, 0),
        )

    def layer_array(self, key: str, hp: Hparams, default: float) -> list[Any]:
        # An array costs 4 bytes an element, so a sane n_layer is one the file could hold.
        if hp.n_layer > len(self.file.tensors):
            raise self.bad(f"{keys.BLOCK_COUNT} is {hp.n_layer}, the file has {len(self.file.tensors)} tensors")
        value = self.file.get(key, [default] * hp.n_layer)
        kind = int if isinstance(default, int) else (int, float)
        if not isinstance(value, list) or len(value) != hp.n_layer or not all(isinstance(v, kind) for v in value):
            raise self.bad(f"{key} should be an array of {hp.n_layer} numbers", key=key, expected=hp.n_layer)
        if not all(math.isfinite(v) for v in value) or (isinstance(default, int) and min(value) < 0):
            raise self.bad(f"{key} holds a value that is negative or not finite", key=key)
        return value

    def tensors(self, c: Contract) -> None:
        hp = c.hp
        self.tensor(keys.TOKEN_EMBD, (hp.n_embd, hp.n_vocab))
        self.tensor(keys.OUTPUT_NORM, (hp.n_embd,), T.F32)
        if not c.tied:
            self.tensor(keys.OUTPUT, (hp.n_embd, hp.n_vocab))
        for il in range(hp.n_layer):
            self.attention(hp, il)
            self.ffn(c, il)
            self.maps(c, il)
        end = max(-(-(i.offset + i.n_bytes) // keys.ALIGNMENT) * keys.ALIGNMENT for i in self.file.tensors.values())
        if self.file.size < end:
            raise self.bad(f"has {self.file.size} bytes, its last page ends at {end}. It is truncated", expected=end)
        surplus = sorted(set(self.file.tensors) - self.used)
        if surplus:
            raise self.bad(
                f"{len(surplus)} surplus tensors, which the format does not know: {', '.join(surplus[:5])}",
                surplus=surplus,
            )

    def tensor(self, name: str, shape: tuple[int, ...], qtype: T | None = None) -> Info:
        self.used.add(name)
        info = self.file.tensors.get(name)
        if info is None:
            raise self.bad(f"tensor {name} is missing", tensor=name, expected=list(shape))
        found = info.shape + (1,) * (len(shape) - len(info.shape))
        if found != shape:
            raise self.bad(
                f"tensor {name} has shape {list(info.shape)}, expected {list(shape)}",
                tensor=name,
                expected=list(shape),
                found=list(info.shape),
            )
        if qtype is not None and info.qtype is not qtype:
            raise self.bad(f"tensor {name} is {info.qtype.name}, expected {qtype.name}", tensor=name)
        return info

    def attention(self, hp: Hparams, il: int) -> None:
        n_kv = hp.head_dim * hp.n_head_kv
        self.tensor(keys.ATTN_NORM.format(il), (hp.n_embd,), T.F32)
        self.tensor(keys.ATTN_Q.format(il), (hp.n_embd, hp.n_embd))
        self.tensor(keys.ATTN_K.format(il), (hp.n_embd, n_kv))
        self.tensor(keys.ATTN_V.format(il), (hp.n_embd, n_kv))
        self.tensor(keys.ATTN_OUTPUT.format(il), (hp.n_embd, hp.n_embd))
        self.tensor(keys.FFN_NORM.format(il), (hp.n_embd,), T.F32)

    def ffn(self, c: Contract, il: int) -> None:
        hp, rank = c.hp, c.ranks[il]
        moe = (hp.n_expert,) if hp.n_expert else ()
        shapes: dict[str, tuple[int, ...]] = {}
        gate, up, down = (
            (keys.FFN_GATE_EXPS, keys.FFN_UP_EXPS, keys.FFN_DOWN_T_EXPS)
            if moe
            else (keys.FFN_GATE, keys.FFN_UP, keys.FFN_DOWN_T)
        )
        names = (up, down) if c.activation == "relu" else (gate, up, down)
        shapes |= dict.fromkeys(names, (hp.n_embd, hp.n_ff, *moe))
        if rank:
            shapes[keys.FFN_PRED_FC1_EXPS if moe else keys.FFN_PRED_FC1] = (hp.n_embd, rank, *moe)
            if c.fc2_by_unit:
                shapes[keys.FFN_PRED_FC2_T_EXPS if moe else keys.FFN_PRED_FC2_T] = (hp.n_ff, rank, *moe)
            else:
                shapes[keys.FFN_PRED_FC2_EXPS if moe else keys.FFN_PRED_FC2] = (rank, hp.n_ff, *moe)
        for name, shape in shapes.items():
            info = self.tensor(name.format(il), shape)
            if info.qtype not in TYPES.values():
                known = ", ".join(TYPES)
                raise self.bad(f"tensor {info.name} is {info.qtype.name}; FFN types: {known}", tensor=info.name)
        if moe:
            self.tensor(keys.FFN_GATE_INP.format(il), (hp.n_embd, hp.n_expert))
        scale = keys.FFN_PRED_IN_SCALE.format(il)
        if rank and scale in self.file.tensors:
            info = self.tensor(scale, (hp.n_embd,), T.F32)
            if not np.isfinite(small(self.file, info)).all():
                raise self.bad(f"tensor {scale} is not finite", tensor=scale)

    def maps(self, c: Contract, il: int) -> None:
        hp = c.hp
        sets = max(hp.n_expert, 1)
        freq, perm = keys.FFN_NEURON_FREQ.format(il), keys.FFN_NEURON_PERM.format(il)
        if freq in self.file.tensors:
            values = small(self.file, self.tensor(freq, (hp.n_ff, sets), T.F32)).reshape(sets, hp.n_ff)
            self.frequencies(freq, values, falling=c.order == "hot_first")
        if perm in self.file.tensors:
            rows = small(self.file, self.tensor(perm, (hp.n_ff, sets), T.I32)).reshape(sets, hp.n_ff)
            if not (np.sort(rows, axis=1) == np.arange(hp.n_ff)).all():
                raise self.bad(f"tensor {perm} is not a permutation of 0 to {hp.n_ff - 1}", tensor=perm)
        expert = keys.FFN_EXPERT_FREQ.format(il)
        if hp.n_expert and expert in self.file.tensors:
            self.frequencies(expert, small(self.file, self.tensor(expert, (hp.n_expert,), T.F32)), falling=False)

    def frequencies(self, name: str, values: NDArray[Any], *, falling: bool) -> None:
        if not ((values >= 0) & (values <= 1)).all():
            raise self.bad(f"tensor {name} holds frequencies outside [0, 1]", tensor=name)
        if falling and (values[:, 1:] > values[:, :-1]).any():
            raise self.bad(f"tensor {name} rises, though {keys.FFN_NEURON_ORDER} is hot_first", tensor=name)


def small(file: GGUFFile, info: Info) -> NDArray[Any]:
    """All of an F32 or I32 tensor, flat."""
    dtype = np.int32 if info.qtype is T.I32 else np.float32
    return file.rows(info, 0, info.n_rows).reshape(-1).view(dtype)
