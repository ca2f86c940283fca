"""Text out of a model: step yields tokens, stream yields chunks, generate returns the whole."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, cast

from .cancel import CancelToken
from .chat_template import encode_messages
from .errors import ArgumentError, CancelledError
from .logprobs import TokenLogprobs, of_token
from .model import Model
from .sampling import Sampler, SamplingParams
from .stats import Meter, Sparsity, Timings
from .text import TextAssembler

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import SamplingOptions

FinishReason = Literal["stop", "length", "cancelled"]
Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Chunk:
    """What one token added.

    Attributes:
        text: safe to show; may be "" while a character or a stop string is undecided.
        token_id: None in the last chunk, which only carries what was held back.
        finish_reason: in the last chunk: stop (end token or stop string), length, cancelled.
        timings: so far.
        sparsity: of this token's evaluation (of the prompt's, for the first one).
        logprobs: of this token, when SamplingParams.logprobs asks for them.
    """

    text: str
    token_id: int | None
    finish_reason: FinishReason | None
    timings: Timings
    sparsity: Sparsity | None
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True)
class Result:
    """A finished generation.

    Attributes:
        text: without the stop string that ended it.
        tokens: generated ids, without the end token.
        prompt_tokens: as evaluated, special tokens included.
        seed: that was used; the same seed, build and thread count give the same tokens.
        mode: of the FFN.
        sparsity: of all generated tokens that were evaluated (of the prompt, when none was).
        prompt_sparsity: of the prompt.
        logprobs: one per token when SamplingParams.logprobs asks for them, else empty.
    """

    text: str
    tokens: list[int]
    prompt_tokens: list[int]
    finish_reason: FinishReason
    seed: int
    mode: str
    timings: Timings
    sparsity: Sparsity | None
    prompt_sparsity: Sparsity | None
    logprobs: tuple[TokenLogprobs, ...] = ()

    def __str__(self) -> str:
        return self.text

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "text": self.text,
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "finish_reason": self.finish_reason,
            "seed": self.seed,
            "mode": self.mode,
            "timings": self.timings.as_dict(),
            "sparsity": self.sparsity.as_dict() if self.sparsity else None,
            "prompt_sparsity": self.prompt_sparsity.as_dict() if self.prompt_sparsity else None,
            "logprobs": [asdict(entry) for entry in self.logprobs],
        }


class Progress:
    """Times and counters of one generation while it runs."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._prompt = self._meter()
        self._predicted = self._meter()
        self._last: Sparsity | None = None
        self.timings = Timings()
        self.finish_reason: FinishReason = "length"
        model.stats()  # whatever was evaluated before is not ours

    def prompt(self, cached: int, count: int, seconds: float) -> None:
        """The prompt has been evaluated, `cached` of its tokens earlier on."""
        self.timings = replace(self.timings, cache_n=cached, prompt_n=count, prompt_ms=1e3 * seconds)
        self._count(self._prompt)

    def drawn(self, seconds: float) -> None:
        """A token has been drawn."""
        self._spend(seconds, 1)

    def evaluated(self, seconds: float) -> None:
        """A generated token has been evaluated."""
        self._spend(seconds, 0)
        self._count(self._predicted)

    @property
    def last(self) -> Sparsity | None:
        """Of the latest evaluation."""
        return self._last

    @property
    def prompt_sparsity(self) -> Sparsity | None:
        """Of the prompt; None before it has been evaluated."""
        return self._prompt.sparsity()

    @property
    def sparsity(self) -> Sparsity | None:
        """Of the generated tokens, else of the prompt."""
        return self._predicted.sparsity() or self._prompt.sparsity()

    def _meter(self) -> Meter:
        info = self._model.info
        return Meter(info.bytes_ffn, info.n_neuron, info.branches)

    def _spend(self, seconds: float, tokens: int) -> None:
        self.timings = replace(
            self.timings,
            predicted_n=self.timings.predicted_n + tokens,
            predicted_ms=self.timings.predicted_ms + 1e3 * seconds,
        )

    def _count(self, meter: Meter) -> None:
        batches, layers, own = self._model.stats(), self._model.layer_stats(), self._meter()
        meter.add(batches, layers)
        own.add(batches, layers)
        self._last = own.sparsity()


def encode(model: Model, prompt: Prompt) -> list[int]:
    """Token ids of `prompt`; an empty one is BOS alone.

    Control tokens in a text are read as such. Messages (dicts with "role" and "content") go through
    the model's chat template, and control tokens in them are text.
    """
    if not isinstance(prompt, str) and not any(isinstance(item, Mapping) for item in prompt):
        return list(cast("Sequence[int]", prompt))
    if isinstance(prompt, str):
        tokens = model.tokenize(prompt, add_special=True, parse_special=True)
    else:
        tokens = encode_messages(model, cast("Sequence[Mapping[str, Any]]", prompt))
    if tokens:
        return tokens
    if model.info.token_bos < 0:
        raise ArgumentError(
            "the prompt is empty and the model has no BOS token to begin with; give a prompt",
            where="prompt",
            expected="at least one token",
            found="none",
        )
    return [model.info.token_bos]


def step(
    model: Model,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    progress: Progress | None = None,
    reuse: bool = False,
) -> Iterator[int]:
    """Evaluate `prompt` and yield token after token, the end token left out.

    A token is evaluated only when the next one is asked for. See stream for `reuse`.

    Raises:
        ContextOverflowError: the prompt does not fit the context.
        CancelledError: Model.cancel was called.
    """
    progress = progress or Progress(model)
    sampler, turn = model.sampler(params), model.take_turn()
    try:
        _prefill(model, prompt, sampler, progress, reuse)
        yield from _decode(model, turn, sampler, params, progress)
    finally:
        sampler.close()


def _prefill(model: Model, prompt: Sequence[int], sampler: Sampler, progress: Progress, reuse: bool) -> None:
    start = perf_counter()
    cached = _common(model.tokens, prompt) if reuse else 0
    model.truncate(cached)
    sampler.accept(prompt)
    model.append(prompt[cached:])
    progress.prompt(cached, len(prompt) - cached, perf_counter() - start)


def _common(before: Sequence[int], prompt: Sequence[int]) -> int:
    """Length of the common beginning, the last prompt token left out: its logits are needed."""
    pairs = zip(before, prompt[:-1], strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(prompt) - 1))


def _decode(model: Model, turn: int, sampler: Sampler, params: SamplingParams, progress: Progress) -> Iterator[int]:
    room = model.n_ctx - model.n_past + 1  # the last token need not be evaluated
    limit = room if params.max_tokens is None else min(room, params.max_tokens)
    for i in range(limit):
        start = perf_counter()
        model.check_turn(turn)
        token = model.sample(sampler)
        if model.is_end(token) and not params.ignore_eos:
            progress.finish_reason = "stop"
            return
        progress.drawn(perf_counter() - start)
        yield token
        if model.canceller.requested:
            raise CancelledError("the generation was cancelled")
        if i + 1 < limit:
            start = perf_counter()
            model.append([token])
            progress.evaluated(perf_counter() - start)


def resolve(model: Model, params: SamplingParams | None, overrides: Mapping[str, Any]) -> SamplingParams:
    """`params`, or the model's defaults, with `overrides` on top and a seed drawn. UnknownArgumentError."""
    SamplingParams.check_names(overrides)
    chosen = replace(params, **overrides) if params else SamplingParams.for_model(model, **overrides)
    return chosen.with_seed()


def stream(
    model: Model,
    prompt: Prompt,
    params: SamplingParams | None = None,
    *,
    reuse: bool = False,
    cancel: CancelToken | None = None,
    **overrides: Unpack[SamplingOptions],
) -> Iterator[Chunk]:
    """Yield a Chunk per token, then one with the finish_reason.

    Model.cancel ends it with finish_reason "cancelled"; so does closing the iterator, without a
    chunk. KeyboardInterrupt passes through. The model is usable afterwards in every case.

    Args:
        prompt: text (control tokens are read as such), token ids, or chat messages.
        params: None = what the file recommends, then the defaults of SamplingParams.
        reuse: keep the beginning that the prompt shares with the sequence so far. Saves time in
            a chat; the tokens may then differ by rounding from those of a fresh sequence.
        cancel: stops this generation from another thread.
        overrides: fields of SamplingParams by name.

    Raises:
        ArgumentError, GrammarError, ContextOverflowError, BackendError, OutOfMemoryError.
    """
    return _stream(model, encode(model, prompt), resolve(model, params, overrides), Progress(model), reuse, cancel)


def _stream(
    model: Model,
    prompt: Sequence[int],
    params: SamplingParams,
    progress: Progress,
    reuse: bool,
    cancel: CancelToken | None,
) -> Generator[Chunk, None, None]:
    text = TextAssembler(params.stop)
    with model.canceller.generation(cancel):
        try:
            for token in step(model, prompt, params, progress=progress, reuse=reuse):
                shown = text.push(model.piece(token))
                entry = None if params.logprobs is None else of_token(model, token, params.logprobs)
                yield Chunk(shown, token, None, progress.timings, progress.last, entry)
                if text.stopped:
                    progress.finish_reason = "stop"
                    break
        except CancelledError:
            progress.finish_reason = "cancelled"
    yield Chunk(text.finish(), None, progress.finish_reason, progress.timings, progress.last)


class Generation:
    """A stream that keeps what has come by, for those who want both chunks and the Result.

        generation = Generation(model, "Once", max_tokens=64)
        for chunk in generation:
            print(chunk.text, end="")
        print(generation.result().timings)

    Takes the arguments of stream. Leaving the loop early leaves the rest to result(); close()
    gives it up.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        reuse: bool = False,
        cancel: CancelToken | None = None,
        **overrides: Unpack[SamplingOptions],
    ) -> None:
        self.params = resolve(model, params, overrides)
        self.prompt_tokens = encode(model, prompt)
        self.mode = model.mode
        self._progress = Progress(model)
        self._chunks = _stream(model, self.prompt_tokens, self.params, self._progress, reuse, cancel)
        self._seen: list[Chunk] = []

    def __repr__(self) -> str:
        return f"<Generation of {len(self.tokens)} tokens so far, seed {self.params.seed}>"

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        chunk = next(self._chunks)
        self._seen.append(chunk)
        return chunk

    def close(self) -> None:
        """Generate no more; result() then has what has come so far, and finish_reason "cancelled"."""
        if not self.finished:
            self._progress.finish_reason = "cancelled"
        self._chunks.close()

    @property
    def finished(self) -> bool:
        """Whether the last chunk has come."""
        return bool(self._seen) and self._seen[-1].finish_reason is not None

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(chunk.text for chunk in self._seen)

    @property
    def tokens(self) -> list[int]:
        """Ids generated so far."""
        return [chunk.token_id for chunk in self._seen if chunk.token_id is not None]

    def result(self) -> Result:
        """Of the finished stream; what is left of it is generated first."""
        for _ in self:
            pass
        assert self.params.seed is not None
        return Result(
            text=self.text,
            tokens=self.tokens,
            prompt_tokens=self.prompt_tokens,
            finish_reason=self._progress.finish_reason,
            seed=self.params.seed,
            mode=self.mode,
            timings=self._progress.timings,
            sparsity=self._progress.sparsity,
            prompt_sparsity=self._progress.prompt_sparsity,
            logprobs=tuple(chunk.logprobs for chunk in self._seen if chunk.logprobs is not None),
        )


def generate(
    model: Model,
    prompt: Prompt,
    params: SamplingParams | None = None,
    *,
    reuse: bool = False,
    cancel: CancelToken | None = None,
    **overrides: Unpack[SamplingOptions],
) -> Result:
    """The whole generation at once. Arguments and errors as in stream."""
    return Generation(model, prompt, params, reuse=reuse, cancel=cancel, **overrides).result()
