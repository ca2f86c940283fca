"""Text out of a model: step yields tokens, stream yields chunks, generate returns the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal, cast

from .chat_template import encode_messages
from .errors import ArgumentError, CancelledError
from .model import Model
from .sampling import Sampler, SamplingParams
from .stats import Meter, Sparsity, Timings
from .text import TextAssembler

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
    """

    text: str
    token_id: int | None
    finish_reason: FinishReason | None
    timings: Timings
    sparsity: Sparsity | None


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
    sampler = model.sampler(params)
    try:
        _prefill(model, prompt, sampler, progress, reuse)
        yield from _decode(model, sampler, params, progress)
    finally:
        sampler.close()


def _prefill(model: Model, prompt: Sequence[int], sampler: Sampler, progress: Progress, reuse: bool) -> None:
    start = perf_counter()
    cached = _common(model.tokens, prompt) if reuse else 0
    model.truncate(cached)
    sampler.accept(prompt)
    model.eval(prompt[cached:])
    progress.prompt(cached, len(prompt) - cached, perf_counter() - start)


def _common(before: Sequence[int], prompt: Sequence[int]) -> int:
    """Length of the common beginning, the last prompt token left out: its logits are needed."""
    pairs = zip(before, prompt[:-1], strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(prompt) - 1))


def _decode(model: Model, sampler: Sampler, params: SamplingParams, progress: Progress) -> Iterator[int]:
    room = model.n_ctx - model.n_past + 1  # the last token need not be evaluated
    limit = room if params.max_tokens is None else min(room, params.max_tokens)
    for i in range(limit):
        start = perf_counter()
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
            model.eval([token])
            progress.evaluated(perf_counter() - start)


def resolve(model: Model, params: SamplingParams | None, overrides: dict[str, Any]) -> SamplingParams:
    """`params`, or the model's defaults, with `overrides` on top and a seed drawn."""
    try:
        chosen = replace(params, **overrides) if params else SamplingParams.for_model(model, **overrides)
    except TypeError as error:
        raise TypeError(f"{error}; see SamplingParams for the names") from None
    return chosen.with_seed()


def stream(
    model: Model, prompt: Prompt, params: SamplingParams | None = None, *, reuse: bool = False, **overrides: Any
) -> Iterator[Chunk]:
    """Yield a Chunk per token, then one with the finish_reason.

    Model.cancel ends it with finish_reason "cancelled"; so does closing the iterator, without a
    chunk. KeyboardInterrupt passes through. The model is usable afterwards in every case.

    Args:
        prompt: text (control tokens are read as such), token ids, or chat messages.
        params: None = what the file recommends, then the defaults of SamplingParams.
        reuse: keep the beginning that the prompt shares with the sequence so far. Saves time in
            a chat; the tokens may then differ by rounding from those of a fresh sequence.
        overrides: fields of SamplingParams by name.

    Raises:
        ArgumentError, GrammarError, ContextOverflowError, BackendError, OutOfMemoryError.
    """
    return _stream(model, encode(model, prompt), resolve(model, params, overrides), Progress(model), reuse)


def _stream(
    model: Model, prompt: Sequence[int], params: SamplingParams, progress: Progress, reuse: bool
) -> Iterator[Chunk]:
    text = TextAssembler(params.stop)
    with model.canceller.generation():
        try:
            for token in step(model, prompt, params, progress=progress, reuse=reuse):
                shown = text.push(model.piece(token))
                yield Chunk(shown, token, None, progress.timings, progress.last)
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

    Takes the arguments of stream.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        reuse: bool = False,
        **overrides: Any,
    ) -> None:
        self.params = resolve(model, params, overrides)
        self.prompt_tokens = encode(model, prompt)
        self.mode = model.mode
        self._progress = Progress(model)
        self._chunks = _stream(model, self.prompt_tokens, self.params, self._progress, reuse)
        self._texts: list[str] = []
        self._tokens: list[int] = []

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._chunks:
            self._texts.append(chunk.text)
            if chunk.token_id is not None:
                self._tokens.append(chunk.token_id)
            yield chunk

    def result(self) -> Result:
        """Of the finished stream; what is left of it is generated first."""
        for _ in self:
            pass
        assert self.params.seed is not None
        return Result(
            text="".join(self._texts),
            tokens=list(self._tokens),
            prompt_tokens=self.prompt_tokens,
            finish_reason=self._progress.finish_reason,
            seed=self.params.seed,
            mode=self.mode,
            timings=self._progress.timings,
            sparsity=self._progress.sparsity,
            prompt_sparsity=self._progress.prompt_sparsity,
        )


def generate(
    model: Model, prompt: Prompt, params: SamplingParams | None = None, *, reuse: bool = False, **overrides: Any
) -> Result:
    """The whole generation at once. Arguments and errors as in stream."""
    return Generation(model, prompt, params, reuse=reuse, **overrides).result()
