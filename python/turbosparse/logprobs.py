"""How likely the model found a token, and its alternatives, before penalties and temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True)
class Alternative:
    """One token that might have come.

    Attributes:
        token_id, token: its id and its bytes, control tokens included.
        logprob: natural logarithm of its probability.
    """

    token_id: int
    token: bytes
    logprob: float


@dataclass(frozen=True)
class TokenLogprobs(Alternative):
    """The token that came.

    Attributes:
        top: the likeliest tokens, best first, as many as were asked for.
    """

    top: tuple[Alternative, ...]


def of_token(model: Model, token: int, n_top: int) -> TokenLogprobs:
    """Of `token`, just drawn from the model's last logits, and of the `n_top` likeliest."""
    import numpy as np

    logits = model.last_logits().astype(np.float64)
    logits -= logits.max()
    logprobs = logits - np.log(np.exp(logits).sum())
    best = np.argsort(-logprobs, kind="stable")[:n_top]
    top = tuple(Alternative(int(i), model.piece(int(i), special=True), float(logprobs[i])) for i in best)
    return TokenLogprobs(token, model.piece(token, special=True), float(logprobs[token]), top)
