"""How the next token is drawn: parameters, and libllama's sampler chain behind them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from .errors import ArgumentError, ModelFormatError

if TYPE_CHECKING:
    from .model import Model

SEED_LIMIT = 0xFFFFFFFF  # libllama takes this very value for "random"


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Parameters of one generation; unchanging, so they can be shared and echoed.

    Attributes:
        max_tokens: tokens to generate at most; None = to the end of the context.
        temperature: <= 0 takes the most likely token, and then only penalties and grammar count.
        top_k: keep the k most likely tokens; <= 0 = off.
        top_p: keep the smallest set with this probability; >= 1 = off.
        min_p: keep tokens at least this likely relative to the best; <= 0 = off.
        repeat_penalty: divides the logits of tokens seen lately; 1 = off.
        frequency_penalty, presence_penalty: subtracted from the logits of tokens seen; 0 = off.
        penalty_last_n: how many tokens count as lately, prompt included; 0 = none, -1 = the context.
        seed: 0 .. 2**32 - 2; None draws one, and the result says which.
        stop: strings that end the text.
        grammar: GBNF with a rule `root`, or None. See turbosparse.grammar for JSON schemas.
        ignore_eos: go on after an end token.
    """

    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    seed: int | None = None
    stop: tuple[str, ...] = field(default=())
    grammar: str | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        _require(self.max_tokens is None or self.max_tokens >= 0, "max_tokens", ">= 0 or None", self.max_tokens)
        _require(self.seed is None or 0 <= self.seed < SEED_LIMIT, "seed", "0 .. 2**32 - 2", self.seed)
        for name in ("temperature", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty"):
            _require(isfinite(getattr(self, name)), name, "finite", getattr(self, name))
        _require(self.repeat_penalty > 0, "repeat_penalty", "> 0", self.repeat_penalty)
        _require(self.penalty_last_n >= -1, "penalty_last_n", ">= -1", self.penalty_last_n)
        _require(all(self.stop), "stop", "strings that are not empty", "an empty one")

    @classmethod
    def for_model(cls, model: Model, **overrides: Any) -> SamplingParams:
        """The defaults that the file recommends (`general.sampling.*`), then ours, `overrides` above both."""
        return cls(**{**_recommended(model), **overrides})

    def with_seed(self) -> SamplingParams:
        """Self when it has a seed, else a copy with a drawn one."""
        return self if self.seed is not None else replace(self, seed=secrets.randbelow(SEED_LIMIT))


def _require(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise ArgumentError(f"{name} must be {expected}, not {found}", where=name, expected=expected, found=str(found))


# key below general.sampling -> (parameter, type)
_KEYS: dict[str, tuple[str, type]] = {
    "temp": ("temperature", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "penalty_repeat": ("repeat_penalty", float),
    "penalty_last_n": ("penalty_last_n", int),
}


def _recommended(model: Model) -> dict[str, Any]:
    found = {key: model.meta(f"general.sampling.{key}") for key in _KEYS}
    return {_KEYS[key][0]: _number(key, value) for key, value in found.items() if value is not None}


def _number(key: str, value: str) -> float | int:
    kind = _KEYS[key][1]
    try:
        number: float | int = kind(float(value))
    except (ValueError, OverflowError):
        key = f"general.sampling.{key}"
        raise ModelFormatError(
            f"the file's {key} is {value!r}, no number; give the parameter yourself or mend the file",
            where=key,
            expected="a number",
            found=value,
        ) from None
    return number


class Sampler:
    """libllama's sampler chain over one model's vocabulary. Made by Model.sampler.

    Args:
        model: handle of the model, which the sampler keeps alive.
        params: with a seed.
    """

    def __init__(self, model: Any, params: SamplingParams) -> None:
        from . import _native as native

        self._native = native
        grammar = None if params.grammar is None else native.ffi.new("char[]", params.grammar.encode())
        error, out = native.new_error(), native.ffi.new("struct ggml_sparse_sampler **")
        values = self._values(params, grammar)
        native.check(native.lib.ggml_sparse_sampler_create(model, values, out, error), error)
        self._handle = native.own(out[0], native.lib.ggml_sparse_sampler_free, model)

    def _values(self, params: SamplingParams, grammar: Any) -> Any:
        values = self._native.ffi.new("struct ggml_sparse_sampler_params *")
        values.seed = params.seed
        values.temp, values.top_k, values.top_p, values.min_p = (
            params.temperature,
            params.top_k,
            params.top_p,
            params.min_p,
        )
        values.penalty_last_n, values.penalty_repeat = params.penalty_last_n, params.repeat_penalty
        values.penalty_freq, values.penalty_present = params.frequency_penalty, params.presence_penalty
        values.grammar = grammar if grammar is not None else self._native.ffi.NULL
        return values

    def sample(self, context: Any) -> int:
        """Draw from the last logits of `context` (a handle) and remember the token."""
        token, error = self._native.ffi.new("int32_t *"), self._native.new_error()
        self._native.check(self._native.lib.ggml_sparse_sampler_sample(self._handle, context, token, error), error)
        return int(token[0])

    def accept(self, tokens: Iterable[int]) -> None:
        """Tell the penalties about tokens that were not drawn here (the prompt)."""
        for token in tokens:
            self._native.lib.ggml_sparse_sampler_accept(self._handle, token)

    def close(self) -> None:
        """Free the chain; a second call does nothing."""
        self._native.release(self._handle)
