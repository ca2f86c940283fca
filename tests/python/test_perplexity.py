"""Perplexity: windows, scores, and agreement between modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from turbosparse import ArgumentError, Model
from turbosparse.perplexity import _compare, _log_probabilities, _score, perplexity

from tests.conftest import Case
from tests.python.sources import HELDOUT


def score(logits: npt.NDArray[np.float32], window: list[int]) -> npt.NDArray[np.float64]:
    return _score(_log_probabilities(logits), window)


def test_uniform_logits_have_the_vocabulary_as_perplexity() -> None:
    nll = score(np.full((8, 50), 3.0, np.float32), list(range(8)))
    assert nll.shape == (3,)  # 8 tokens: those at 5, 6 and 7 are predicted
    np.testing.assert_allclose(np.exp(nll), 50)


def test_only_the_second_half_is_scored_and_the_right_token() -> None:
    logits = np.zeros((8, 5), np.float32)
    window = [0, 1, 2, 3, 4, 0, 1, 2]
    for position in (4, 5, 6):
        logits[position, window[position + 1]] = 50.0
    np.testing.assert_allclose(score(logits, window), 0, atol=1e-12)
    logits[3] = np.nan  # the first half is not looked at
    assert np.isfinite(score(logits, window)).all()


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[0, 0], [0, 0], [3e4, -3e4], [0, 0]], np.float32)
    np.testing.assert_allclose(score(logits, [0, 0, 0, 1]), [6e4])


def test_against_the_definition(model: Model) -> None:
    """Two windows of 16 tokens, BOS in front of each, from logits in float64."""
    tokens = [1] + [3 + (7 * i) % 300 for i in range(36)]
    found = perplexity(model, tokens, n_ctx=16)
    nll = []
    for window in ([1, *tokens[1:16]], [1, *tokens[17:32]]):
        logits = model.logits(window).astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        nll += [-logs[i, window[i + 1]] for i in range(8, 15)]
    assert (found.windows, found.n_ctx, found.tokens) == (2, 16, 14)
    assert found.nll == pytest.approx(np.mean(nll), rel=1e-9)
    assert found.ppl == pytest.approx(np.exp(np.mean(nll)), rel=1e-9)
    assert found.error == pytest.approx(found.ppl * np.std(nll, ddof=1) / np.sqrt(14), rel=1e-6)
    assert found.sparsity is not None
    assert found.sparsity.tokens == 32


def test_progress_and_limit(model: Model) -> None:
    seen: list[tuple[int, int, float]] = []
    found = perplexity(model, [1] * 100, n_ctx=16, max_windows=3, progress=lambda *step: seen.append(step))
    assert [(done, count) for done, count, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[-1][2] == pytest.approx(found.ppl)
    assert found.windows == 3


def test_a_text_that_is_too_short(model: Model) -> None:
    with pytest.raises(ArgumentError, match="has 10 tokens, a window takes 16") as caught:
        perplexity(model, [1] * 10, n_ctx=16)
    assert caught.value.where == "text"


@pytest.mark.parametrize("n_ctx", [3, 257])
def test_a_window_must_fit(model: Model, n_ctx: int) -> None:
    with pytest.raises(ArgumentError) as caught:
        perplexity(model, [1] * 1000, n_ctx=n_ctx)
    assert (caught.value.where, caught.value.expected) == ("n_ctx", "4 .. 256")


def test_exact_is_dense(mistral: Case) -> None:
    tokens = [3 + (7 * i) % 300 for i in range(64)]
    found = []
    for mode in ("dense", "exact"):
        with mistral.open(n_ctx=32, mode=mode) as model:
            found.append(perplexity(model, tokens))
    assert found[0].nll == pytest.approx(found[1].nll, rel=1e-6)
    assert [result.mode for result in found] == ["dense", "exact"]


def test_the_bundled_model_has_learnt_something(micro: Path) -> None:
    """Its vocabulary has 1600 tokens, and the held-out text is of the kind that it was trained on."""
    with Model(micro, n_ctx=256, n_threads=1) as model:
        text = HELDOUT.read_text(encoding="utf-8")[:20_000]
        found = perplexity(model, text, n_ctx=256, max_windows=8)
    assert 1 < found.ppl < 400


def test_divergence_of_two_distributions() -> None:
    p, q = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), np.array([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]])
    kl, same = _compare(np.log(p), np.log(q))
    np.testing.assert_allclose(kl, [0.25 * np.log(2), 0], atol=1e-12)
    assert same.tolist() == [0, 1]


def test_divergence_of_two_models(mistral: Case, cases: Any) -> None:
    tokens = [3 + (7 * i) % 300 for i in range(64)]
    with mistral.open(n_ctx=32) as base, cases("mistral", "q8_0").open(n_ctx=32) as near:
        itself = perplexity(base, tokens, against=base).divergence
        found = perplexity(near, tokens, against=base)
        logits = [[m.logits(window).astype(np.float64) for m in (base, near)] for window in windows(tokens)]
    assert itself is not None
    assert (itself.kl, itself.same_top) == (0, 1)
    p, q = (np.concatenate([pair[i][16:-1] for pair in logits]) for i in (0, 1))
    logs = [x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (p, q)]
    divergence = found.divergence
    assert divergence is not None
    assert divergence.kl == pytest.approx((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean(), rel=1e-6)
    assert 0 < divergence.kl < 0.01
    assert divergence.same_top == (p.argmax(axis=1) == q.argmax(axis=1)).mean()
    assert (divergence.file, divergence.mode) == (base.path.name, "predicted")
    assert found.as_dict()["divergence"]["kl"] == divergence.kl


def windows(tokens: list[int]) -> list[list[int]]:
    return [[1, *tokens[1:32]], [1, *tokens[33:64]]]


def test_another_vocabulary_cannot_be_compared(mistral: Case, micro: Path) -> None:
    with mistral.open(n_ctx=32) as model, Model(micro, n_ctx=32, n_threads=1) as other:
        with pytest.raises(ArgumentError, match="has another vocabulary") as caught:
            perplexity(model, "a few words " * 30, against=other)
        assert caught.value.where == "against"
