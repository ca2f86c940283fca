"""A KV cache repeated to a depth."""

from __future__ import annotations

import numpy as np
import pytest
from turbosparse import state
from turbosparse.bench.kv import deepen

from tests.conftest import Case

TOKENS = [1, 20, 31, 7]


@pytest.mark.parametrize("flash_attn", ["off", "on"])
@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_the_depth_it_has_is_the_state_itself(mistral: Case, flash_attn: str, kv_type: str) -> None:
    """Every byte of the format is understood, V transposed (no flash attention) or not."""
    with mistral.open(n_ctx=64, flash_attn=flash_attn, kv_type=kv_type) as model:
        model.eval(TOKENS)
        saved = state.save(model)
        assert deepen(saved, len(TOKENS)) == saved


@pytest.mark.parametrize("flash_attn", ["off", "on"])
def test_deeper(mistral: Case, flash_attn: str) -> None:
    with mistral.open(n_ctx=64, flash_attn=flash_attn) as model:
        model.eval(TOKENS)
        deep = deepen(state.save(model), 50)
        state.load(model, deep)
        assert model.n_past == 50
        assert state.save(model) == deep
        assert np.isfinite(model.eval([9])).all()
        model.truncate(len(TOKENS))  # the rows that are left are the real ones
        again = model.eval([9])
        model.reset()
        model.eval(TOKENS)
        np.testing.assert_array_equal(model.eval([9]), again)


@pytest.mark.parametrize("damage", [b"", b"\0" * 40, b"\x01" * 400])
def test_other_bytes_are_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="not in the format"):
        deepen(damage, 10)


def test_a_longer_state_is_refused(mistral: Case) -> None:
    with mistral.open(n_ctx=64) as model:
        model.eval(TOKENS)
        with pytest.raises(ValueError, match="left over"):
            deepen(state.save(model) + b"\0", 10)
