"""Random operands and float64 oracles for the operator tests.

The oracles see what the kernels see (dequantised rows, x rounded to the type's x_name) and
compute in float64, so what is left is the kernels' own float32 arithmetic.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from turbosparse import ops

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

TYPES = {info.name: info for info in ops.types()}
ISAS = ops.isas()
WIDTHS = (32, 64, 96, 256, 320)
SHARES = ("none", "one", "half", "all")

MAX_NMSE = 1e-11  # float32 sums against float64
MAX_NMSE_GROUPS = 1e-9  # q4_0 rows that are added: their factors have 16 bits (cpu/group-sum.h)


def typed_widths() -> list[tuple[str, int]]:
    """Every type with every width that its blocks divide."""
    return [(name, n) for name, info in TYPES.items() for n in WIDTHS if n % info.block_size == 0]


def nmse(found: Floats, expected: Doubles) -> float:
    """Mean squared error over mean square; 0 for two zero arrays."""
    error = np.square(found.astype(np.float64) - expected).sum()
    return float(error / max(float(np.square(expected).sum()), 1e-300)) if error else 0.0


def floats(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape).astype(np.float32)


def values(w: ops.Matrix) -> Doubles:
    return ops.dequantize(w).astype(np.float64)


def dots(w: ops.Matrix, x: Floats) -> Doubles:
    """[n_tokens, n_row]: every row with every x as a dot against w sees it."""
    return ops.round_x(x, w.type).astype(np.float64) @ values(w).T


@dataclasses.dataclass
class Group:
    """At most sixteen q4_0 rows times h, with the documented rounding (cpu/group-sum.h).

    In each block of 32 columns h times a row's scale becomes an integer, `most` at most: the sum is of
    integers times nibbles, [n_block, 32], times `scale` [n_block].
    """

    integers: Doubles
    scale: Floats
    spread: Doubles  # [n_block, 32], what half of an integer in every factor would change

    @classmethod
    def of(cls, w: ops.Matrix, ids: npt.NDArray[np.int64], h: Floats, most: int) -> Group:
        blocks = w.data.reshape(w.n_row, -1, 18)[ids]
        d = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0].astype(np.float32)
        nibbles = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], -1).astype(np.float64) - 8
        factors = h[:, None] * d
        peak = np.abs(factors).max(0)
        rounded = np.rint(factors * (np.float32(most) / peak)).astype(np.float64)
        scale = peak / np.float32(most)
        spread = np.einsum("b,kbj->bj", scale.astype(np.float64) / 2, np.abs(nibbles))
        return cls(np.einsum("kb,kbj->bj", rounded, nibbles), scale, spread)


def signs(rng: np.random.Generator, n: int, share: str) -> Bools:
    """Which of n neurons have a positive branch."""
    on = np.zeros(n, bool)
    if share == "one":
        on[rng.integers(n)] = True
    elif share == "half":
        on[rng.permutation(n)[: (n + 1) // 2]] = True
    elif share == "all":
        on[:] = True
    return on


def signed_rows(rng: np.random.Generator, on: Bools, n_col: int, type: str) -> ops.Matrix:
    """Rows of one sign each: against x > 0 the branch is positive exactly where `on`, whatever is rounded."""
    rows = rng.uniform(0.5, 1.5, (on.size, n_col)) * np.where(on, 1.0, -1.0)[:, None]
    return ops.quantize(rows.astype(np.float32), type)


@dataclasses.dataclass
class Ffn:
    """An FFN whose active neurons are known, and x > 0 of n_tokens columns."""

    x: Floats
    gate: ops.Matrix
    up: ops.Matrix
    down_t: ops.Matrix
    gate_on: Bools
    up_on: Bools

    @classmethod
    def random(cls, n_embd: int, n_ff: int, n_tokens: int, type: str, share: str, *, down: str | None = None) -> Ffn:
        rng = np.random.default_rng([n_embd, n_ff, n_tokens])
        gate_on, up_on = signs(rng, n_ff, share), signs(rng, n_ff, "all" if share == "one" else share)
        return cls(
            rng.uniform(0.1, 2.0, (n_tokens, n_embd)).astype(np.float32),
            signed_rows(rng, gate_on, n_embd, type),
            signed_rows(rng, up_on, n_embd, type),
            ops.quantize(floats(rng, n_ff, n_embd), down or type),
            gate_on,
            up_on,
        )

    @property
    def max_nmse(self) -> float:
        return MAX_NMSE_GROUPS if self.down_t.type == "q4_0" else MAX_NMSE

    @property
    def n_tokens(self) -> int:
        return self.x.shape[0]

    def run(self, mode: ops.Mode, x: Floats | None = None, **options: object) -> ops.FfnResult:
        gate = None if options.get("activation") == "relu" else self.gate
        return ops.ffn(
            self.x if x is None else x,
            gate=gate,
            up=self.up,
            down_t=self.down_t,
            mode=mode,
            **options,  # type: ignore[arg-type]
        )

    def hidden(self, activation: str = "drelu") -> Doubles:
        """h [n_tokens, n_ff]."""
        up = dots(self.up, self.x)
        if activation == "relu":
            return np.maximum(up, 0)
        return np.maximum(dots(self.gate, self.x), 0) * (up if activation == "reglu" else np.maximum(up, 0))

    def y(self, activation: str = "drelu", mask: Bools | None = None) -> Doubles:
        h = self.hidden(activation)
        return (h if mask is None else h * mask) @ values(self.down_t)


@dataclasses.dataclass
class Predictor:
    """fc1, fc2 and a tap scale, with a threshold that no logit of `x` comes near."""

    fc1: ops.Matrix
    fc2: ops.Matrix
    scale: Floats
    threshold: float
    mask: Bools

    @classmethod
    def random(cls, x: Floats, n_ff: int, rank: int, type: str, *, scaled: bool = True) -> Predictor:
        rng = np.random.default_rng([7, n_ff, rank])
        n_embd = x.shape[1]
        fc1, fc2 = ops.quantize(floats(rng, rank, n_embd), type), ops.quantize(floats(rng, n_ff, rank), type)
        scale = rng.uniform(-2.0, 2.0, n_embd).astype(np.float32) if scaled else np.ones(n_embd, np.float32)
        hidden = np.maximum(dots(fc1, x * scale), 0).astype(np.float32)
        logits = dots(fc2, hidden)
        threshold = gap_near_median(logits)
        return cls(fc1, fc2, scale, threshold, logits > threshold)

    def options(self) -> dict[str, object]:
        return {"fc1": self.fc1, "fc2": self.fc2, "pred_in_scale": self.scale, "threshold": self.threshold}


def gap_near_median(logits: Doubles) -> float:
    """Middle of the widest gap in the middle third of all logits."""
    line = np.sort(logits, axis=None)
    if line.size < 3:
        return float(line[0]) - 1.0
    low, high = line.size // 3, max(2 * line.size // 3, line.size // 3 + 1)
    at = low + int(np.argmax(np.diff(line[low : high + 1])))
    return float((line[at] + line[at + 1]) / 2)
