"""One request inside the scheduler: what it has evaluated, drawn and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from time import perf_counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..sampling import Sampler
from ..sequences import Row, SequenceModel
from ..stats import BatchStats, LayerDiagnosis, LayerStats, Meter, Sparsity, Timings
from ..text import TextAssembler
from .engine import Alternative, Done, Event, FinishReason, PromptProgress, Request, Token

CHUNK = 64  # prompt rows per batch; always the same, so that bits do not depend on what runs beside


class Way(NamedTuple):
    """How the FFN is evaluated; requests that differ in it never share a batch or a cache.

    Attributes:
        mode: "" for a model that is not sparse.
        shift: of the predictor's threshold, 0 outside of mode predicted.
    """

    mode: str = ""
    shift: float = 0.0


class Slot:
    """One sequence of the context.

    Attributes:
        tokens: what the sequence holds, evaluated in this `way`.
        used: running number of its latest request.
    """

    def __init__(self, number: int) -> None:
        self.id = number
        self.tokens: list[int] = []
        self.way = Way()
        self.used = 0
        self.run: Run | None = None


class LiveJob:
    """See engine.Job. Events come from the scheduler's thread and are read on the loop."""

    def __init__(self, number: int, request: Request, cancel: Callable[[LiveJob], None]) -> None:
        self.id = number
        self.request = request
        self.cancelled = False
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()

    def send(self, event: Event | BaseException) -> None:
        """Hand an event to the reader; any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            event = await self._events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, Done):
                return

    def cancel(self) -> None:
        """See engine.Job."""
        if not self.cancelled:
            self.cancelled = True
            self._cancel(self)


class Accounts:
    """Counters of evaluations as Sparsity; None throughout for a model that is not sparse."""

    def __init__(self, model: SequenceModel, sparse: bool) -> None:
        self._model = model
        self._sparse = sparse

    def meter(self) -> Meter:
        """An empty one."""
        info = self._model.info
        return Meter(info.bytes_ffn, info.n_neuron, info.branches)

    def take(self) -> tuple[list[BatchStats], list[LayerStats]]:
        """Of what was evaluated since the last call."""
        return self._model.stats(), self._model.layer_stats() if self._sparse else []

    def sparsity(self, batches: Sequence[BatchStats], layers: Sequence[LayerStats]) -> Sparsity | None:
        """Of one evaluation."""
        if not self._sparse:
            return None
        meter = self.meter()
        meter.add(batches, layers)
        return meter.sparsity()

    def total(self, meter: Meter) -> Sparsity | None:
        """Of everything in `meter`."""
        return meter.sparsity() if self._sparse else None


def part_of(batch: BatchStats, rows: int) -> BatchStats:
    """The even part that `rows` of a batch's rows had in it."""
    if rows == batch.n_tokens:
        return batch

    def part(value: int) -> int:
        return value * rows // batch.n_tokens

    total = LayerStats(**{field.name: part(getattr(batch.total, field.name)) for field in fields(LayerStats)})
    return replace(
        batch,
        n_tokens=rows,
        total=total,
        bytes_rest=part(batch.bytes_rest),
        ns_select=part(batch.ns_select),
        ns_gate_up=part(batch.ns_gate_up),
        ns_down=part(batch.ns_down),
    )


class Run:
    """A job from its admission to a slot to its end.

    Attributes:
        n_done: prompt tokens that are evaluated or were cached.
        pending: the token that was drawn last and not evaluated yet.
    """

    def __init__(self, job: LiveJob, slot: Slot, sampler: Sampler, way: Way, cached: int, accounts: Accounts) -> None:
        request = job.request
        self.job, self.slot, self.sampler, self.way = job, slot, sampler, way
        self.prompt = request.prompt
        self.n_done = cached
        self.pending: int | None = None
        self.n_drawn = 0
        self._diagnosis: list[LayerDiagnosis] = []
        self._accounts = accounts
        self._text = TextAssembler(request.params.stop)
        self._prompt_meter, self._meter = accounts.meter(), accounts.meter()
        self._start = self._prompt_end = perf_counter()
        self._timings = Timings(cache_n=cached)

    @property
    def n_evaluated(self) -> int:
        """Prompt tokens that were evaluated, cached ones left out."""
        return self.n_done - self._timings.cache_n

    @property
    def timings(self) -> Timings:
        """So far."""
        return self._timings

    @property
    def diagnose_every(self) -> int:
        """Of the next batch: see engine.Request; only prompts are diagnosed."""
        return self.job.request.diagnose_every if self.pending is None else 0

    def diagnosed(self, layers: Sequence[LayerDiagnosis]) -> None:
        """Note what the last batch's diagnosis showed."""
        self._diagnosis += layers

    def rows(self) -> list[Row]:
        """The next rows of this run: a piece of the prompt, or the token drawn last."""
        if self.pending is not None:
            return [Row(self.pending, self.slot.id, True)]
        end = min(self.n_done + CHUNK, len(self.prompt))
        last = len(self.prompt) - 1
        return [Row(self.prompt[i], self.slot.id, i == last) for i in range(self.n_done, end)]

    def evaluated(self, rows: Sequence[Row], batches: Sequence[BatchStats], layers: Sequence[LayerStats]) -> bool:
        """Note that `rows` were evaluated; returns whether there are logits to draw from."""
        meter = self._prompt_meter if self.pending is None else self._meter
        meter.add([part_of(batch, len(rows)) for batch in batches], layers)
        self.slot.tokens += [row.token for row in rows]
        if self.pending is not None:
            self.pending = None
            return True
        self.n_done += len(rows)
        now = perf_counter()
        ms = 1e3 * (now - self._start)
        self._timings = replace(self._timings, prompt_n=self.n_evaluated, prompt_ms=ms)
        self._prompt_end = now
        if self.job.request.progress:
            self.job.send(PromptProgress(len(self.prompt), self._timings.cache_n, self.n_done, ms))
        return self.n_done == len(self.prompt)

    def draw(self, model: SequenceModel, row: int, sparsity: Sparsity | None) -> FinishReason | None:
        """Draw a token from the logits of `row` and send it; returns why the run is over, if it is."""
        params, limit = self.job.request.params, self._limit(model.n_ctx)
        if limit == 0:
            return "length"
        token = model.sample_row(self.sampler, row)
        if model.is_end(token) and not params.ignore_eos:
            return "stop"
        self.n_drawn += 1
        ms = 1e3 * (perf_counter() - self._prompt_end)
        self._timings = replace(self._timings, predicted_n=self.n_drawn, predicted_ms=ms)
        self.job.send(self._token(model, token, row, sparsity))
        if self._text.stopped:
            return "stop"
        self.pending = token
        return "length" if self.n_drawn >= limit else None

    def _limit(self, n_ctx: int) -> int:
        """Tokens to draw at most; the last of them need not be evaluated."""
        room = n_ctx - len(self.prompt) + 1
        wanted = self.job.request.params.max_tokens
        return room if wanted is None else min(room, wanted)

    def _token(self, model: SequenceModel, token: int, row: int, sparsity: Sparsity | None) -> Token:
        request = self.job.request
        piece = model.piece(token, special=request.show_special)
        logprob: float | None = None
        alternatives: tuple[Alternative, ...] = ()
        if request.n_probs is not None:
            logprobs = log_softmax(model.row_logits(row))
            logprob = float(logprobs[token])
            alternatives = tuple(
                Alternative(int(i), model.piece(int(i), special=True), float(logprobs[i]))
                for i in likeliest(logprobs, request.n_probs)
            )
        return Token(token, piece, self._text.push(piece), logprob, alternatives, self._timings, sparsity)

    def done(self, reason: FinishReason) -> Done:
        """The last event."""
        return Done(
            text=self._text.finish(),
            finish_reason=reason,
            stop_text=self._text.stop_text,
            seed=self.job.request.params.seed or 0,
            mode=self.way.mode,
            n_prompt=len(self.prompt),
            timings=self._timings,
            sparsity=self._accounts.total(self._meter) or self._accounts.total(self._prompt_meter),
            prompt_sparsity=self._accounts.total(self._prompt_meter),
            diagnosis=LayerDiagnosis.total(self._diagnosis) if self._diagnosis else None,
        )


def unstarted(job: LiveJob) -> Done:
    """The last event of a job that was cancelled before it had a slot."""
    request = job.request
    return Done(
        "", "cancelled", "", request.params.seed or 0, request.mode or "", len(request.prompt), Timings(), None, None
    )


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Natural logarithms of the probabilities, float64 [n_vocab]."""
    shifted = logits.astype(np.float64) - float(logits.max())
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def likeliest(logprobs: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Indices of the `count` largest, best first; the lower index first among equals."""
    count = min(count, len(logprobs))
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    found = np.argpartition(-logprobs, count - 1)[:count]
    return found[np.lexsort((found, -logprobs[found]))]
