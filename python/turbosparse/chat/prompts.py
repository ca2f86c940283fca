"""What a conversation asks of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ..errors import ArgumentError
from ..sampling import SamplingParams
from ..server.engine import MAX_SHIFT, Engine, Request
from .records import Conversation, Message
from .store import Store

N_PROBS = 4  # alternatives kept per token
NAMES = {field.name for field in fields(SamplingParams)}


def request_for(
    store: Store, engine: Engine, conversation: Conversation, history: Sequence[Message], begun: Message | None = None
) -> Request:
    """The generation that answers `history`, or that goes on with the reply `begun`.

    Raises:
        ArgumentError: the settings hold a value outside its range.
        NotReadyError: no model is loaded.
    """
    tokens = engine.encode(messages_of(conversation, history), add_generation_prompt=True)
    if begun is not None:
        tokens = [*tokens, *_tokens_of(store, engine, begun)]
    settings = conversation.settings
    mode = settings.get("mode") or None
    return Request(
        prompt=tuple(tokens),
        params=sampling(settings, engine.card.defaults).with_seed(),
        mode=mode if mode in engine.card.modes else None,
        threshold_shift=checked_shift(settings.get("threshold_shift") or 0.0),
        n_probs=N_PROBS,
        progress=True,
    )


def checked_shift(value: Any) -> float:
    """Of the predictor's threshold. Raises ArgumentError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_SHIFT:
        expected = f"a number from {-MAX_SHIFT} to {MAX_SHIFT}"
        text = f"threshold_shift must be {expected}, not {value!r}"
        raise ArgumentError(text, where="threshold_shift", expected=expected, found=str(value))
    return float(value)


def messages_of(conversation: Conversation, history: Sequence[Message]) -> list[dict[str, Any]]:
    """As chat templates take them."""
    system = [{"role": "system", "content": conversation.system_prompt}] if conversation.system_prompt.strip() else []
    return system + [{"role": message.role, "content": message.content} for message in history]


def sampling(settings: Mapping[str, Any], defaults: SamplingParams) -> SamplingParams:
    """`defaults` with those of `settings` that are sampling parameters and not None."""
    chosen = {name: value for name, value in settings.items() if name in NAMES and value is not None}
    try:
        if "stop" in chosen:
            chosen["stop"] = tuple(chosen["stop"])
        return replace(defaults, **chosen)
    except TypeError as error:
        raise ArgumentError(f"the sampling parameters cannot be used: {error}", where="settings") from error


def same_again(request: Request, mode: str, seed: int, params: SamplingParams) -> Request:
    """The same prompt and seed in another mode, from a fresh sequence."""
    return replace(request, mode=mode, params=replace(params, seed=seed), cache_prompt=False)


def _tokens_of(store: Store, engine: Engine, message: Message) -> list[int]:
    """The very tokens that were generated, if they are known and still are the text."""
    rows = store.trace(message.id) or []
    if rows and "".join(row[1] for row in rows) == message.content:
        return [row[0] for row in rows]
    return engine.tokenize(message.content, add_special=False, parse_special=False)
