"""Token-by-token generation with the reference modules: no cache, plain, for tests and samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run


def generate(
    model: CausalLM, tokens: list[int], n_predict: int, *, temp: float = 0.0, dense: bool = False, seed: int = 0
) -> Iterator[int]:
    """Yields n_predict tokens after `tokens`; temp 0 takes the most likely (the lowest id on a tie).

    The caller stops at the end token it knows. Recomputes the whole prefix for each token.
    """
    rng = torch.Generator().manual_seed(seed)
    context = list(tokens)
    for _ in range(n_predict):
        token = _next(model, context, temp, dense, rng)
        context.append(token)
        yield token


def _next(model: CausalLM, context: list[int], temp: float, dense: bool, rng: torch.Generator) -> int:
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([context]), Run(dense=dense))[0, -1].float()
    if temp == 0.0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits / temp, dim=-1), 1, generator=rng))
