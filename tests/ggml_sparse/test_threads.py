"""Whole models are bit-equal for 1 to 4 threads when flash attention is off."""

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


def test_runs_repeat_bit_for_bit(mixtral: Case) -> None:
    tokens = mixtral.tokens(40)
    with mixtral.open(n_ctx=64, n_threads=4) as model:
        first = model.logits(tokens, mode="predicted")
        for _ in range(5):
            np.testing.assert_array_equal(model.logits(tokens, mode="predicted"), first)
