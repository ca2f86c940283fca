"""Arithmetic of the figures; that they match the work done is tested where the work is done."""

from __future__ import annotations

import pytest
from turbosparse.stats import BatchStats, LayerStats, Meter, Timings


def layer(n_neuron: int, n_active: int, rows: int = 0, size: int = 0) -> LayerStats:
    return LayerStats(n_neuron, n_active + 1, n_active, rows, rows, rows, size, 10)


def batch(total: LayerStats, n_tokens: int = 1, mode: str = "exact") -> BatchStats:
    return BatchStats(0, n_tokens, mode, total, 1000, 2_000_000, 0, 0, 0)


def test_nothing_measured_is_none() -> None:
    assert Meter(100, 10, 3).sparsity() is None


def test_a_meter_sums_over_batches() -> None:
    meter = Meter(bytes_ffn=6000, n_neuron=200, branches=3)
    for active in (10, 30):
        layers = [layer(100, active, 50, 500), layer(100, 2 * active, 50, 500)]
        meter.add([batch(LayerStats(200, 100, 3 * active, 100, 100, 100, 1000, 20))], layers)
    found = meter.sparsity()
    assert found is not None
    assert (found.tokens, found.mode) == (2, "exact")
    assert found.active_frac == pytest.approx(120 / 400)
    assert found.selected_frac == pytest.approx(200 / 400)
    assert (found.rows, found.rows_dense) == (600, 1200)
    assert found.bytes_read == 2 * (1000 + 20 + 1000)
    assert found.bytes_dense == 2 * (6000 + 1000)
    assert found.predictor_ms == pytest.approx(4.0)
    assert found.layers == pytest.approx((40 / 200, 80 / 200))
    assert found.as_dict()["layers"] == list(found.layers)


def test_the_latest_mode_is_shown() -> None:
    meter = Meter(6000, 200, 2)
    meter.add([batch(layer(200, 10), mode="exact"), batch(layer(200, 10), mode="predicted")], [layer(200, 10)])
    found = meter.sparsity()
    assert found is not None
    assert found.mode == "predicted"
    assert found.rows_dense == 2 * 2 * 200


def test_timings_have_the_names_of_llama_server() -> None:
    shown = Timings(3, 5, 50.0, 10, 200.0).as_dict()
    assert shown == {
        "cache_n": 3,
        "prompt_n": 5,
        "prompt_ms": 50.0,
        "prompt_per_token_ms": 10.0,
        "prompt_per_second": 100.0,
        "predicted_n": 10,
        "predicted_ms": 200.0,
        "predicted_per_token_ms": 20.0,
        "predicted_per_second": 50.0,
    }


def test_no_time_is_no_rate() -> None:
    assert Timings().prompt_per_second == Timings().predicted_per_second == 0.0
