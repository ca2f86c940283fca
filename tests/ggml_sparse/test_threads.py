"""Whole models are bit-equal for 1 to 4 threads; with our own attention for any cut of a prompt, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.conftest import Case
from tests.ggml_sparse.test_logits import MODES, decode


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["mistral", "mistral_hot", "mixtral"])
def test_bit_equal_for_any_number_of_threads(request: pytest.FixtureRequest, family: str, mode: str) -> None:
    case: Case = request.getfixturevalue(family)
    tokens = case.tokens(40)
    found = {}
    for n_threads in (1, 2, 3, 4):
        with case.open(n_ctx=64, n_threads=n_threads, mode=mode) as model:
            found[n_threads] = np.vstack([model.logits(tokens[:30]), *(decode(model, [t]) for t in tokens[30:])])
    for n_threads in (2, 3, 4):
        np.testing.assert_array_equal(found[n_threads], found[1], err_msg=f"{n_threads} threads")


@pytest.mark.parametrize("outtype", ["f16", "q8_0", "q4_0"])
def test_bit_equal_with_other_types(cases: Any, outtype: str) -> None:
    case = cases("mistral", outtype, hot=True, n_ff=320)
    tokens = case.tokens(24)
    for mode in ("exact", "predicted"):
        found = []
        for n_threads in (1, 2, 3, 4):
            with case.open(n_ctx=64, n_threads=n_threads, mode=mode) as model:
                found.append(model.logits(tokens))
        assert all(np.array_equal(a, found[0]) for a in found[1:])


DEFAULTS = {"kv_type": "f16", "flash_attn": "auto"}


def in_pieces(case: Case, tokens: list[int], size: int, **options: Any) -> Any:
    """Logits of every token, [n, n_vocab], the prompt evaluated in pieces of `size`."""
    with case.open(n_ctx=512, n_batch=size, n_ubatch=size, **options) as model:
        return model.logits(tokens)


@pytest.mark.parametrize("options", [DEFAULTS, {"kv_type": "q8_0"}], ids=lambda o: str(o["kv_type"]))
def test_bits_do_not_depend_on_how_a_prompt_is_cut(cases: Any, options: dict[str, Any]) -> None:
    """As users run it, flash attention by default: 300 tokens, one by one, in threes, in sixteens, at once."""
    case = cases("mistral", "q8_0", hot=True, n_embd=128, n_ff=320)
    tokens = np.random.default_rng(7).integers(3, 360, 300).tolist()
    expected = in_pieces(case, tokens, 300, **DEFAULTS | options)
    for n_threads, size in ((1, 1), (2, 3), (1, 16), (3, 16), (4, 300)):
        found = in_pieces(case, tokens, size, **DEFAULTS | options, n_threads=n_threads)
        np.testing.assert_array_equal(found, expected, err_msg=f"{n_threads} threads, pieces of {size}")


def test_mixtral_too(mixtral: Case) -> None:
    """Its router is a product of ours: ggml has another kernel where there is one column."""
    tokens = mixtral.tokens(60)
    expected = in_pieces(mixtral, tokens, 60, **DEFAULTS)
    for n_threads, size in ((1, 1), (2, 1), (1, 2), (3, 7)):
        np.testing.assert_array_equal(in_pieces(mixtral, tokens, size, **DEFAULTS, n_threads=n_threads), expected)


def test_runs_repeat_bit_for_bit(mixtral: Case) -> None:
    tokens = mixtral.tokens(40)
    with mixtral.open(n_ctx=64, n_threads=4) as model:
        first = model.logits(tokens, mode="predicted")
        for _ in range(5):
            np.testing.assert_array_equal(model.logits(tokens, mode="predicted"), first)
