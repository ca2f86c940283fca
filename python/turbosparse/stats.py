"""What an evaluation did: counters of the library, and the figures shown to users.

"Measured" is counted or timed while the work is done; "derived" is computed from tensor
shapes. Nothing is estimated. The names on the wire are those of llama-server (timings) and
of docs/cli (sparsity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class LayerStats:
    """Counters of one layer, or summed over layers. All measured.

    Attributes:
        n_neuron: n_ff x FFN columns (a column: one token, or for MoE one token and expert).
        n_selected: neurons that the predictor let pass (n_neuron without one).
        n_active: neurons whose product was not zero.
        rows_gate, rows_up, rows_down: weight rows computed, over all columns.
        bytes_ffn: bytes of those rows.
        bytes_predictor: bytes of fc1 and fc2, over all columns.
    """

    n_neuron: int
    n_selected: int
    n_active: int
    rows_gate: int
    rows_up: int
    rows_down: int
    bytes_ffn: int
    bytes_predictor: int

    @property
    def rows(self) -> int:
        """Gate, up and down rows computed."""
        return self.rows_gate + self.rows_up + self.rows_down


@dataclass(frozen=True)
class LayerDiagnosis:
    """What some columns, computed in full, show of one layer's selection, or summed over layers. All measured.

    Attributes:
        n_column: FFN columns computed in full.
        n_neuron: n_ff x n_column.
        n_gate, n_up: neurons whose gate, whose up is above 0, whatever the other is.
        n_active: neurons whose product is not zero, selected or not.
        n_selected: neurons that were let pass.
        n_hit: both.
        weight_active, weight_hit: n_active and n_hit with each neuron counted by |product|.
    """

    n_column: int
    n_neuron: int
    n_gate: int
    n_up: int
    n_active: int
    n_selected: int
    n_hit: int
    weight_active: float
    weight_hit: float

    @property
    def recall(self) -> float:
        """Share of active neurons that were selected."""
        return self.n_hit / self.n_active if self.n_active else 1.0

    @property
    def weighted_recall(self) -> float:
        """The same by activation."""
        return self.weight_hit / self.weight_active if self.weight_active else 1.0

    @classmethod
    def total(cls, layers: Sequence[LayerDiagnosis]) -> LayerDiagnosis:
        """Sum over layers."""
        return cls(*(sum(getattr(layer, field.name) for layer in layers) for field in fields(cls)))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: shares of all neurons, and recalls."""
        shares = {
            name: _share(getattr(self, f"n_{name}"), self.n_neuron) for name in ("gate", "up", "active", "selected")
        }
        return {"columns": self.n_column, **shares, "recall": self.recall, "weighted_recall": self.weighted_recall}


@dataclass(frozen=True)
class BatchStats:
    """One llama_decode batch.

    Attributes:
        i_eval: running number in the context; jumps where records were lost (4096 are kept).
        n_tokens: in the batch.
        mode: of the FFN.
        total: measured counters, summed over layers.
        bytes_rest: derived; the weights outside the FFN, read once per batch.
        ns_select, ns_gate_up, ns_down: measured; wall time inside the FFN blocks.
        ns_total: measured; wall time of the whole batch.
    """

    i_eval: int
    n_tokens: int
    mode: str
    total: LayerStats
    bytes_rest: int
    ns_select: int
    ns_gate_up: int
    ns_down: int
    ns_total: int


@dataclass(frozen=True)
class Sparsity:
    """How much of the dense work some batches did.

    Attributes:
        mode: of the FFN, as in the last batch.
        tokens: evaluated; every figure below covers all of them together.
        active_frac: measured; neurons whose product was not zero, of all neurons.
        selected_frac: measured; neurons that the predictor let pass, of all neurons (1 without one).
        rows: measured; gate, up and down rows computed.
        rows_dense: derived; the rows that mode `dense` computes.
        bytes_read: measured FFN and predictor rows plus derived other weights, bytes.
        bytes_dense: derived; what a dense graph reads, bytes.
        predictor_ms: measured; wall time of neuron selection.
        layers: measured; active_frac of each layer (of the last batch of a longer prompt).
    """

    mode: str
    tokens: int
    active_frac: float
    selected_frac: float
    rows: int
    rows_dense: int
    bytes_read: int
    bytes_dense: int
    predictor_ms: float
    layers: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "layers": list(self.layers)}


@dataclass(frozen=True)
class Timings:
    """Token counts and wall times, named as in llama-server. All measured.

    Attributes:
        cache_n: prompt tokens taken over from the sequence before.
        prompt_n, prompt_ms: prompt tokens evaluated, and the time it took.
        predicted_n, predicted_ms: tokens generated, and the time of drawing and evaluating them.
    """

    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0

    @property
    def prompt_per_second(self) -> float:
        """Prompt tokens evaluated per second; 0 before any."""
        return _rate(self.prompt_n, self.prompt_ms)

    @property
    def predicted_per_second(self) -> float:
        """Tokens generated per second; 0 before any."""
        return _rate(self.predicted_n, self.predicted_ms)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the derived rates."""
        return {
            "cache_n": self.cache_n,
            "prompt_n": self.prompt_n,
            "prompt_ms": self.prompt_ms,
            "prompt_per_token_ms": self.prompt_ms / max(self.prompt_n, 1),
            "prompt_per_second": self.prompt_per_second,
            "predicted_n": self.predicted_n,
            "predicted_ms": self.predicted_ms,
            "predicted_per_token_ms": self.predicted_ms / max(self.predicted_n, 1),
            "predicted_per_second": self.predicted_per_second,
        }


def _rate(count: int, ms: float) -> float:
    return 1e3 * count / ms if ms > 0 else 0.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


class Meter:
    """Adds up the counters of evaluations into one Sparsity.

    Args:
        bytes_ffn: of gate, up and down of all layers and experts.
        n_neuron: of all layers and experts.
        branches: rows per neuron, 3 with a gate and 2 without.
    """

    def __init__(self, bytes_ffn: int, n_neuron: int, branches: int) -> None:
        self._bytes_ffn = bytes_ffn
        self._n_neuron = n_neuron
        self._branches = branches
        self._mode = ""
        self._sums = dict.fromkeys((field.name for field in fields(LayerStats)), 0)
        self._tokens = self._bytes_rest = self._ns_select = 0
        self._layers: list[tuple[int, int]] = []

    def add(self, batches: Sequence[BatchStats], layers: Sequence[LayerStats]) -> None:
        """Count `batches` in, and `layers`, the counters of the last of them."""
        for batch in batches:
            self._add_batch(batch)
        seen = self._layers or [(0, 0)] * len(layers)
        self._layers = [
            (n_active + layer.n_active, n_neuron + layer.n_neuron)
            for (n_active, n_neuron), layer in zip(seen, layers, strict=True)
        ]

    def _add_batch(self, batch: BatchStats) -> None:
        for name in self._sums:
            self._sums[name] += getattr(batch.total, name)
        self._mode = batch.mode
        self._tokens += batch.n_tokens
        self._bytes_rest += batch.bytes_rest
        self._ns_select += batch.ns_select

    def sparsity(self) -> Sparsity | None:
        """Of everything added; None before the first batch."""
        if self._tokens == 0:
            return None
        total = LayerStats(**self._sums)
        return Sparsity(
            mode=self._mode,
            tokens=self._tokens,
            active_frac=_share(total.n_active, total.n_neuron),
            selected_frac=_share(total.n_selected, total.n_neuron),
            rows=total.rows,
            rows_dense=total.n_neuron * self._branches,
            bytes_read=total.bytes_ffn + total.bytes_predictor + self._bytes_rest,
            bytes_dense=total.n_neuron * self._bytes_ffn // self._n_neuron + self._bytes_rest,
            predictor_ms=self._ns_select / 1e6,
            layers=tuple(_share(n_active, n_neuron) for n_active, n_neuron in self._layers),
        )
