"""The tensors of a synthetic checkpoint, each made row block by row block when it is read.

A tensor's rows depend on the seed and the row's number alone, so any slice can be read in any order, by several
threads, and a model larger than the disk can be converted without being written. Big matrices are cut from a pool
of random numbers, a window per row with a sign of its own: fresh random numbers would be ten times slower.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arch import base as names
from .arch import mistral, mixtral
from .synth_planting import NOISE, SLACK, Basis, Planting, Residual, basis
from .synth_shapes import Shape

F32 = NDArray[np.float32]
Bits = NDArray[np.uint16]  # bfloat16
Rows = Callable[[int, int], Bits]

POOL = 1 << 21  # numbers in a pool; windows overlap, so their number is nearly that of distinct rows
CHUNK = 32  # rows computed at a time in float32: what fits the second-level cache
NORM_SPREAD = 0.3  # RMSNorm weights are uniform in 1 +- this
SILENT_LOGIT = -40.0  # of tokens that a synthetic model must never generate
BIAS_FEATURE = 2.0  # value of fc1's constant outputs, in units of the others' standard deviation


@dataclass(frozen=True)
class SynthTensor:
    """A tensor that is computed, bfloat16. Satisfies checkpoint.Tensor."""

    name: str
    shape: tuple[int, ...]
    rows: Rows
    dtype: str = "BF16"

    def read(self, start: int, stop: int) -> Bits:
        """Rows [start, stop) as bfloat16 bits."""
        return self.rows(start, stop)


def to_bits(x: F32) -> Bits:
    """float32 [n, k] -> bfloat16 bits, rounded half up; destroys x."""
    bits = x.view(np.uint32)
    bits += np.uint32(0x8000)
    return np.ascontiguousarray(x.view(np.uint16)[..., 1::2])


def from_bits(bits: Bits) -> F32:
    """bfloat16 bits -> float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Pool:
    """Normal numbers of which rows are windows."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.numbers = rng.standard_normal(POOL, np.float32)
        self._bits: OrderedDict[float, Bits] = OrderedDict()
        self._lock = threading.Lock()

    def scaled(self, sd: float) -> Bits:
        """The pool times sd, as bfloat16 bits; the last few are kept."""
        with self._lock:
            if sd not in self._bits:
                self._bits[sd] = to_bits(self.numbers * np.float32(sd))
                if len(self._bits) > 8:
                    self._bits.popitem(last=False)
            return self._bits[sd]

    def rows(self, sd: float, offsets: NDArray[np.int64], width: int) -> Bits:
        """[len(offsets), width] with standard deviation sd."""
        pool, out = self.scaled(sd), np.empty((len(offsets), width), np.uint16)
        for i, offset in enumerate(offsets.tolist()):
            out[i] = pool[offset : offset + width]
        return out


@dataclass(frozen=True)
class Neurons:
    """Where the planted parameters of one FFN lie: everything [n_ff], in stored order."""

    frequency: NDArray[np.float64]
    threshold: F32
    pair: NDArray[np.intp]  # [2, n_ff] directions
    mix: F32  # [2, n_ff] their weights, cos and sin
    offsets: NDArray[np.int64]  # [2, n_ff] windows of gate's and up's noise
    turn: NDArray[np.intp]  # [n_free] permutation of the coordinates
    sign: F32  # [n_free]


class Ffn:
    """gate, up, fc1 and fc2 of one (expert's) FFN; `norm` [n_embd] are the weights of its RMSNorm."""

    def __init__(self, model: SynthModel, il: int, expert: int) -> None:
        self.model, self.rank = model, model.shape.ranks[il]
        self.norm = model.norm_weights(il)
        self.scale = math.sqrt(model.residual.v(il))  # standard deviation of a free coordinate of the residual
        self.basis = model.basis(self.rank)
        self.neurons = self._draw(model.rng("ffn", il, expert))
        self.gate, self.up = self._branch(0), self._branch(1)

    def _draw(self, rng: np.random.Generator) -> Neurons:
        n_ff, n_free, m = self.model.shape.n_ff, self.model.residual.n_free, len(self.basis.turn)
        order, planting = rng.permutation(n_ff), self.model.planting
        first = rng.integers(0, m, n_ff)
        second = (first + rng.integers(1, max(m, 2), n_ff)) % m
        angle = rng.uniform(0.0, 2.0 * math.pi, n_ff)
        return Neurons(
            frequency=planting.frequency[order],
            threshold=planting.threshold[order].astype(np.float32),
            pair=np.stack([first, second]),
            mix=np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32) * np.float32(math.sqrt(1 - NOISE**2)),
            offsets=rng.integers(0, POOL - self.model.shape.n_embd, (2, n_ff)),
            turn=rng.permutation(n_free),
            sign=rng.choice(np.array([-1, 1], np.float32), n_free),
        )

    def _placed(self, directions: F32, normalised: bool) -> F32:
        """Directions [m, n_free] in this FFN's coordinates [m, n_embd]: of the normalised input, or of the residual."""
        n = self.neurons
        out = np.zeros((len(directions), self.model.shape.n_embd), np.float32)
        free = out[:, : self.model.residual.n_free]
        np.multiply(directions[:, n.turn], n.sign, out=free)
        if normalised:
            free /= self.norm[: free.shape[1]]
        return out

    @cached_property
    def own(self) -> F32:
        """The directions [m, n_embd] of which every neuron mixes two, for the normalised input."""
        return self._placed(self.basis.own, True)

    @cached_property
    def noise(self) -> F32:
        """The pool, scaled to what the predictor does not see of a row."""
        weight = float(np.sum(np.square(self.norm[: self.model.residual.n_free], dtype=np.float64)))
        out: F32 = self.model.pool.numbers * np.float32(NOISE / math.sqrt(weight))
        return out

    @property
    def constant(self) -> float:
        """What a unit bias, in standard deviations of the signal, costs per reserved coordinate."""
        residual = self.model.residual
        return self.scale / (residual.n_const * residual.c)

    def _branch(self, which: int) -> Rows:
        """Rows of gate (0) or up (1)."""
        n, free = self.neurons, self.model.residual.n_free
        bias = -(n.threshold - np.float32(0.0 if which else SLACK)) * np.float32(self.constant)

        def rows(start: int, stop: int) -> Bits:
            out, noise = np.empty((stop - start, self.model.shape.n_embd), np.uint16), self.noise
            for at in range(start, stop, CHUNK):
                part = slice(at, min(at + CHUNK, stop))
                x = self._mixed(self.own, part)
                for i, offset in enumerate(n.offsets[which, part].tolist()):
                    x[i, :free] += noise[offset : offset + free]
                x[:, free:] = bias[part, None]
                out[part.start - start : part.stop - start] = to_bits(x)
            return out

        return rows

    def _mixed(self, directions: F32, part: slice) -> F32:
        """The signal of the neurons of `part`: a pair of rows of `directions` each, weighted."""
        n = self.neurons
        x = directions[n.pair[0, part]]
        x *= n.mix[0, part, None]
        y = directions[n.pair[1, part]]
        y *= n.mix[1, part, None]
        x += y
        return x

    @cached_property
    def fc1(self) -> Bits:
        """The predictor's first matrix [rank, n_embd]: directions, their negatives, constants."""
        seen = self._placed(self.basis.seen, normalised=self.model.is_moe)
        out = np.zeros((self.rank, seen.shape[1]), np.float32)
        to, m = self.basis.order, len(seen)
        out[to[:m]], out[to[m : 2 * m]] = seen, -seen
        out[to[2 * m :], self.model.residual.n_free :] = BIAS_FEATURE * self.constant
        return to_bits(out)

    @cached_property
    def turned(self) -> F32:
        """`own` in terms of fc1's rows: [m, rank]."""
        to, m = self.basis.order, len(self.basis.turn)
        out = np.zeros((m, self.rank), np.float32)
        out[:, to[:m]], out[:, to[m : 2 * m]] = self.basis.turn.T, -self.basis.turn.T
        return out

    def fc2(self, start: int, stop: int) -> Bits:
        """Rows of the predictor's second matrix [n_ff, rank]: relu(f) - relu(-f) = f, mixed as the neuron mixes it."""
        constants = self.basis.order[2 * len(self.basis.turn) :]
        margin = np.float32(self.model.planting.margin)
        out = np.empty((stop - start, self.rank), np.uint16)
        for at in range(start, stop, 4 * CHUNK):
            part = slice(at, min(at + 4 * CHUNK, stop))
            x = self._mixed(self.turned, part)
            bias = (margin - self.neurons.threshold[part]) / np.float32(BIAS_FEATURE * self.basis.n_bias)
            x[:, constants] = bias[:, None]
            out[part.start - start : part.stop - start] = to_bits(x)
        return out


class SynthModel:
    """All tensors of a checkpoint of `shape`, in the order in which they are stored."""

    def __init__(self, shape: Shape, seed: int = 0, recall: float = 0.97) -> None:
        self.shape, self.seed = shape, seed
        self.residual = Residual(shape.n_embd, shape.n_layer)
        self.planting = Planting(shape.n_ff, shape.active, recall)
        self._bases: dict[int, Basis] = {}
        self._ffns: OrderedDict[tuple[int, int], Ffn] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def is_moe(self) -> bool:
        """Experts, with predictors on the normalised input."""
        return self.shape.n_expert > 0

    @cached_property
    def pool(self) -> Pool:
        """Where weight rows are cut from."""
        return Pool(self.rng("pool"))

    @cached_property
    def embeddings(self) -> Pool:
        """A pool apart: a weight row must not be a token's own embedding."""
        return Pool(self.rng("embeddings"))

    def rng(self, what: str, *index: int) -> np.random.Generator:
        """The generator that belongs to one part of the model."""
        return np.random.default_rng([self.seed, *what.encode(), 0, *index])

    def basis(self, rank: int) -> Basis:
        """The basis shared by all FFNs whose predictors have this rank."""
        with self._lock:
            if rank not in self._bases:
                self._bases[rank] = basis(rank, self.residual.n_free, self.rng("basis", rank))
            return self._bases[rank]

    def ffn(self, il: int, expert: int = 0) -> Ffn:
        """FFN of one expert; the last few are kept, since four tensors are made from each."""
        with self._lock:
            if (il, expert) not in self._ffns:
                self._ffns[il, expert] = Ffn(self, il, expert)
                if len(self._ffns) > max(2, self.shape.n_expert):
                    self._ffns.popitem(last=False)
            return self._ffns[il, expert]

    def frequency(self, il: int, expert: int = 0) -> NDArray[np.float64]:
        """Planted share of tokens [n_ff] for which each stored neuron is not zero."""
        order = self.rng("ffn", il, expert).permutation(self.shape.n_ff)
        return self.planting.frequency[order]

    def norm_weights(self, index: int) -> F32:
        """Weights [n_embd] of an RMSNorm, exact in bfloat16; 1 on the reserved coordinates."""
        w = self.rng("norm", index).uniform(1 - NORM_SPREAD, 1 + NORM_SPREAD, self.shape.n_embd).astype(np.float32)
        w[self.residual.n_free :] = 1.0
        return from_bits(to_bits(w))

    def tensors(self) -> Iterator[SynthTensor]:
        """Every tensor under its Hugging Face name."""
        s = self.shape
        yield SynthTensor(names.TOKEN_EMBD, (s.n_vocab, s.n_embd), self._embedding())
        for il in range(s.n_layer):
            yield from self._attention(il)
            yield self._norm(names.FFN_NORM.format(il=il), il)
            yield from self._experts(il) if self.is_moe else self._mlp(il)
        yield self._norm(names.OUTPUT_NORM, 2 * s.n_layer)
        yield SynthTensor(names.OUTPUT, (s.n_vocab, s.n_embd), self._head())

    def _embedding(self) -> Rows:
        s, r = self.shape, self.residual
        offsets = self.rng("tokens").choice(POOL - s.n_embd, s.n_vocab, replace=False)
        constant = to_bits(np.full((1, 1), r.c, np.float32))[0, 0]

        def rows(start: int, stop: int) -> Bits:
            out = self.embeddings.rows(math.sqrt(r.variance), offsets[start:stop], s.n_embd)
            out[:, r.n_free :] = constant
            return out

        return rows

    def _head(self) -> Rows:
        """Logits of a standard deviation of 3; tokens that are no text stay silent."""
        s, r = self.shape, self.residual
        rows = self._random("head", 0, s.n_vocab, s.n_embd, 3.0 / math.sqrt(s.n_embd))
        per_logit = math.sqrt(r.mean_square(s.n_layer)) / (r.n_const * r.c)
        silent = to_bits(np.full((1, 1), SILENT_LOGIT * per_logit, np.float32))[0, 0]

        def head(start: int, stop: int) -> Bits:
            out = rows(start, stop)
            index = np.arange(start, stop)
            out[(index < 3 + 256) | (index >= s.n_piece), r.n_free :] = silent
            return out

        return head

    def _random(self, what: str, index: int, n_rows: int, n_cols: int, sd: float, output: bool = False) -> Rows:
        """A random matrix that neither reads the reserved coordinates nor, if its rows are outputs, writes them."""
        rng = self.rng(what, index)
        offsets = rng.integers(0, POOL - n_cols, n_rows)
        sign = rng.integers(0, 2, n_rows).astype(np.uint16) << np.uint16(15)
        free = self.residual.n_free

        def rows(start: int, stop: int) -> Bits:
            out = self.pool.rows(sd, offsets[start:stop], n_cols)
            out ^= sign[start:stop, None]
            if output:
                out[max(0, free - start) :] = 0
            else:
                out[:, free:] = 0
            return out

        return rows

    def _norm(self, name: str, index: int) -> SynthTensor:
        return SynthTensor(name, (self.shape.n_embd,), lambda a, b: to_bits(self.norm_weights(index))[a:b])

    def _attention(self, il: int) -> Iterator[SynthTensor]:
        s, n = self.shape, self.shape.n_embd
        sd = 1.0 / math.sqrt(n)
        yield self._norm(names.ATTN_NORM.format(il=il), s.n_layer + il)
        for i, (name, rows) in enumerate(((names.ATTN_Q, n), (names.ATTN_K, s.n_kv), (names.ATTN_V, s.n_kv))):
            yield SynthTensor(name.format(il=il), (rows, n), self._random("attn", 4 * il + i, rows, n, sd))
        sd = math.sqrt(self.residual.attn_gain * self.residual.variance / n)  # values have about unit variance
        out = self._random("attn", 4 * il + 3, n, n, sd, output=True)
        yield SynthTensor(names.ATTN_OUTPUT.format(il=il), (n, n), out)

    def _mlp(self, il: int) -> Iterator[SynthTensor]:
        yield from self._ffn_tensors(mistral.FAMILY.ffn, il, 0)

    def _experts(self, il: int) -> Iterator[SynthTensor]:
        s, ffn = self.shape, mixtral.FAMILY.ffn
        router = self._random("router", il, s.n_expert, s.n_embd, 1.0 / math.sqrt(s.n_embd))
        yield SynthTensor(ffn.router.format(il=il), (s.n_expert, s.n_embd), router)
        for expert in range(s.n_expert):
            yield from self._ffn_tensors(ffn, il, expert)

    def _ffn_tensors(self, ffn: names.FfnNames, il: int, e: int) -> Iterator[SynthTensor]:
        s = self.shape
        sizes: dict[str, tuple[int, int]] = {
            ffn.gate: (s.n_ff, s.n_embd), ffn.up: (s.n_ff, s.n_embd), ffn.down: (s.n_embd, s.n_ff),
            ffn.fc1: (s.ranks[il], s.n_embd), ffn.fc2: (s.n_ff, s.ranks[il]),
        }  # fmt: skip
        down = self._random("down", il * max(s.n_expert, 1) + e, s.n_embd, s.n_ff, self._down_sd, output=True)
        makers: dict[str, Callable[[], Rows]] = {
            ffn.gate: lambda: self.ffn(il, e).gate, ffn.up: lambda: self.ffn(il, e).up,
            ffn.down: lambda: down,
            ffn.fc1: lambda: lambda a, b: self.ffn(il, e).fc1[a:b], ffn.fc2: lambda: self.ffn(il, e).fc2,
        }  # fmt: skip
        for name, size in sizes.items():
            yield SynthTensor(name.format(il=il, e=e), size, _late(makers[name]))

    @cached_property
    def _down_sd(self) -> float:
        """Such that an FFN adds `ffn_gain` of the embedding's variance; two experts with weights w add w^2."""
        r = self.residual
        unit = r.v(0) / r.mean_square(0)
        shared = 0.6 if self.is_moe and self.shape.n_expert_used > 1 else 1.0
        return math.sqrt(r.ffn_gain * r.variance / (self.shape.n_ff * self.planting.energy * unit**2 * shared))


def _late(make: Callable[[], Rows]) -> Rows:
    """Rows whose maker is asked at the first read: opening a model must not compute it."""

    def rows(start: int, stop: int) -> Any:
        return make()(start, stop)

    return rows
