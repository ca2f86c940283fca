"""Activation sparsity by construction: how a synthetic FFN gets the statistics that it states.

Geometry. The last n_embd / 16 coordinates of every residual are one constant c, the same for all tokens and
layers (nothing reads or writes them but what follows); the other coordinates are, token by token, close to
independent normal numbers of variance v. A weight row can therefore carry a bias (a constant on the reserved
coordinates) and a signal (anything on the others), and only the ratio of the two decides a sign, so that the
RMSNorm in between does not matter.

One neuron, in units of sqrt(v): with S a standard normal signal in a subspace of dimension m that the predictor
sees (two of its directions, mixed), and N, N' independent standard normal noise outside it,
    gate = a S + b N - (t - slack),   up = a S + b N' - t,   a^2 + b^2 = 1,
    predictor's logit = a S - (t - margin).
t follows from the neuron's frequency P(gate > 0, up > 0), margin from the wanted recall; both by quadrature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

MAX_FREQUENCY = 0.9  # of the hottest neurons
NOISE = math.sqrt(0.05)  # b: what the predictor cannot see
SLACK = 0.1  # gate alone is positive a little more often than gate and up together

_S = np.linspace(-7.0, 7.0, 701)
_DENSITY = np.exp(-_S * _S / 2) / math.sqrt(2 * math.pi) * (_S[1] - _S[0])
_T = np.linspace(-2.6, 4.4, 141)  # thresholds for which probabilities are tabulated


def normal_cdf(z: NDArray[np.float64]) -> F64:
    """Standard normal distribution function, elementwise."""
    erf = np.vectorize(math.erf, otypes=[np.float64])
    out: F64 = 0.5 * (1.0 + erf(np.asarray(z) / math.sqrt(2.0)))
    return out


def frequencies(n: int, mean: float, exponent: float = 1.0) -> F64:
    """Falling frequencies [n] of a power law min(0.9, C / rank^exponent) with the given mean."""
    law = (np.arange(n) + 0.5) ** -exponent
    low, high = -40.0, 40.0  # log C, by bisection: the mean grows with C
    for _ in range(80):
        middle = (low + high) / 2
        too_low = np.minimum(MAX_FREQUENCY, math.exp(middle) * law).mean() < mean
        low, high = (middle, high) if too_low else (low, middle)
    out: F64 = np.minimum(MAX_FREQUENCY, math.exp(low) * law)
    return out


def top_share(freq: F64, part: float = 0.2) -> float:
    """Share of all activations that the hottest `part` of the neurons account for."""
    hot = np.sort(freq.ravel())[::-1][: max(1, round(part * freq.size))]
    return float(hot.sum() / freq.sum())


@dataclass(frozen=True)
class Planting:
    """The law of one FFN: `active` = mean frequency, `recall` = share of active neurons the predictor selects."""

    n_ff: int
    active: float
    recall: float
    exponent: float = 1.0

    @cached_property
    def frequency(self) -> F64:
        """[n_ff], falling."""
        return frequencies(self.n_ff, self.active, self.exponent)

    @cached_property
    def threshold(self) -> F64:
        """t [n_ff] of the neurons of `frequency`."""
        return np.interp(-self.frequency, -self._both.sum(axis=1), _T)

    @cached_property
    def margin(self) -> float:
        """How far below t a signal is still selected."""
        low, high = -1.0, 3.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self._recall(middle) < self.recall else (low, middle)
        return high

    @property
    def selected(self) -> float:
        """Expected share of neurons that the predictor selects."""
        a = math.sqrt(1.0 - NOISE**2)
        return float(normal_cdf((self.margin - self.threshold) / a).mean())

    @property
    def gate_positive(self) -> float:
        """Expected share of neurons whose gate is positive, whatever up is."""
        return float(normal_cdf(SLACK - self.threshold).mean())

    @property
    def up_positive(self) -> float:
        """Expected share of neurons whose up is positive."""
        return float(normal_cdf(-self.threshold).mean())

    @cached_property
    def _both(self) -> F64:
        """Density over S of (gate > 0, up > 0): [len(_T), len(_S)]."""
        z = (math.sqrt(1.0 - NOISE**2) * _S[None, :] - _T[:, None]) / NOISE
        out: F64 = normal_cdf(z + SLACK / NOISE) * normal_cdf(z) * _DENSITY
        return out

    def _recall(self, margin: float) -> float:
        seen = math.sqrt(1.0 - NOISE**2) * _S[None, :] > _T[:, None] - margin
        found = np.interp(self.threshold, _T, (self._both * seen).sum(axis=1))
        return float(found.sum() / self.frequency.sum())

    @cached_property
    def energy(self) -> float:
        """E[(relu(gate) relu(up))^2] averaged over neurons, in units of v^2."""
        rng = np.random.default_rng(0)
        t = rng.choice(self.threshold, 400_000)
        s, n, n2 = rng.standard_normal((3, t.size))
        signal = math.sqrt(1.0 - NOISE**2) * s - t
        return float(np.mean((np.maximum(signal + SLACK + NOISE * n, 0) * np.maximum(signal + NOISE * n2, 0)) ** 2))


@dataclass(frozen=True)
class Residual:
    """The residual stream: `c` on `n_const` coordinates, variance v on the others, growing from layer to layer."""

    n_embd: int
    n_layer: int
    variance: float = 1.0 / 16

    @property
    def n_const(self) -> int:
        """Reserved coordinates, the last ones."""
        return self.n_embd // 16

    @property
    def n_free(self) -> int:
        """The others."""
        return self.n_embd - self.n_const

    @property
    def c(self) -> float:
        """Chosen so that the constant part holds an eighth of the embedding's energy."""
        return math.sqrt(self.variance * self.n_free / (7 * self.n_const))

    @property
    def ffn_gain(self) -> float:
        """What one FFN adds to the variance, as a share of the embedding's."""
        return min(0.02, 0.12 / self.n_layer)

    @property
    def attn_gain(self) -> float:
        """The same of one attention at the first position; it averages, so that later ones add less."""
        return min(0.01, 0.05 / self.n_layer)

    def v(self, il: int) -> float:
        """Variance of a free coordinate at the FFN input of layer il, for positions after the first few."""
        attn = 0.1 * self.attn_gain
        return self.variance * (1.0 + il * (self.ffn_gain + attn) + attn)

    def mean_square(self, il: int) -> float:
        """rms^2 of the residual at the FFN input of layer il."""
        return (self.n_const * self.c**2 + self.n_free * self.v(il)) / self.n_embd


@dataclass(frozen=True)
class Basis:
    """What FFNs with predictors of one rank share; each sees it through a signed permutation of coordinates.

    `own` [m, n_free]: orthonormal directions that neurons mix in pairs. `seen` [m, n_free] = turn @ own: what fc1
    holds, as pairs +-, so that fc2 (rows of `turn`) is dense like a trained one. `order` [rank] scatters fc1's rows.
    """

    own: F32
    seen: F32
    turn: F32
    order: NDArray[np.intp]

    @property
    def n_bias(self) -> int:
        """Rows of fc1 that carry the constant."""
        return len(self.order) - 2 * len(self.turn)


def basis(rank: int, n_free: int, rng: np.random.Generator) -> Basis:
    """A random basis for predictors of `rank` over `n_free` coordinates."""
    m = max(1, min((rank - max(1, rank // 64)) // 2, n_free // 2))
    own = np.linalg.qr(rng.standard_normal((n_free, m), np.float32))[0].T.copy()
    turn = np.linalg.qr(rng.standard_normal((m, m), np.float32))[0]
    return Basis(own, turn @ own, turn, rng.permutation(rank))
