"""Our side of a benchmark: a Model that is brought to a depth and runs turns, with its counters."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from .. import state
from ..errors import ArgumentError
from ..sequences import Row, SequenceModel
from ..stats import BatchStats, LayerDiagnosis
from .kv import SEED_TOKENS, deepen
from .plan import Settings, Work, tokens

if TYPE_CHECKING:
    from typing_extensions import Self

RECALL_TOKENS = 8


@dataclasses.dataclass(frozen=True)
class Counters:
    """What the engine counted in some batches, summed. See turbosparse.stats for the meaning."""

    n_tokens: int = 0
    n_neuron: int = 0
    n_selected: int = 0
    n_active: int = 0
    rows: int = 0
    bytes_ffn: int = 0
    bytes_predictor: int = 0
    bytes_rest: int = 0
    ns_select: int = 0
    ns_gate_up: int = 0
    ns_down: int = 0
    ns_total: int = 0

    @classmethod
    def of(cls, batches: Iterable[BatchStats]) -> Counters:
        """The sums of `batches`."""
        found = cls()
        for b in batches:
            t = b.total
            found += cls(
                b.n_tokens, t.n_neuron, t.n_selected, t.n_active, t.rows, t.bytes_ffn, t.bytes_predictor,
                b.bytes_rest, b.ns_select, b.ns_gate_up, b.ns_down, b.ns_total,
            )  # fmt: skip
        return found

    def __add__(self, other: Counters) -> Counters:
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Counters(*(a + b for a, b in zip(mine, theirs, strict=True)))

    @property
    def bytes_read(self) -> int:
        """Weights read: counted FFN and predictor rows, derived rest."""
        return self.bytes_ffn + self.bytes_predictor + self.bytes_rest


class Engine:
    """A TurboSparse file, loaded for `mode` (as Model has it), with room for n_ctx tokens in each of n_seq sequences.

    Raises:
        ArgumentError: settings that this engine does not have. Else as Model.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        n_ctx: int,
        n_seq: int = 1,
        memory: str = "auto",
        mode: str | None = None,
    ) -> None:
        if settings.type_k != settings.type_v:
            raise ArgumentError(
                f"turbosparse keeps K and V in one type, not {settings.type_k} and {settings.type_v}",
                where="-ctk, -ctv",
                expected="one type",
                found=f"{settings.type_k}, {settings.type_v}",
            )
        self.n_seq = n_seq
        self.model = SequenceModel(
            path,
            mode=mode,
            n_seq=n_seq,
            n_ctx=n_ctx,
            n_threads=settings.n_threads,
            kv_type=settings.type_k,
            flash_attn=settings.flash_attn,
            n_batch=settings.n_batch,
            n_ubatch=settings.n_ubatch,
            ignore_swa=True,
            memory=memory,
        )

    def seat(self, depth: int) -> None:
        """Every sequence at `depth` tokens, made of a few evaluated ones."""
        self.model.reset()
        if depth:
            for token in tokens(SEED_TOKENS, self.model.info.n_vocab, 0):
                self.model.eval([token])
            state.load(self.model, deepen(state.save(self.model), depth))
        for sequence in range(1, self.n_seq):
            self.model.copy(0, sequence)

    def run(self, work: Work, mode: str) -> tuple[int, Counters]:
        """Nanoseconds and counters of a turn."""
        model, at = self.model, work.at
        model.mode = mode
        for sequence in range(self.n_seq):
            model.keep(sequence, at)
        if work.warm:
            self._step(at)
            at += 1
        model.stats()
        prompt = tokens(work.n_prompt, model.info.n_vocab, at)
        start = time.perf_counter_ns()
        if prompt:
            model.append(prompt)
        for position in range(at + work.n_prompt, at + work.n_tokens):
            self._step(position)
        return time.perf_counter_ns() - start, Counters.of(model.stats())

    def _step(self, position: int) -> None:
        """One token of every sequence."""
        drawn = [tokens(1, self.model.info.n_vocab, position, s)[0] for s in range(self.n_seq)]
        if self.n_seq == 1:
            self.model.append(drawn)
        else:
            self.model.decode([Row(token, s, True) for s, token in enumerate(drawn)])

    def recall(self, at: int, n: int) -> float:
        """Share of the active neurons that the predictor selects, over some tokens from `at`, not timed."""
        self.model.set_diagnosis(1)
        try:
            self.run(Work(at, n_gen=min(n, RECALL_TOKENS)), "predicted")
            return LayerDiagnosis.total(self.model.read_diagnosis()).recall
        finally:
            self.model.set_diagnosis(0)

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_time(path: Path, settings: Settings, mode: str, memory: str = "auto") -> tuple[int, bool]:
    """Nanoseconds from nothing to the first token's logits, and whether the weights were copied."""
    start = time.perf_counter_ns()
    with Engine(path, settings, 512, memory=memory, mode=mode) as engine:
        engine.run(Work(0, 1), mode)
        return time.perf_counter_ns() - start, engine.model.resident
