"""An engine without a model: it says what a script says, at a set speed, with made-up counters.

Everything is a function of the request, so tests can predict it. It keeps the rules of the real
one: slots, a bounded queue, prefix reuse, cancellation between tokens, stop strings, length.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, time
from typing import Any

from ..chat_template import CHATML, render
from ..errors import ArgumentError, ContextOverflowError, FileError, UnsupportedModelError
from ..sampling import SamplingParams
from ..stats import LayerDiagnosis, Sparsity, Timings
from ..text import TextAssembler
from .engine import (
    Advice,
    Alternative,
    Done,
    Event,
    FinishReason,
    LoadOptions,
    MemoryPlan,
    Metrics,
    ModelCard,
    NotReadyError,
    Pool,
    PromptProgress,
    QueueFullError,
    Request,
    SlotView,
    State,
    Token,
)

ACTIVE = {"dense": 0.12, "exact": 0.12, "predicted": 0.1}  # share of neurons that are not zero
ROWS = {"dense": 1.0, "exact": 0.41, "predicted": 0.11}  # share of rows computed
N_LAYER, N_FF, N_EMBD = 8, 1024, 256
BYTES_ROW, BYTES_REST = 4 * N_EMBD, 12_000_000

BOS, EOS, IM_START, IM_END = 256, 257, 258, 259
CONTROL = {BOS: "<s>", EOS: "</s>", IM_START: "<|im_start|>", IM_END: "<|im_end|>"}
_TEXT = """\
the a of to and in is that it for on with as at by from this be are was not or have an they which one you all
will can there each about how up out them then many some so these would other into has more two like him time
sparse neurons neuron model token tokens layer active computed only memory fast answer question hello thanks"""
WORDS = _TEXT.split()
PIECES = [" " + word for word in WORDS] + WORDS
FIRST_PIECE = 260
N_VOCAB = FIRST_PIECE + len(PIECES)

Script = Callable[[str, Request], Iterable[str]]


def default_script(prompt: str, request: Request) -> Iterable[str]:
    """What the fake says unless told otherwise.

    JSON when a grammar is set; a call of the first tool when tools are offered and the last
    message is not a tool's answer; what follows "say: " in the last user message; else prose that
    depends on prompt and seed.
    """
    if request.params.grammar is not None and "<tool_call>" not in request.params.grammar:
        return ['{"answer": ', "42", "}"]
    tool = re.search(r'<tools>.*?"name": "([^"]+)"', prompt, re.DOTALL)
    turn = re.split(r"<\|im_start\|>", prompt)[-2] if "<|im_start|>" in prompt else prompt
    if tool and not turn.startswith("tool"):
        return ["<tool_call>\n", json.dumps({"name": tool[1], "arguments": {"city": "Paris"}}), "\n</tool_call>"]
    said = re.search(r"say: (.*?)(?:<\|im_end\|>|$)", turn, re.DOTALL)
    return [said[1]] if said else _prose(prompt, request.params.seed or 0)


def _prose(prompt: str, seed: int) -> Iterable[str]:
    state = zlib.crc32(f"{seed}:{prompt}".encode())
    for i in range(40):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        word = WORDS[(state >> 8) % len(WORDS)]
        yield word.capitalize() if i == 0 else f" {word}"
    yield "."


@dataclass
class _Slot:
    id: int
    job: FakeJob | None = None
    tokens: list[int] = field(default_factory=list)
    n_prompt_done: int = 0
    n_decoded: int = 0
    mode: str = ""


class FakeJob:
    """See engine.Job."""

    def __init__(self, number: int, request: Request, engine: FakeEngine) -> None:
        self.id = number
        self.request = request
        self.cancelled = asyncio.Event()
        self._engine = engine
        self._read = False

    async def __aiter__(self) -> AsyncIterator[Event]:
        self._read = True
        async for event in self._engine.run(self):
            yield event

    def cancel(self) -> None:
        """See engine.Job."""
        self.cancelled.set()
        if not self._read:  # it runs when it is read, which may never come
            self._engine.forget(self)


class FakeEngine:
    """See engine.Engine.

    Args:
        script: (prompt text, request) -> pieces of the answer.
        tokens_per_second, prompt_per_second: 0 = as fast as the loop goes.
        n_parallel, n_ctx, max_waiting: slots, tokens of each, requests that may wait for one.
        load_seconds: what load() takes.
        loaded: whether a model is there from the start.
        sparse: whether the model pretends to be sparse.
        fail_at: raise RuntimeError when this many tokens have been generated; tests of errors in streams.

    Attributes:
        hold_at: no generation goes beyond this many tokens; None lets them run. Any thread may change it, so that a
            test can look at a reply under way for as long as it likes.
    """

    def __init__(
        self,
        script: Script = default_script,
        *,
        tokens_per_second: float = 0,
        prompt_per_second: float = 0,
        n_parallel: int = 2,
        n_ctx: int = 4096,
        max_waiting: int = 8,
        load_seconds: float = 0,
        loaded: bool = True,
        sparse: bool = True,
        fail_at: int | None = None,
    ) -> None:
        self.script = script
        self.tokens_per_second = tokens_per_second
        self.prompt_per_second = prompt_per_second
        self.load_seconds = load_seconds
        self.sparse = sparse
        self.fail_at = fail_at
        self.hold_at: int | None = None
        self._max_waiting = max_waiting
        self._defaults = LoadOptions(n_ctx=n_ctx, n_parallel=n_parallel)
        self._metrics = Metrics()
        self._jobs = 0
        self._live: set[FakeJob] = set()
        self._state: State = "empty"
        self._card: ModelCard | None = None
        self._slots: list[_Slot] = []
        self._free = asyncio.Condition()
        if loaded:
            self._open(Path("fake-model.gguf"), self._defaults)

    # --- the model ------------------------------------------------------------

    @property
    def state(self) -> State:
        """See engine.Engine."""
        return self._state

    @property
    def card(self) -> ModelCard:
        """See engine.Engine."""
        if self._card is None:
            raise NotReadyError("no model is loaded", where="model", expected="a loaded model", found=self._state)
        return self._card

    def _open(self, path: Path, options: LoadOptions) -> ModelCard:
        n_ctx = options.n_ctx or self._defaults.n_ctx or 4096
        n_parallel = options.n_parallel or self._defaults.n_parallel or 1
        self._slots = [_Slot(i) for i in range(n_parallel)]
        self._state = "ready"
        self._card = ModelCard(
            id=path.stem,
            name=path.stem.replace("-", " ").title(),
            path=str(path),
            created=int(time()),
            sparse=self.sparse,
            note="" if self.sparse else "The file is no TurboSparse model: stock llama.cpp runs it, every neuron.",
            architecture="turbosparse" if self.sparse else "llama",
            activation="drelu" if self.sparse else "",
            modes=tuple(ACTIVE) if self.sparse else (),
            default_mode=(options.mode or "predicted") if self.sparse else "",
            has_predictor=self.sparse,
            resident=False,
            n_ctx=n_ctx,
            n_ctx_train=n_ctx,
            n_parallel=n_parallel,
            n_threads=options.n_threads or 1,
            n_vocab=N_VOCAB,
            n_embd=N_EMBD,
            n_layer=N_LAYER,
            n_ff=N_FF,
            n_expert=0,
            bytes_file=42_000_000,
            bytes_dense_token=BYTES_REST + 3 * N_LAYER * N_FF * BYTES_ROW,
            chat_template=CHATML,
            bos_token=CONTROL[BOS],
            eos_token=CONTROL[IM_END],
            defaults=SamplingParams(),
        )
        return self._card

    async def load(
        self,
        path: str | Path,
        options: LoadOptions | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> ModelCard:
        """See engine.Engine. A path with "missing" or "broken" in it fails."""
        await self.unload()
        self._state = "loading"
        for i in range(10):
            if progress:
                progress(i / 10)
            await asyncio.sleep(self.load_seconds / 10)
        if "missing" in str(path) or "broken" in str(path):
            self._state = "failed"
            raise FileError(f"{path} cannot be opened: no such file", where=str(path), expected="a file", found="none")
        if progress:
            progress(1.0)
        return self._open(Path(path), options or self._defaults)

    async def unload(self) -> None:
        """See engine.Engine."""
        self._state, self._card = "empty", None
        for job in list(self._live):
            job.cancel()
        while self._live:
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        """See engine.Engine."""
        await self.unload()

    async def plan(self, path: str | Path, options: LoadOptions | None = None) -> MemoryPlan:
        """See engine.Engine. A path with "huge" in it does not fit."""
        options = options or self._defaults
        kv = (options.n_ctx or 4096) * (options.n_parallel or 1) * 1024
        weights = 80_000_000_000 if "huge" in str(path) else 42_000_000
        pools = (
            Pool("weights", "mapped file", weights, "read where they lie"),
            Pool("kv", "ram", kv, "keys and values of the context"),
            Pool("compute", "ram", 64_000_000, "one graph"),
        )
        needed, available = sum(pool.needed for pool in pools), 8_000_000_000
        advice = Advice("Halve the context.", {"n_ctx": (options.n_ctx or 4096) // 2}, needed - kv // 2)
        return MemoryPlan(pools, needed, available, needed <= available, () if needed <= available else (advice,))

    # --- text -------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """See engine.Engine."""
        _ = self.card  # raises without a model
        tokens = [BOS] if add_special else []
        parts = _CONTROL_TEXT.split(text) if parse_special else [text]
        for part in parts:
            tokens += [_CONTROL_ID[part]] if parse_special and part in _CONTROL_ID else _split(part)
        return tokens

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """See engine.Engine."""
        if not 0 <= token < N_VOCAB:
            raise ArgumentError(f"there is no token {token}", where="tokens", expected=f"0 .. {N_VOCAB - 1}")
        if token < BOS:
            return bytes([token])
        if token < FIRST_PIECE:
            return CONTROL[token].encode() if special else b""
        return PIECES[token - FIRST_PIECE].encode()

    def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """See engine.Engine."""
        return b"".join(self.piece(token, special=special) for token in tokens).decode("utf-8", "replace")

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """See engine.Engine."""
        return render(
            messages, self.card.chat_template, add_generation_prompt=variables.get("add_generation_prompt", True)
        )

    def encode(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """See engine.Engine."""
        return self.tokenize(self.render(messages, **variables))

    # --- requests ---------------------------------------------------------------

    def submit(self, request: Request) -> FakeJob:
        """See engine.Engine."""
        card = self.card
        if len(request.prompt) >= card.n_ctx:
            raise ContextOverflowError(
                f"the prompt has {len(request.prompt)} tokens, the context holds {card.n_ctx}",
                needed=len(request.prompt),
                available=card.n_ctx,
                where="prompt",
            )
        if request.mode is not None and request.mode not in card.modes:
            raise UnsupportedModelError(f"the model has no mode {request.mode}", where="mode", found=request.mode)
        if request.slot is not None and not 0 <= request.slot < card.n_parallel:
            raise ArgumentError(f"there is no slot {request.slot}", where="id_slot", found=str(request.slot))
        if len(self._live) >= self._max_waiting + card.n_parallel:
            raise QueueFullError(f"{len(self._live)} requests are here already", where="queue")
        self._jobs += 1
        job = FakeJob(self._jobs, replace(request, params=request.params.with_seed()), self)
        self._live.add(job)
        return job

    def forget(self, job: FakeJob) -> None:
        """A job that ended."""
        self._live.discard(job)

    async def run(self, job: FakeJob) -> AsyncIterator[Event]:
        """A job's events."""
        try:
            slot, ended = await self._admit(job), False
            try:
                async for event in _Generation(self, job, slot).events():
                    ended = isinstance(event, Done)
                    yield event
            finally:
                self._metrics.requests_cancelled += job.cancelled.is_set() and not ended  # nobody read to the end
                slot.job = None
                async with self._free:
                    self._free.notify_all()
        except NotReadyError:
            self._metrics.requests_failed += 1
            raise
        finally:
            self.forget(job)

    async def _admit(self, job: FakeJob) -> _Slot:
        wanted = job.request.slot
        async with self._free:
            while True:
                free = [slot for slot in self._slots if slot.job is None and wanted in (None, slot.id)]
                if self._card is None:
                    raise NotReadyError("the model was unloaded", where="model")
                if free or job.cancelled.is_set():
                    break
                with _suppress_timeout():
                    await asyncio.wait_for(self._free.wait(), 0.02)
        prompt = list(job.request.prompt)
        slot = max(free, key=lambda slot: common(slot.tokens, prompt)) if free else _Slot(-1)
        slot.job = job
        return slot

    async def embed(self, tokens: Sequence[int]) -> list[float]:
        """See engine.Engine."""
        if not self.sparse:
            raise UnsupportedModelError("this model gives no embeddings", where="embeddings")
        counts = [0.0] * N_EMBD
        for token in tokens:
            counts[token % N_EMBD] += 1.0
        length = sum(count * count for count in counts) ** 0.5 or 1.0
        return [count / length for count in counts]

    # --- views ------------------------------------------------------------------

    def slots(self) -> list[SlotView]:
        """See engine.Engine."""
        return [self._view(slot) for slot in self._slots]

    def _view(self, slot: _Slot) -> SlotView:
        job = slot.job
        return SlotView(
            id=slot.id,
            job=job.id if job else -1,
            busy=job is not None,
            n_ctx=self.card.n_ctx,
            n_cached=len(slot.tokens),
            n_prompt=len(job.request.prompt) if job else 0,
            n_prompt_done=slot.n_prompt_done,
            n_decoded=slot.n_decoded,
            mode=slot.mode,
            params=job.request.params if job else None,
        )

    def metrics(self) -> Metrics:
        """See engine.Engine."""
        busy = sum(slot.job is not None for slot in self._slots)
        return replace(self._metrics, requests_processing=busy, requests_waiting=len(self._live) - busy)

    @property
    def totals(self) -> Metrics:
        """For the generations, which count into it."""
        return self._metrics


class _Generation:
    """One request in one slot."""

    def __init__(self, engine: FakeEngine, job: FakeJob, slot: _Slot) -> None:
        self.engine, self.job, self.slot = engine, job, slot
        self.request = job.request
        self.mode = job.request.mode or engine.card.default_mode
        self.timings = Timings()
        self.text = TextAssembler(self.request.params.stop)
        self.n_prompt = len(self.request.prompt)

    async def events(self) -> AsyncIterator[Event]:
        if self.job.cancelled.is_set():
            yield self._done("cancelled")
            return
        async for event in self._prefill():
            yield event
        reason: FinishReason = "stop"
        for i, token in enumerate(self._answer()):
            await self._held(i)
            if self.job.cancelled.is_set():
                reason = "cancelled"
            elif i >= self._room():
                reason = "length"
            if reason != "stop":
                break
            yield await self._token(token)
            if self.text.stopped:
                break
        else:
            reason = "cancelled" if self.job.cancelled.is_set() else "stop"
        yield self._done(reason)

    def _answer(self) -> Iterable[int]:
        prompt = self.engine.detokenize(self.request.prompt)
        for piece in self.engine.script(prompt, self.request):
            yield from self.engine.tokenize(piece, add_special=False)

    def _room(self) -> int:
        room = self.engine.card.n_ctx - self.n_prompt + 1
        limit = self.request.params.max_tokens
        return room if limit is None else min(room, limit)

    async def _prefill(self) -> AsyncIterator[Event]:
        start, slot = perf_counter(), self.slot
        cached = common(slot.tokens, self.request.prompt) if self.request.cache_prompt else 0
        slot.mode, slot.n_decoded, slot.n_prompt_done = self.mode, 0, cached
        slot.tokens = list(self.request.prompt)
        for begin in range(cached, self.n_prompt, 64):
            count = min(64, self.n_prompt - begin)
            await self._pause(count, self.engine.prompt_per_second)
            slot.n_prompt_done = begin + count
            if self.request.progress:
                ms = 1e3 * (perf_counter() - start)
                yield PromptProgress(self.n_prompt, cached, slot.n_prompt_done, ms)
            if self.job.cancelled.is_set():
                break
        seconds = perf_counter() - start
        self.timings = Timings(cache_n=cached, prompt_n=self.n_prompt - cached, prompt_ms=1e3 * seconds)
        totals = self.engine.totals
        totals.prompt_tokens += self.n_prompt - cached
        totals.prompt_seconds += seconds
        totals.cached_tokens += cached

    async def _pause(self, tokens: int, per_second: float) -> None:
        """As long as `tokens` take, but no longer than the request lives."""
        if not per_second:
            await asyncio.sleep(0)
            return
        with _suppress_timeout():
            await asyncio.wait_for(self.job.cancelled.wait(), tokens / per_second)

    async def _held(self, n: int) -> None:
        while not self.job.cancelled.is_set() and self.engine.hold_at is not None and n >= self.engine.hold_at:
            await asyncio.sleep(0.005)

    async def _token(self, token: int) -> Token:
        start, n = perf_counter(), self.timings.predicted_n
        if self.engine.fail_at == n:
            raise RuntimeError("the fake was told to fail")
        await self._pause(1, self.engine.tokens_per_second)
        seconds = perf_counter() - start
        self.timings = replace(
            self.timings, predicted_n=n + 1, predicted_ms=self.timings.predicted_ms + 1e3 * max(seconds, 1e-6)
        )
        self.slot.n_decoded += 1
        self.slot.tokens.append(token)
        self.engine.totals.predicted_tokens += 1
        self.engine.totals.predicted_seconds += seconds
        piece = self.engine.piece(token, special=self.request.show_special)
        wanted = self.request.n_probs
        return Token(
            id=token,
            piece=piece,
            text=self.text.push(piece),
            logprob=None if wanted is None else -0.1 * (1 + token % 7),
            alternatives=self._alternatives(token, wanted or 0),
            timings=self.timings,
            sparsity=sparsity(self.mode, 1, self.slot.n_decoded) if self.mode else None,
        )

    def _alternatives(self, token: int, count: int) -> tuple[Alternative, ...]:
        ids = [token, *((token + 1 + i) % N_VOCAB for i in range(count))][:count]
        best = -0.1 * (1 + token % 7)
        return tuple(Alternative(id, self.engine.piece(id, special=True), best - 2.0 * i) for i, id in enumerate(ids))

    def _done(self, reason: FinishReason) -> Done:
        totals = self.engine.totals
        if reason == "cancelled":
            totals.requests_cancelled += 1
        else:
            totals.requests_done += 1
        totals.longest_sequence = max(totals.longest_sequence, len(self.slot.tokens))
        generated = self.timings.predicted_n
        return Done(
            text=self.text.finish(),
            finish_reason=reason,
            stop_text=self.text.stop_text,
            seed=self.request.params.seed or 0,
            mode=self.mode,
            n_prompt=self.n_prompt,
            timings=self.timings,
            sparsity=sparsity(self.mode, max(generated, 1), 0) if self.mode else None,
            prompt_sparsity=sparsity(self.mode, max(self.timings.prompt_n, 1), 0) if self.mode else None,
            diagnosis=diagnosis(self.request.threshold_shift) if self.request.diagnose_every else None,
        )


def sparsity(mode: str, tokens: int, phase: int) -> Sparsity:
    """Made-up counters of `tokens` tokens; `phase` lets the layers vary."""
    layers = tuple(ACTIVE[mode] * (0.6 + 0.1 * ((il * 3 + phase) % 9)) for il in range(N_LAYER))
    dense = 3 * N_LAYER * N_FF * tokens
    rows = int(dense * ROWS[mode])
    return Sparsity(
        mode=mode,
        tokens=tokens,
        active_frac=sum(layers) / N_LAYER,
        selected_frac=0.11 if mode == "predicted" else 1.0,
        rows=rows,
        rows_dense=dense,
        bytes_read=rows * BYTES_ROW + BYTES_REST * tokens,
        bytes_dense=dense * BYTES_ROW + BYTES_REST * tokens,
        predictor_ms=0.05 * tokens if mode == "predicted" else 0.0,
        layers=layers,
    )


def diagnosis(shift: float) -> LayerDiagnosis:
    """Made-up recall of 1000 neurons, 100 of which are active: 80 % as the file says, better below that."""
    selected = min(max(int(120 - 200 * shift), 0), 1000)
    hit = min(max(int(80 - 20 * shift), 0), 100)
    return LayerDiagnosis(1, 1000, 300, 300, 100, selected, hit, 100.0, float(hit + 100) / 2)


def common(before: Sequence[int], prompt: Sequence[int]) -> int:
    """Length of the common beginning, the last prompt token left out."""
    pairs = zip(before, prompt[:-1], strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), max(len(prompt) - 1, 0)))


def _suppress_timeout() -> Any:
    from contextlib import suppress

    return suppress(asyncio.TimeoutError)


_CONTROL_ID = {text: token for token, text in CONTROL.items()}
_CONTROL_TEXT = re.compile("(" + "|".join(map(re.escape, CONTROL.values())) + ")")
_PIECE = re.compile("|".join(sorted((re.escape(piece) + r"(?!\w)" for piece in PIECES), key=len, reverse=True)))
_PIECE_ID = {piece: FIRST_PIECE + i for i, piece in enumerate(PIECES)}


def _split(text: str) -> list[int]:
    """Known words as one token each, everything else as bytes."""
    tokens: list[int] = []
    end = 0
    for match in _PIECE.finditer(text):
        tokens += [*text[end : match.start()].encode(), _PIECE_ID[match[0]]]
        end = match.end()
    return [*tokens, *text[end:].encode()]
