"""Perplexity of a model on a text, windowed as llama-perplexity does it.

The text is cut into windows of n_ctx tokens that do not overlap; the first token of each is
replaced by BOS where the file wants one. In every window the tokens of the second half are
scored, each given all before it in the window: n_ctx - n_ctx / 2 - 1 scores, beginning with the
prediction of token n_ctx / 2 + 1. A rest shorter than a window is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ArgumentError
from .model import Model
from .stats import LayerDiagnosis, Meter, Sparsity

DEFAULT_CTX = 512  # tokens, as llama-perplexity
DIAGNOSE_EVERY = 8  # FFN columns, for recall


@dataclass(frozen=True)
class Perplexity:
    """Result of one measurement.

    Attributes:
        ppl: exp of the mean negative log likelihood.
        error: standard error of ppl (of the mean, carried through exp).
        nll: mean negative log likelihood, in nats per token.
        tokens: scored.
        windows, n_ctx: how many, of how many tokens.
        mode: of the FFN.
        seconds: wall time of the evaluations.
        sparsity: of all evaluated tokens.
        diagnosis: of each layer, where it was asked for.
    """

    ppl: float
    error: float
    nll: float
    tokens: int
    windows: int
    n_ctx: int
    mode: str
    seconds: float
    sparsity: Sparsity | None
    diagnosis: tuple[LayerDiagnosis, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        out = {**asdict(self), "sparsity": self.sparsity.as_dict() if self.sparsity else None}
        del out["diagnosis"]
        if self.diagnosis:
            out["recall"] = LayerDiagnosis.total(self.diagnosis).as_dict()
            out["recall"]["layers"] = [layer.as_dict() for layer in self.diagnosis]
        return out


def perplexity(
    model: Model,
    text: str | Sequence[int],
    *,
    n_ctx: int | None = None,
    max_windows: int | None = None,
    recall: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
) -> Perplexity:
    """Measure `model` on `text` in its current mode.

    Args:
        text: or its token ids, BOS included.
        n_ctx: tokens per window; None = 512 or the model's context, if smaller.
        max_windows: stop after so many.
        recall: also compute every eighth FFN column in full, and report what the selection missed.
        progress: called after each window with its number, their count and the perplexity so far.

    Raises:
        ArgumentError: n_ctx is not in 4 .. model.n_ctx, or the text is shorter than one window.
    """
    size = _window_size(model, n_ctx)
    tokens = model.tokenize(text) if isinstance(text, str) else list(text)
    windows = _windows(tokens, size, model.info.token_bos if model.info.add_bos else None)[:max_windows]
    meter = Meter(model.info.bytes_ffn, model.info.n_neuron, model.info.branches)
    scores: list[npt.NDArray[np.float64]] = []
    model.stats()
    model.set_diagnosis(DIAGNOSE_EVERY if recall else 0)
    start = perf_counter()
    try:
        for i, window in enumerate(windows, 1):
            scores.append(_score(model.logits(window), window))
            meter.add(model.stats(), model.layer_stats())
            if progress:
                progress(i, len(windows), float(np.exp(np.concatenate(scores).mean())))
        diagnosis = tuple(model.read_diagnosis()) if recall else ()
    finally:
        model.set_diagnosis(0)
    found = _summary(np.concatenate(scores), len(windows), size, model.mode, perf_counter() - start, meter)
    return replace(found, diagnosis=diagnosis)


def _window_size(model: Model, n_ctx: int | None) -> int:
    size = min(DEFAULT_CTX, model.n_ctx) if n_ctx is None else n_ctx
    if not 4 <= size <= model.n_ctx:
        expected = f"4 .. {model.n_ctx}"
        raise ArgumentError(
            f"a window must have {expected} tokens, not {size}", where="n_ctx", expected=expected, found=str(size)
        )
    return size


def _windows(tokens: Sequence[int], size: int, bos: int | None) -> list[list[int]]:
    count = len(tokens) // size
    if count == 0:
        raise ArgumentError(
            f"the text has {len(tokens)} tokens, a window takes {size}; give more text or a smaller n_ctx",
            where="text",
            expected=f"at least {size} tokens",
            found=str(len(tokens)),
        )
    windows = [list(tokens[i * size : (i + 1) * size]) for i in range(count)]
    return windows if bos is None else [[bos, *window[1:]] for window in windows]


def _score(logits: npt.NDArray[np.float32], window: Sequence[int]) -> npt.NDArray[np.float64]:
    """Negative log likelihoods of the window's second half, in nats: logits [n, n_vocab] -> [n - n/2 - 1]."""
    first = len(window) // 2
    rows = logits[first:-1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    targets = np.asarray(window[first + 1 :])
    nll: npt.NDArray[np.float64] = np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(rows)), targets]
    return nll


def _summary(
    nll: npt.NDArray[np.float64], windows: int, size: int, mode: str, seconds: float, meter: Meter
) -> Perplexity:
    mean = float(nll.mean())
    error = float(nll.std(ddof=1) / np.sqrt(len(nll))) if len(nll) > 1 else 0.0
    ppl = float(np.exp(mean))
    return Perplexity(
        ppl=ppl,
        error=ppl * error,
        nll=mean,
        tokens=len(nll),
        windows=windows,
        n_ctx=size,
        mode=mode,
        seconds=seconds,
        sparsity=meter.sparsity(),
    )
