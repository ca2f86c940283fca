"""From the engine's events to the JSON of an answer, streamed or whole: one class per dialect.

Member names are those of OpenAI's API and of llama-server; `sparsity`, `mode` and `seed` are ours.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from time import time
from typing import Any

from ..stats import Sparsity
from .asks import Ask
from .engine import Alternative, Done, ModelCard, PromptProgress, Token
from .tools import Call, CallParser

FINGERPRINT = "turbosparse"


def probabilities(token: Token) -> dict[str, Any]:
    """One member of logprobs.content and of completion_probabilities."""
    return {
        "id": token.id,
        "token": _shown(token.piece),
        "bytes": list(token.piece),
        "logprob": token.logprob,
        "top_logprobs": [_alternative(other) for other in token.alternatives],
    }


def _alternative(other: Alternative) -> dict[str, Any]:
    return {"id": other.id, "token": _shown(other.piece), "bytes": list(other.piece), "logprob": other.logprob}


def _shown(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def sparsity(found: Sparsity | None) -> dict[str, Any] | None:
    """The counters; shares of layers to five digits, for there is one per layer in every chunk."""
    if found is None:
        return None
    return {**found.as_dict(), "layers": [round(share, 5) for share in found.layers]}


def usage(ends: Sequence[Done]) -> dict[str, Any]:
    """Token counts of the answers to one prompt, which counts once."""
    generated = sum(done.timings.predicted_n for done in ends)
    return {
        "prompt_tokens": ends[0].n_prompt,
        "completion_tokens": generated,
        "total_tokens": ends[0].n_prompt + generated,
        "prompt_tokens_details": {"cached_tokens": ends[0].timings.cache_n},
    }


class Reply:
    """One answer in OpenAI's chat dialect; the other dialects differ in a few methods.

    Feed it the events in order; it returns chunks to send, and `whole` at the end when not streaming.

    Args:
        index: of the answer, where several were asked for.
        first: the answer with index 0, whose id they share.
    """

    prefix = "chatcmpl-"
    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"
    end_mark = True  # streams end with [DONE]

    def __init__(self, ask: Ask, card: ModelCard, index: int = 0, first: Reply | None = None) -> None:
        self.ask = ask
        self.index = index
        self._head: dict[str, Any] = first._head if first else self._new_head(card)
        self._parser = CallParser() if ask.tools else None
        self._texts: list[str] = [ask.echo]
        self._tokens: list[Token] = []

    def _new_head(self, card: ModelCard) -> dict[str, Any]:
        return {
            "id": self.prefix + secrets.token_urlsafe(18),
            "created": int(time()),
            "model": card.id,
            "system_fingerprint": FINGERPRINT,
        }

    # --- a stream -------------------------------------------------------------

    def opening(self) -> list[dict[str, Any]]:
        """Before the first token."""
        return [self._chunk({"role": "assistant", "content": None})]

    def progress(self, event: PromptProgress) -> list[dict[str, Any]]:
        """While the prompt is evaluated."""
        chunk = self._chunk({"role": "assistant", "content": None})
        return [{**chunk, "prompt_progress": progress(event)}]

    def token(self, token: Token) -> list[dict[str, Any]]:
        """For one token: often one chunk, none when it has nothing to say yet."""
        self._tokens.append(token)
        text, calls = self._split(token.text)
        deltas = self._deltas(text, calls)
        if not deltas and not (self.ask.logprobs or self.ask.token_sparsity):
            return []
        chunks = [self._chunk(delta) for delta in deltas or [self._empty()]]
        if self.ask.logprobs:
            chunks[-1]["choices"][0]["logprobs"] = self._logprobs([token])
        chunks[-1].update(self._records(token))
        return chunks

    def _records(self, token: Token) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.ask.token_timings:
            found["timings"] = token.timings.as_dict()
        if self.ask.token_sparsity:
            found["sparsity"] = sparsity(token.sparsity)
        return found

    def closing(self, done: Done) -> list[dict[str, Any]]:
        """After the last token."""
        text, calls = self._split(done.text)
        rest = self._split_rest()
        chunks = [self._chunk(delta) for delta in self._deltas(text + rest[0], calls + rest[1])]
        last = self._chunk(self._last_delta())
        last["choices"][0]["finish_reason"] = self._reason(done)
        return [*chunks, {**last, **self._figures(done)}]

    def counted(self, ends: Sequence[Done]) -> list[dict[str, Any]]:
        """After the last answer: usage, where it was asked for."""
        if not self.ask.include_usage:
            return []
        return [{**self._head, "object": self.chunk_object, "choices": [], "usage": usage(ends)}]

    # --- at once --------------------------------------------------------------

    def whole(self, done: Done) -> dict[str, Any]:
        """The answer to a request that does not stream; the tokens have gone through `token`.

        The figures stand beside `choices`, or within each of several.
        """
        head = {**self._head, "object": self.whole_object}
        figures = self._figures(done)
        if self.ask.n > 1:
            return {**head, "choices": [{**self._choice(done), **figures}], "usage": usage([done])}
        return {**head, "choices": [self._choice(done)], "usage": usage([done]), **figures}

    def _choice(self, done: Done) -> dict[str, Any]:
        text, calls = self._split(done.text)
        rest = self._split_rest()
        self._deltas(text + rest[0], calls + rest[1])
        logprobs = self._logprobs(self._tokens) if self.ask.logprobs else None
        return {"index": self.index, **self._content(), "finish_reason": self._reason(done), "logprobs": logprobs}

    # --- parts ----------------------------------------------------------------

    def _figures(self, done: Done) -> dict[str, Any]:
        return {
            "timings": done.timings.as_dict(),
            "sparsity": sparsity(done.sparsity),
            "prompt_sparsity": sparsity(done.prompt_sparsity),
            "mode": done.mode,
            "seed": done.seed,
        }

    def _chunk(self, delta: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**self._head, "object": self.chunk_object, "choices": [choice]}

    def _empty(self) -> dict[str, Any]:
        return {"content": ""}

    def _last_delta(self) -> dict[str, Any]:
        return {}

    def _split(self, text: str) -> tuple[str, list[Call]]:
        return (text, []) if self._parser is None else self._parser.push(text)

    def _split_rest(self) -> tuple[str, list[Call]]:
        return ("", []) if self._parser is None else self._parser.finish()

    def _deltas(self, text: str, calls: Sequence[Call]) -> list[dict[str, Any]]:
        self._texts.append(text)
        deltas: list[dict[str, Any]] = [{"content": text}] if text else []
        return deltas + [{"tool_calls": [{"index": call.index, **call.as_dict()}]} for call in calls]

    def _content(self) -> dict[str, Any]:
        calls = self._parser.calls if self._parser else []
        text = "".join(self._texts)
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
        if calls:
            message["tool_calls"] = [call.as_dict() for call in calls]
        return {"message": message}

    def _reason(self, done: Done) -> str:
        if self._parser is not None and self._parser.calls and done.finish_reason == "stop":
            return "tool_calls"
        return done.finish_reason

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {"content": [probabilities(token) for token in tokens], "refusal": None}


class TextReply(Reply):
    """POST /v1/completions."""

    prefix = "cmpl-"
    chunk_object = whole_object = "text_completion"

    def opening(self) -> list[dict[str, Any]]:
        """Nothing but an echo comes first."""
        return [self._chunk({"text": self.ask.echo})] if self.ask.echo else []

    def progress(self, event: PromptProgress) -> list[dict[str, Any]]:
        """See Reply."""
        return [{**self._chunk({"text": ""}), "prompt_progress": progress(event)}]

    def _chunk(self, delta: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": self.index, **delta, "logprobs": None, "finish_reason": None}
        return {**self._head, "object": self.chunk_object, "choices": [choice]}

    def _empty(self) -> dict[str, Any]:
        return {"text": ""}

    _last_delta = _empty

    def _deltas(self, text: str, calls: Sequence[Call]) -> list[dict[str, Any]]:
        self._texts.append(text)
        return [{"text": text}] if text else []

    def _content(self) -> dict[str, Any]:
        return {"text": "".join(self._texts)}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """llama-server's form and OpenAI's older one side by side."""
        offsets, offset = [], len(self.ask.echo)
        for token in tokens:
            offsets.append(offset)
            offset += len(_shown(token.piece))
        return {
            "content": [probabilities(token) for token in tokens],
            "tokens": [_shown(token.piece) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{_shown(o.piece): o.logprob for o in token.alternatives} for token in tokens],
            "text_offset": offsets,
        }


class NativeReply(Reply):
    """llama-server's own POST /completion."""

    end_mark = False

    def opening(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def progress(self, event: PromptProgress) -> list[dict[str, Any]]:
        """See Reply."""
        return [{**self._partial("", []), "prompt_progress": progress(event)}]

    def token(self, token: Token) -> list[dict[str, Any]]:
        """One object per token."""
        self._tokens.append(token)
        self._texts.append(token.text)
        chunk = {**self._partial(token.text, [token.id]), **self._records(token)}
        if self.ask.logprobs:
            chunk["completion_probabilities"] = [probabilities(token)]
        return [chunk]

    def closing(self, done: Done) -> list[dict[str, Any]]:
        """Held-back text, then the last object, whose content is empty."""
        rest = [self._partial(done.text, [])] if done.text else []
        return [*rest, {**self._final(done), "content": "", "tokens": []}]

    def whole(self, done: Done) -> dict[str, Any]:
        """See Reply."""
        self._texts.append(done.text)
        found = self._final(done)
        if self.ask.logprobs:
            found["completion_probabilities"] = [probabilities(token) for token in self._tokens]
        return found

    def _partial(self, text: str, tokens: list[int]) -> dict[str, Any]:
        return {
            "index": 0,
            "content": text,
            "tokens": tokens,
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": len(self._tokens),
            "tokens_evaluated": len(self.ask.request.prompt),
        }

    def _final(self, done: Done) -> dict[str, Any]:
        text = "".join(self._texts)
        kinds = {"length": "limit", "cancelled": "none"}
        return {
            **self._partial(text, [token.id for token in self._tokens]),
            "stop": True,
            "model": self._head["model"],
            "generation_settings": settings(self.ask),
            "prompt": "",
            "has_new_line": "\n" in text,
            "truncated": False,
            "stop_type": kinds.get(done.finish_reason, "word" if done.stop_text else "eos"),
            "stopping_word": done.stop_text,
            "tokens_cached": done.timings.cache_n,
            **self._figures(done),
        }


def progress(event: PromptProgress) -> dict[str, Any]:
    """llama-server's prompt_progress."""
    return {"total": event.total, "cache": event.cached, "processed": event.processed, "time_ms": round(event.ms)}


def settings(ask: Ask) -> dict[str, Any]:
    """llama-server's generation_settings, as far as they exist here."""
    request = ask.request
    return {**sampling_settings(request.params), "stream": ask.stream, "n_probs": request.n_probs or 0}


def sampling_settings(params: Any) -> dict[str, Any]:
    """SamplingParams under llama-server's names."""
    values = asdict(params)
    values["repeat_last_n"] = values.pop("penalty_last_n")
    values["n_predict"] = values["max_tokens"] = -1 if params.max_tokens is None else params.max_tokens
    values["seed"] = -1 if params.seed is None else params.seed
    values["grammar"] = params.grammar or ""
    values["stop"] = list(params.stop)
    return values
