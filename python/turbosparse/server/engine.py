"""The interface between HTTP and inference.

`server.app` and the desktop chat know only what stands here; `server.live` runs a model behind
it, `server.fake` a script. An engine belongs to one asyncio event loop: its methods are called
there, and none of them blocks it for longer than a tokenisation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from ..errors import ArgumentError, TurboSparseError
from ..options import FlashAttn, KvType, Memory, Mode
from ..sampling import SamplingParams
from ..stats import LayerDiagnosis, Sparsity, Timings

WORDS = {"mode": get_args(Mode), "kv_type": get_args(KvType), "flash_attn": get_args(FlashAttn)}
WORDS |= {"memory": get_args(Memory)}
NUMBERS = {"n_ctx": 0, "n_parallel": 1, "n_threads": 1}  # least values
MAX_SHIFT = 100.0  # of a predictor's threshold, which is a logit

State = Literal["empty", "loading", "ready", "failed"]
FinishReason = Literal["stop", "length", "cancelled"]


class QueueFullError(TurboSparseError):
    """Too many requests wait already.

    Attributes:
        retry_after: seconds after which to try again.
    """

    def __init__(self, message: str, *, retry_after: int = 1, **data: str) -> None:
        super().__init__(message, **data)
        self.retry_after = retry_after


class NotReadyError(TurboSparseError):
    """No model is loaded, or one is being loaded."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is opened; None takes the engine's defaults.

    Attributes:
        mode: of the FFN for requests that name none.
        n_ctx: tokens that one sequence may hold (each of the n_parallel has its own).
        n_parallel: sequences that run at once.
        n_threads: of the evaluation.
        kv_type: "f16", "f32" or "q8_0".
        flash_attn: "auto", "on" or "off".
        ignore_swa: allow n_ctx above the checkpoint's sliding window.
        memory: where the weights lie: "mapped", "resident" or "auto"; see Model.

    Raises:
        ArgumentError: a value that is none of these.
    """

    mode: str | None = None
    n_ctx: int | None = None
    n_parallel: int | None = None
    n_threads: int | None = None
    kv_type: str = "f16"
    flash_attn: str = "auto"
    ignore_swa: bool = False
    memory: str = "auto"

    def __post_init__(self) -> None:
        for name, words in WORDS.items():
            value = getattr(self, name)
            if value is not None and value not in words:
                raise _wrong(name, ", ".join(words), value)
        for name, least in NUMBERS.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise _wrong(name, f"an integer of at least {least}", value)


def _wrong(name: str, expected: str, value: Any) -> ArgumentError:
    text = f"{name} must be {expected}, not {value!r}"
    return ArgumentError(text, where=name, expected=expected, found=str(value))


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a client may know of the loaded model. Sizes in bytes, contexts in tokens.

    Attributes:
        id: name in the API: the file's name without .gguf.
        name: for people: general.name of the file, else `id`.
        created: when it was loaded, Unix seconds.
        sparse: False for a file that stock llama.cpp runs as it is; `note` then says why.
        note: "" or one sentence to show.
        modes: that requests may ask for; empty when not sparse.
        default_mode: "" when not sparse.
        resident: whether the weights were copied into memory of their own; else the file's mapping is read.
        n_ctx: of one sequence.
        bytes_dense_token: what a dense graph reads for one token; 0 when unknown.
        chat_template: Jinja source.
        defaults: sampling parameters of requests that name none.
    """

    id: str
    name: str
    path: str
    created: int
    sparse: bool
    note: str
    architecture: str
    activation: str
    modes: tuple[str, ...]
    default_mode: str
    has_predictor: bool
    resident: bool
    n_ctx: int
    n_ctx_train: int
    n_parallel: int
    n_threads: int
    n_vocab: int
    n_embd: int
    n_layer: int
    n_ff: int
    n_expert: int
    bytes_file: int
    bytes_dense_token: int
    chat_template: str
    bos_token: str
    eos_token: str
    defaults: SamplingParams


@dataclass(frozen=True, kw_only=True)
class Request:
    """One generation.

    Attributes:
        prompt: token ids, special tokens included.
        params: see SamplingParams; without a seed one is drawn.
        mode: of the FFN; None = the model's default. Requests of different modes take turns.
        threshold_shift: added to the predictor's threshold in mode predicted; below 0 more neurons pass.
        diagnose_every: compute every n-th prompt token's FFN also in full, to count what the selection misses; 0 = no.
        n_probs: alternatives per token; None = no probabilities at all, 0 = the token's own only.
        show_special: let control tokens appear in the text.
        progress: also send PromptProgress events.
        cache_prompt: take over what an earlier request evaluated.
        slot: run in this slot and no other.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    mode: str | None = None
    threshold_shift: float = 0.0
    diagnose_every: int = 0
    n_probs: int | None = None
    show_special: bool = False
    progress: bool = False
    cache_prompt: bool = True
    slot: int | None = None


@dataclass(frozen=True)
class PromptProgress:
    """So much of the prompt has been evaluated.

    Attributes:
        total, cached, processed: prompt tokens; processed includes cached ones.
        ms: since evaluation began.
    """

    total: int
    cached: int
    processed: int
    ms: float


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood here.

    Attributes:
        piece: its bytes, perhaps part of a UTF-8 character.
        logprob: natural logarithm of its probability before any sampler, from the model's logits.
    """

    id: int
    piece: bytes
    logprob: float


@dataclass(frozen=True)
class Token:
    """One generated token.

    Attributes:
        text: safe to show now; "" while a character or a stop string is undecided.
        logprob: see Alternative; None unless Request.n_probs is set.
        alternatives: the n_probs likeliest tokens, best first.
        timings: so far.
        sparsity: of the evaluation that gave this token (for the first one: of the prompt);
            None when the model is not sparse. `tokens` in it says how many tokens that
            evaluation covered: above 1 when requests shared it, and then it is their mean.
            A long prompt is evaluated in pieces; the first token then has that of the last piece.
    """

    id: int
    piece: bytes
    text: str
    logprob: float | None
    alternatives: tuple[Alternative, ...]
    timings: Timings
    sparsity: Sparsity | None

    @property
    def active(self) -> float | None:
        """Share of neurons that were not zero."""
        return None if self.sparsity is None else self.sparsity.active_frac


@dataclass(frozen=True)
class Done:
    """The last event.

    Attributes:
        text: what had been held back.
        finish_reason: stop (end token or stop string), length, cancelled.
        stop_text: the stop string that ended it, or "".
        seed: that was used.
        mode: of the FFN, or "" when not sparse.
        n_prompt: prompt tokens, cached ones included.
        sparsity, prompt_sparsity: summed over the generated tokens, and over the prompt; where
            requests shared an evaluation, this request's even part of it.
        diagnosis: summed over layers, where Request.diagnose_every asked for it.
    """

    text: str
    finish_reason: FinishReason
    stop_text: str
    seed: int
    mode: str
    n_prompt: int
    timings: Timings
    sparsity: Sparsity | None
    prompt_sparsity: Sparsity | None
    diagnosis: LayerDiagnosis | None = None


Event = PromptProgress | Token | Done


class Job(Protocol):
    """A submitted request: `async for event in job`, ending with Done or with an exception."""

    @property
    def id(self) -> int:
        """Running number."""
        ...

    def __aiter__(self) -> AsyncIterator[Event]:
        """The events, for one reader."""
        ...

    def cancel(self) -> None:
        """Stop it; Done(finish_reason="cancelled") follows. Any number of times, at any time, read or not."""
        ...


@dataclass(frozen=True)
class SlotView:
    """One sequence of the engine, as GET /slots shows it.

    Attributes:
        job: running number of the request, -1 when idle.
        n_cached: tokens that the next request could take over (idle), or has in its sequence.
        n_prompt, n_prompt_done, n_decoded: tokens of the request under way.
    """

    id: int
    job: int
    busy: bool
    n_ctx: int
    n_cached: int
    n_prompt: int
    n_prompt_done: int
    n_decoded: int
    mode: str
    params: SamplingParams | None


@dataclass
class Metrics:
    """Totals since the engine began, all measured but bytes_dense and rows_dense (derived)."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    cached_tokens: int = 0
    predicted_tokens: int = 0
    predicted_seconds: float = 0.0
    decode_calls: int = 0
    busy_slots: int = 0  # summed over decode_calls
    requests_done: int = 0
    requests_cancelled: int = 0
    requests_failed: int = 0
    requests_processing: int = 0
    requests_waiting: int = 0
    longest_sequence: int = 0
    rows: int = 0
    rows_dense: int = 0
    bytes_read: int = 0
    bytes_dense: int = 0
    predictor_seconds: float = 0.0


@dataclass(frozen=True)
class Pool:
    """Memory of one kind.

    Attributes:
        name: "weights", "kv", "compute".
        where: "mapped file", "ram", "vram".
        needed: bytes, derived from the file.
        detail: one sentence.
    """

    name: str
    where: str
    needed: int
    detail: str


@dataclass(frozen=True)
class Advice:
    """A change that would make a model fit.

    Attributes:
        text: for people.
        options: for LoadOptions.
        needed: bytes with it.
    """

    text: str
    options: Mapping[str, Any]
    needed: int


@dataclass(frozen=True)
class MemoryPlan:
    """What a model needs and what there is, in bytes; advice when it does not fit."""

    pools: tuple[Pool, ...]
    needed: int
    available: int
    fits: bool
    advice: tuple[Advice, ...] = field(default=())


class Engine(Protocol):
    """Runs requests against at most one loaded model."""

    @property
    def state(self) -> State:
        """Whether a model is there."""
        ...

    @property
    def card(self) -> ModelCard:
        """The loaded model. Raises NotReadyError without one."""
        ...

    async def load(
        self,
        path: str | Path,
        options: LoadOptions | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> ModelCard:
        """Open a model instead of the present one, whose requests end with NotReadyError.

        Args:
            progress: called on the loop with 0 .. 1.

        Raises:
            TurboSparseError: as Model; the engine is then in state "failed" and without a model.
        """
        ...

    async def unload(self) -> None:
        """Close the model, if there is one."""
        ...

    async def close(self) -> None:
        """Cancel everything, free everything. No other call may follow."""
        ...

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of `text`. ContextOverflowError for one that is hopelessly long."""
        ...

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Bytes of one token. ArgumentError when there is no such token."""
        ...

    def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """Text of a whole sequence. ArgumentError when there is no such token."""
        ...

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """Prompt text by the model's chat template, BOS left out where the tokenizer adds it.

        Args:
            variables: for the template: tools, add_generation_prompt, chat_template_kwargs' content.
        """
        ...

    def encode(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Prompt tokens of `messages` by the chat template; what messages say never becomes a control token."""
        ...

    def submit(self, request: Request) -> Job:
        """Queue a request.

        Raises:
            NotReadyError, QueueFullError, ArgumentError, GrammarError, UnsupportedModelError.
            ContextOverflowError: the prompt leaves no room for one token; nothing is ever truncated.
        """
        ...

    async def embed(self, tokens: Sequence[int]) -> list[float]:
        """Mean of the final hidden states over `tokens`, of length 1 (L2), float [n_embd].

        Raises:
            UnsupportedModelError: this engine has no embeddings. Otherwise as submit.
        """
        ...

    def slots(self) -> list[SlotView]:
        """The sequences, in order of their ids."""
        ...

    def metrics(self) -> Metrics:
        """Totals so far."""
        ...

    async def plan(self, path: str | Path, options: LoadOptions | None = None) -> MemoryPlan:
        """What opening `path` would need; nothing is loaded. Raises FileError, ModelFormatError."""
        ...
