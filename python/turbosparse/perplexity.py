"""Perplexity of a model on a text, windowed as llama-perplexity does it.

The text is cut into windows of n_ctx tokens that do not overlap; the first token of each is
replaced by BOS where the file wants one. In every window the tokens of the second half are
scored, each given all before it in the window: n_ctx - n_ctx / 2 - 1 scores, beginning with the
prediction of token n_ctx / 2 + 1. A rest shorter than a window is left out. The same positions serve
to compare two models: KL divergence, as `llama-perplexity --kl-divergence` reports it.
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
class Divergence:
    """How far the distributions of the next token are from those of another model.

    Attributes:
        kl: mean over the scored positions of sum p log(p / q), p the other's, q the measured model's; nats.
        error: standard error of kl.
        same_top: share of the positions where both find the same token the likeliest.
        file, mode: of the other model.
    """

    kl: float
    error: float
    same_top: float
    file: str
    mode: str


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
        divergence: from another model, where it was asked for.
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
    divergence: Divergence | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        out = {**asdict(self), "sparsity": self.sparsity.as_dict() if self.sparsity else None}
        del out["diagnosis"]
        if self.divergence is None:
            del out["divergence"]
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
    against: Model | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Perplexity:
    """Measure `model` on `text` in its current mode.

    Args:
        text: or its token ids, BOS included.
        n_ctx: tokens per window; None = 512 or the model's context, if smaller.
        max_windows: stop after so many.
        recall: also compute every eighth FFN column in full, and report what the selection missed.
        against: a model with the same vocabulary; say how far `model` is from it, each in its current mode.
        progress: called after each window with its number, their count and the perplexity so far.

    Raises:
        ArgumentError: n_ctx is not in 4 .. model.n_ctx, the text is shorter than one window, or `against`
            reads it as other tokens.
    """
    size = _window_size(model, n_ctx)
    tokens = model.tokenize(text) if isinstance(text, str) else list(text)
    if against is not None:
        _check_vocabulary(model, against, text, tokens)
    windows = _windows(tokens, size, model.info.token_bos if model.info.add_bos else None)[:max_windows]
    meter = Meter(model.info.bytes_ffn, model.info.n_neuron, model.info.branches)
    scores: list[npt.NDArray[np.float64]] = []
    compared: list[npt.NDArray[np.float64]] = []
    model.stats()
    model.set_diagnosis(DIAGNOSE_EVERY if recall else 0)
    start = perf_counter()
    try:
        for i, window in enumerate(windows, 1):
            found = _log_probabilities(model.logits(window))
            scores.append(_score(found, window))
            if against is not None:
                compared.append(_compare(_log_probabilities(against.logits(window)), found))
            meter.add(model.stats(), model.layer_stats())
            if progress:
                progress(i, len(windows), float(np.exp(np.concatenate(scores).mean())))
        diagnosis = tuple(model.read_diagnosis()) if recall else ()
    finally:
        model.set_diagnosis(0)
    result = _summary(np.concatenate(scores), len(windows), size, model.mode, perf_counter() - start, meter)
    divergence = _divergence(np.concatenate(compared, axis=1), against) if against is not None else None
    return replace(result, diagnosis=diagnosis, divergence=divergence)


def _check_vocabulary(model: Model, against: Model, text: str | Sequence[int], tokens: Sequence[int]) -> None:
    differs = isinstance(text, str) and against.tokenize(text) != tokens
    if differs or model.info.n_vocab != against.info.n_vocab:
        raise ArgumentError(
            f"{against.path.name} has another vocabulary than {model.path.name}: only models that read a text as the "
            "same tokens can be compared",
            where="against",
            expected=f"the {model.info.n_vocab} tokens of {model.path.name}",
            found=f"{against.info.n_vocab} tokens",
        )


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


def _log_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of the predictions that are scored: logits [n, n_vocab] of a window -> [n - n/2 - 1, n_vocab]."""
    rows = logits[len(logits) // 2 : -1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


def _score(found: npt.NDArray[np.float64], window: Sequence[int]) -> npt.NDArray[np.float64]:
    """Negative log likelihoods of the window's second half, in nats: [n_scored, n_vocab] -> [n_scored]."""
    targets = np.asarray(window[len(window) // 2 + 1 :])
    nll: npt.NDArray[np.float64] = -found[np.arange(len(found)), targets]
    return nll


def _compare(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log probabilities [n_scored, n_vocab] -> [2, n_scored]: KL(p, q), and 1 where the likeliest token is the same."""
    return np.stack([(np.exp(p) * (p - q)).sum(axis=1), p.argmax(axis=1) == q.argmax(axis=1)])


def _divergence(compared: npt.NDArray[np.float64], against: Model) -> Divergence:
    kl, same = compared
    error = float(kl.std(ddof=1) / np.sqrt(len(kl))) if len(kl) > 1 else 0.0
    return Divergence(float(kl.mean()), error, float(same.mean()), against.path.name, against.mode)


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
