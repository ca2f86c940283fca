"""Saving and restoring the KV cache, and the bandwidth probe."""

from __future__ import annotations

import numpy as np
import pytest
from turbosparse import errors, state
from turbosparse.bandwidth import BandwidthProbe, read_bandwidth

from tests.conftest import Case

TOKENS = [1, 20, 31, 7, 55]


@pytest.mark.parametrize("flash_attn", ["off", "on"])
def test_a_restored_sequence_goes_on_with_the_same_bits(mistral: Case, flash_attn: str) -> None:
    with mistral.open(n_ctx=64, flash_attn=flash_attn) as model:
        model.eval(TOKENS)
        saved = state.save(model)
        expected = model.eval([9])
        model.reset()
        model.eval([3, 3])
        state.load(model, saved)
        assert model.n_past == len(TOKENS)
        np.testing.assert_array_equal(model.eval([9]), expected)


def test_a_state_moves_to_another_context(mistral: Case) -> None:
    with mistral.open(n_ctx=64) as first, mistral.open(n_ctx=32) as second:
        first.eval(TOKENS)
        state.load(second, state.save(first))
        np.testing.assert_array_equal(second.eval([9]), first.eval([9]))


@pytest.mark.parametrize("damage", ["short", "noise", "other type"])
def test_a_state_that_does_not_fit_is_refused(mistral: Case, damage: str) -> None:
    with mistral.open(n_ctx=64) as model, mistral.open(n_ctx=64, kv_type="f16") as other:
        model.eval(TOKENS)
        saved = state.save(model)
        bad = {"short": saved[:-9], "noise": bytes(100), "other type": saved}[damage]
        target = other if damage == "other type" else model
        with pytest.raises(errors.ArgumentError, match="does not fit"):
            state.load(target, bad)
        assert target.n_past == 0
        assert np.isfinite(target.eval(TOKENS)).all()


def test_bandwidth_is_that_of_a_computer() -> None:
    speed = read_bandwidth(1, n_bytes=64 << 20, passes=3)
    assert 1e8 < speed < 1e13


def test_bandwidth_arguments() -> None:
    with pytest.raises(errors.ArgumentError):
        BandwidthProbe(10)
    with BandwidthProbe(1 << 20) as probe, pytest.raises(errors.ArgumentError):
        probe.measure(0)
