"""How the next token is drawn: parameters, and libllama's sampler chain behind them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from .errors import ArgumentError, ModelFormatError, UnknownArgumentError

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
        logit_bias: (token id, what is added to its logit) pairs, or a dict; -inf forbids the token.
        grammar: GBNF with a rule `root`, or None. See turbosparse.grammar for JSON schemas.
        ignore_eos: go on after an end token.
        logprobs: also tell the probability of every token, and of this many alternatives; None = do not.
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
    logit_bias: tuple[tuple[int, float], ...] = field(default=())
    grammar: str | None = None
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        for name in ("temperature", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty"):
            _require(_is_number(getattr(self, name)), name, "a finite number", getattr(self, name))
        for name, least in (("max_tokens", 0), ("seed", 0), ("logprobs", 0), ("top_k", None), ("penalty_last_n", -1)):
            self._check_integer(name, least, optional=name in ("max_tokens", "seed", "logprobs"))
        _require(self.seed is None or self.seed < SEED_LIMIT, "seed", "0 .. 2**32 - 2", self.seed)
        _require(self.repeat_penalty > 0, "repeat_penalty", "> 0", self.repeat_penalty)
        _require(all(isinstance(s, str) for s in stop), "stop", "a string or several", stop)
        _require(all(stop), "stop", "strings that are not empty", "an empty one")
        _require(self.grammar is None or isinstance(self.grammar, str), "grammar", "GBNF text or None", self.grammar)

    def _check_integer(self, name: str, least: int | None, *, optional: bool) -> None:
        value = getattr(self, name)
        expected = "an integer" + ("" if least is None else f" >= {least}") + (" or None" if optional else "")
        whole = _is_whole(value) and (least is None or value >= least)
        _require(whole or (optional and value is None), name, expected, value)

    @classmethod
    def check_names(cls, given: Iterable[str]) -> None:
        """UnknownArgumentError unless all names in `given` are fields, with the nearest one as advice."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = get_close_matches(name, known, 1)
                advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise UnknownArgumentError(
                    f"SamplingParams has no {name!r}; {advice}", where=name, expected=", ".join(known), found=name
                )

    @classmethod
    def for_model(cls, model: Model, **overrides: Any) -> SamplingParams:
        """The defaults that the file recommends (`general.sampling.*`), then ours, `overrides` above both."""
        return cls(**{**_recommended(model), **overrides})

    def with_seed(self) -> SamplingParams:
        """Self when it has a seed, else a copy with a drawn one."""
        return self if self.seed is not None else replace(self, seed=secrets.randbelow(SEED_LIMIT))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _biases(given: Any) -> tuple[tuple[int, float], ...]:
    """Of a dict or of pairs, each token once. Raises ArgumentError."""
    try:
        found = tuple((token, float(bias)) for token, bias in dict(given).items())
        valid = all(_is_whole(token) and 0 <= token < 1 << 31 and bias < inf for token, bias in found)
    except (TypeError, ValueError, OverflowError):
        valid = False
    _require(valid, "logit_bias", "token ids with numbers or -inf", given)
    return found


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
        biases = native.ffi.new("struct ggml_sparse_logit_bias[]", list(params.logit_bias))
        error, out = native.new_error(), native.ffi.new("struct ggml_sparse_sampler **")
        values = self._values(params, grammar, biases)
        native.check(native.lib.ggml_sparse_sampler_create(model, values, out, error), error)
        self._handle = native.own(out[0], native.lib.ggml_sparse_sampler_free, model)

    def _values(self, params: SamplingParams, grammar: Any, biases: Any) -> Any:
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
        values.bias, values.n_bias = biases, len(params.logit_bias)
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
