"""Continuous batching: one thread owns the context and runs all requests in steps.

A step is one llama_decode: a piece of one prompt, or one token of every request that generates in
one way. Requests join and leave between steps. Prompts and generation take turns by time, so
that a long prompt slows down those who are reading, but never stops them.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter

import numpy as np
import numpy.typing as npt

from ..errors import CancelledError, TurboSparseError
from ..sampling import Sampler
from ..sequences import Row, SequenceModel
from ..stats import Sparsity
from .engine import FinishReason, Metrics, NotReadyError, QueueFullError, SlotView
from .runs import Accounts, LiveJob, Run, Slot, Way, unstarted

log = logging.getLogger("turbosparse.server")

COPY_GAIN = 32  # tokens that copying another slot's beginning must save


class Waiting:
    """A job that has no slot yet."""

    def __init__(self, job: LiveJob, sampler: Sampler, way: Way) -> None:
        self.job, self.sampler, self.way = job, sampler, way


class Embedding:
    """A text whose embedding is wanted."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens
        self.result: Future[list[float]] = Future()


class Scheduler:
    """Runs the jobs of one model. Methods may be called from any thread; the model is its own from start to stop.

    Args:
        max_waiting: jobs that may wait for a slot.
        sparse: whether the model has counters.
    """

    def __init__(self, model: SequenceModel, *, max_waiting: int, sparse: bool) -> None:
        self._model = model
        self._max_waiting = max_waiting
        self._accounts = Accounts(model, sparse)
        self._slots = [Slot(i) for i in range(model.n_seq)]
        self._waiting: deque[Waiting] = deque()
        self._embeddings: deque[Embedding] = deque()  # they need sequence 0
        self._change = threading.Condition()
        self._current: frozenset[LiveJob] = frozenset()  # of the batch under way
        self._stopping = False
        self._admissions = 0
        self._way = Way()  # that the model is set to
        self._turn = Way()  # that generated last
        self._prompt_debt = 0.0  # seconds that prompts took more than generation
        self._metrics = Metrics()
        self._thread = threading.Thread(target=self._work, name="turbosparse-engine", daemon=True)
        self._thread.start()

    # --- from other threads -------------------------------------------------------

    def submit(self, job: LiveJob, sampler: Sampler, way: Way) -> None:
        """Queue a job. Raises QueueFullError, NotReadyError."""
        with self._change:
            if self._stopping:
                raise NotReadyError("the model is being closed", where="model")
            free = sum(slot.run is None for slot in self._slots)
            if len(self._waiting) >= self._max_waiting + free:
                raise QueueFullError(
                    f"{len(self._waiting)} requests wait already; try again soon",
                    where="queue",
                    expected=f"at most {self._max_waiting}",
                    found=str(len(self._waiting)),
                )
            self._waiting.append(Waiting(job, sampler, way))
            self._change.notify()

    def cancel(self, job: LiveJob) -> None:
        """End a job: at once while it waits or is alone in the batch under way, else after that batch."""
        with self._change:
            found = next((waiting for waiting in self._waiting if waiting.job is job), None)
            if found is not None:
                self._waiting.remove(found)
                self._drop(found, None)
            elif self._current == {job}:
                self._model.stop_decode()
            self._change.notify()

    def embed(self, tokens: Sequence[int]) -> Future[list[float]]:
        """Mean of the hidden states, of length 1. Raises QueueFullError, NotReadyError."""
        with self._change:
            if self._stopping:
                raise NotReadyError("the model is being closed", where="model")
            if len(self._embeddings) >= self._max_waiting:
                raise QueueFullError(f"{len(self._embeddings)} texts wait already; try again soon", where="queue")
            self._embeddings.append(Embedding(tokens))
            self._change.notify()
            return self._embeddings[-1].result

    def stop(self) -> None:
        """End every job with NotReadyError, then the thread. The model is free afterwards."""
        with self._change:
            self._stopping = True
            if self._current:
                self._model.stop_decode()
            self._change.notify()
        self._thread.join()

    def slots(self) -> list[SlotView]:
        """As engine.Engine.slots."""
        return [self._view(slot) for slot in self._slots]

    def _view(self, slot: Slot) -> SlotView:
        run = slot.run
        return SlotView(
            id=slot.id,
            job=run.job.id if run else -1,
            busy=run is not None,
            n_ctx=self._model.n_ctx,
            n_cached=len(slot.tokens),
            n_prompt=len(run.prompt) if run else 0,
            n_prompt_done=run.n_done if run else 0,
            n_decoded=run.n_drawn if run else 0,
            mode=slot.way.mode,
            params=run.job.request.params if run else None,
        )

    def metrics(self) -> Metrics:
        """As engine.Engine.metrics."""
        busy = sum(slot.run is not None for slot in self._slots)
        return replace(self._metrics, requests_processing=busy, requests_waiting=len(self._waiting))

    # --- the thread ---------------------------------------------------------------

    def _work(self) -> None:
        while self._await_work():
            try:
                self._settle()
                self._embed()
                self._admit()
                self._step()
            except Exception as error:
                log.exception("a step of the engine failed")
                self._fail(self._runs(), error)
        self._fail(self._runs(), NotReadyError("the model was closed", where="model"))
        with self._change:
            while self._waiting:
                self._drop(self._waiting.popleft(), NotReadyError("the model was closed", where="model"))
            while self._embeddings:
                self._embeddings.popleft().result.set_exception(NotReadyError("the model was closed", where="model"))

    def _await_work(self) -> bool:
        """Sleep until there is something to do; False when it is to end."""
        with self._change:
            while not (self._stopping or self._waiting or self._embeddings or self._runs()):
                self._change.wait()
            return not self._stopping

    def _runs(self) -> list[Run]:
        return [slot.run for slot in self._slots if slot.run is not None]

    def _settle(self) -> None:
        """Let cancelled runs go."""
        for run in self._runs():
            if run.job.cancelled:
                self._finish(run, "cancelled")

    # --- admission ------------------------------------------------------------------

    def _admit(self) -> None:
        """Give waiting jobs the idle slots, first come first served among those that may use one."""
        with self._change:
            for waiting in list(self._waiting):
                idle = self._idle(waiting.job.request.slot)
                if idle and not self._is_being_read(waiting):
                    self._waiting.remove(waiting)
                    self._begin(waiting, idle)

    def _is_being_read(self, waiting: Waiting) -> bool:
        """Whether another run reads the very same prompt now: what it has read is copied then."""
        request = waiting.job.request
        return request.cache_prompt and any(
            run.pending is None and run.way == waiting.way and run.prompt == request.prompt for run in self._runs()
        )

    def _idle(self, wanted: int | None) -> list[Slot]:
        free = self._slots[1:] if self._embeddings else self._slots
        return [slot for slot in free if slot.run is None and wanted in (None, slot.id)]

    def _embed(self) -> None:
        """The embedding that waits longest, once sequence 0 is idle."""
        slot = self._slots[0]
        if slot.run is not None or not self._embeddings:
            return
        with self._change:
            task = self._embeddings.popleft()
        slot.tokens = []
        if task.result.set_running_or_notify_cancel():
            try:
                task.result.set_result(unit_mean(self._model.hidden_states(task.tokens)))
            except TurboSparseError as error:
                task.result.set_exception(error)
            self._model.stats()

    def _begin(self, waiting: Waiting, idle: Sequence[Slot]) -> None:
        job, prompt = waiting.job, waiting.job.request.prompt
        self._admissions += 1
        try:
            slot, cached = self._place(idle, prompt, waiting.way, job.request.cache_prompt)
            tail = job.request.params.penalty_last_n
            waiting.sampler.accept(prompt[-tail:] if tail > 0 else prompt if tail < 0 else ())
        except TurboSparseError as error:
            self._drop(waiting, error)
            return
        slot.way, slot.used = waiting.way, self._admissions
        slot.run = Run(job, slot, waiting.sampler, waiting.way, cached, self._accounts)
        self._metrics.cached_tokens += cached

    def _place(self, idle: Sequence[Slot], prompt: Sequence[int], way: Way, reuse: bool) -> tuple[Slot, int]:
        """The slot to use and how many tokens of `prompt` it holds now, everything else in it forgotten."""

        def shared(slot: Slot) -> int:
            return common(slot.tokens, prompt) if reuse and slot.way == way else 0

        slot = max(idle, key=lambda slot: (shared(slot), -slot.used))
        cached = shared(slot)
        source = max(self._slots, key=shared)
        if shared(source) >= cached + COPY_GAIN:
            slot, cached = min(idle, key=lambda slot: slot.used), shared(source)
            self._model.copy(source.id, slot.id)
            slot.tokens = list(source.tokens)
        kept = self._model.keep(slot.id, cached) if slot.tokens else 0
        slot.tokens = slot.tokens[:kept]
        return slot, kept

    # --- steps ------------------------------------------------------------------------

    def _step(self) -> None:
        runs = self._choose()
        if not runs:
            return
        rows = [run.rows() for run in runs]
        flat = [row for own in rows for row in own]
        prompt = runs[0].pending is None
        start = perf_counter()
        if not self._decode(runs, flat):
            return
        seconds = perf_counter() - start
        self._account(runs, flat, prompt, seconds)
        batches, layers = self._accounts.take()
        sparsity = self._accounts.sparsity(batches, layers)
        if sparsity is not None:
            self._count_sparsity(sparsity)
        row = -1
        for run, own in zip(runs, rows, strict=True):
            row += len(own)
            if run.evaluated(own, batches, layers):
                self._draw(run, row, sparsity)

    def _draw(self, run: Run, row: int, sparsity: Sparsity | None) -> None:
        before = run.n_drawn
        try:
            reason = run.draw(self._model, row, sparsity)
        except TurboSparseError as error:
            self._fail([run], error)
            return
        finally:
            self._metrics.predicted_tokens += run.n_drawn - before
        if reason is not None:
            self._finish(run, reason)

    def _choose(self) -> list[Run]:
        """Who takes part in the next batch: one with a prompt to read, or all that generate in one way."""
        runs = self._runs()
        reading = [run for run in runs if run.pending is None]
        writing = [run for run in runs if run.pending is not None]
        if reading and (not writing or self._prompt_debt <= 0):
            return [min(reading, key=lambda run: run.slot.used)]
        ways = sorted({run.way for run in writing})
        if not ways:
            return []
        self._turn = next((way for way in ways if way > self._turn), ways[0])
        return [run for run in writing if run.way == self._turn]

    def _decode(self, runs: Sequence[Run], rows: Sequence[Row]) -> bool:
        """One batch; False when it was stopped and nothing has changed."""
        with self._change:
            self._current = frozenset(run.job for run in runs)
            if self._stopping or any(run.job.cancelled for run in runs):
                self._current = frozenset()
                return False
        try:
            self._set_way(runs[0].way)
            with self._diagnosing(runs[0]):
                self._model.decode(rows)
        except CancelledError:
            return False
        finally:
            with self._change:
                self._current = frozenset()
        return True

    def _set_way(self, way: Way) -> None:
        if way.mode and way != self._way:
            self._model.mode = way.mode
            self._model.shift_threshold(way.shift)
        self._way = way

    @contextmanager
    def _diagnosing(self, run: Run) -> Iterator[None]:
        every = run.diagnose_every
        if not every:
            yield
            return
        self._model.set_diagnosis(every)
        try:
            yield
            run.diagnosed(self._model.read_diagnosis())
        finally:
            self._model.set_diagnosis(0)

    def _account(self, runs: Sequence[Run], rows: Sequence[Row], prompt: bool, seconds: float) -> None:
        m = self._metrics
        m.decode_calls += 1
        m.busy_slots += len(self._runs())
        others = any((run.pending is None) != prompt for run in self._runs())
        if prompt:
            m.prompt_tokens += len(rows)
            m.prompt_seconds += seconds
            self._prompt_debt = self._prompt_debt + seconds if others else 0.0
        else:
            m.predicted_seconds += seconds
            self._prompt_debt = max(self._prompt_debt - seconds, 0.0) if others else 0.0

    def _count_sparsity(self, sparsity: Sparsity) -> None:
        m = self._metrics
        m.rows += sparsity.rows
        m.rows_dense += sparsity.rows_dense
        m.bytes_read += sparsity.bytes_read
        m.bytes_dense += sparsity.bytes_dense
        m.predictor_seconds += sparsity.predictor_ms / 1e3

    # --- ends ---------------------------------------------------------------------------

    def _leave(self, run: Run) -> None:
        run.sampler.close()
        run.slot.run = None
        self._metrics.longest_sequence = max(self._metrics.longest_sequence, len(run.slot.tokens))

    def _finish(self, run: Run, reason: FinishReason) -> None:
        self._leave(run)
        if reason == "cancelled":
            self._metrics.requests_cancelled += 1
        else:
            self._metrics.requests_done += 1
        run.job.send(run.done(reason))

    def _fail(self, runs: Iterable[Run], error: Exception) -> None:
        for run in runs:
            self._leave(run)
            run.slot.tokens = run.slot.tokens[: self._model.length(run.slot.id)]
            self._metrics.requests_failed += 1
            run.job.send(error)

    def _drop(self, waiting: Waiting, error: Exception | None) -> None:
        """End a job that never had a slot: with `error`, or as cancelled."""
        waiting.sampler.close()
        if error is None:
            self._metrics.requests_cancelled += 1
            waiting.job.send(unstarted(waiting.job))
        else:
            self._metrics.requests_failed += 1
            waiting.job.send(error)


def unit_mean(states: npt.NDArray[np.float32]) -> list[float]:
    """Mean over tokens of states [n_tokens, n_embd], scaled to length 1 (L2)."""
    mean = states.astype(np.float64).mean(axis=0)
    return [float(x) for x in mean / max(float(np.linalg.norm(mean)), 1e-12)]


def common(before: Sequence[int], prompt: Sequence[int]) -> int:
    """Length of the common beginning, the last prompt token left out: its logits are needed."""
    pairs = zip(before, prompt[:-1], strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(prompt) - 1))
