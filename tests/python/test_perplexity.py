"""Perplexity: windows, scores, and agreement between modes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from turbosparse import ArgumentError, Model
from turbosparse.perplexity import _score, perplexity

from tests.conftest import Case
from tests.python.sources import HELDOUT


def test_uniform_logits_have_the_vocabulary_as_perplexity() -> None:
    nll = _score(np.full((8, 50), 3.0, np.float32), list(range(8)))
    assert nll.shape == (3,)  # 8 tokens: those at 5, 6 and 7 are predicted
    np.testing.assert_allclose(np.exp(nll), 50)


def test_only_the_second_half_is_scored_and_the_right_token() -> None:
    logits = np.zeros((8, 5), np.float32)
    window = [0, 1, 2, 3, 4, 0, 1, 2]
    for position in (4, 5, 6):
        logits[position, window[position + 1]] = 50.0
    np.testing.assert_allclose(_score(logits, window), 0, atol=1e-12)
    logits[3] = np.nan  # the first half is not looked at
    assert np.isfinite(_score(logits, window)).all()


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[0, 0], [0, 0], [3e4, -3e4], [0, 0]], np.float32)
    np.testing.assert_allclose(_score(logits, [0, 0, 0, 1]), [6e4])


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
