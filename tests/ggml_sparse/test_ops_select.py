"""fc2 by hidden unit (fc2_t): the same masks as by neuron, and only the rows of units that are not zero are read."""

from __future__ import annotations

import numpy as np
import pytest
from turbosparse import errors, ops

from tests.ggml_sparse.ops_cases import (
    ISAS,
    TYPES,
    Doubles,
    Ffn,
    Floats,
    Group,
    dots,
    floats,
    gap_near_median,
    nmse,
    values,
)

RANK = 48


class Selector:
    """fc1 and fc2_t of one type, the oracle's logits for x, and a threshold that none of them comes near."""

    def __init__(self, x: Floats, n_ff: int, type: str, *, rank: int = RANK, zero: bool = False) -> None:
        rng = np.random.default_rng([11, n_ff, rank])
        fc1 = floats(rng, rank, x.shape[1]) * (0.0 if zero else 1.0)
        self.fc1 = ops.quantize(fc1.astype(np.float32), type)
        self.fc2_t = ops.quantize(floats(rng, rank, n_ff), type)
        self.hidden = np.maximum(dots(self.fc1, x), 0)
        self.logits = self.hidden @ values(self.fc2_t)
        self.threshold = 0.0 if zero else gap_near_median(self.logits)

    @property
    def mask(self) -> np.ndarray:
        return self.logits > self.threshold

    def options(self) -> dict[str, object]:
        return {"fc1": self.fc1, "fc2_t": self.fc2_t, "threshold": self.threshold}


def widths(type: str) -> list[int]:
    """Rows of one slice, of several, and of a slice that is not full."""
    block = TYPES[type].block_size
    return [n for n in (32, 160, 512, 2336, 9472, 9728) if n % block == 0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", list(TYPES))
def test_masks_are_the_oracles(type: str, isa: ops.Isa) -> None:
    for n_ff in widths(type):
        case = Ffn.random(256, n_ff, 3, "f32", "half")
        selector = Selector(case.x, n_ff, type)
        found = case.run("predicted", isa=isa, **selector.options())
        # the gap keeps the oracle's own rounding out; a kernel may round h once more, as a dot rounds x
        wrong = found.mask != selector.mask
        near = np.abs(selector.logits - selector.threshold) < 0.02 * selector.logits.std()
        assert not (wrong & ~near).any()
        assert wrong.mean() < 0.02


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["f32", "q8_0", "q4_0", "q4_K"])
def test_bits_do_not_depend_on_threads_or_batch(type: str, isa: ops.Isa) -> None:
    case = Ffn.random(256, 2560, 35, "q4_0", "half")  # three tiles of columns
    options = Selector(case.x, 2560, type).options()
    whole = case.run("predicted", isa=isa, **options)
    for n_threads in (2, 3, 4):
        again = case.run("predicted", isa=isa, n_threads=n_threads, **options)
        np.testing.assert_array_equal(again.mask, whole.mask)
        np.testing.assert_array_equal(again.y, whole.y)
    for part in (slice(0, 1), slice(34, 35), slice(5, 7), slice(8, 17), slice(3, 20)):
        found = case.run("predicted", x=case.x[part], isa=isa, n_threads=2, **options)
        np.testing.assert_array_equal(found.mask, whole.mask[part])
        np.testing.assert_array_equal(found.y, whole.y[part])


def test_integer_sums_are_the_same_for_every_instruction_set() -> None:
    """q4_0 rows are summed as integers; a threshold among the logits would show the last bit of them."""
    case = Ffn.random(256, 2336, 6, "f32", "half")  # 73 blocks: no whole number of chunks
    selector = Selector(case.x, 2336, "q4_0", rank=80)
    options = selector.options()
    for quantile in (0.1, 0.3, 0.5, 0.7, 0.9):
        options["threshold"] = float(np.quantile(selector.logits, quantile))
        masks = [case.run("predicted", isa=isa, **options).mask for isa in ISAS]
        for mask in masks:
            np.testing.assert_array_equal(mask, masks[0])
            assert abs(mask.mean() - (1 - quantile)) < 0.01


def rounded_logits(fc2_t: ops.Matrix, h: Floats) -> tuple[Doubles, Doubles]:
    """q4_0 logits [n_ff] with the documented rounding, and what it may be away from exact ones."""
    logits, bound = np.zeros(fc2_t.n_col), np.zeros(fc2_t.n_col)
    active = np.flatnonzero(h)
    for k in range(0, active.size, 16):
        ids = active[k : k + 16]
        group = Group.of(fc2_t, ids, h[ids], 127)
        logits += (group.integers * group.scale[:, None].astype(np.float64)).ravel()
        bound += group.spread.ravel()
    return logits, bound


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rank", "n_ff"), [(80, 2336), (150, 512)])
def test_integer_sums_round_as_documented(rank: int, n_ff: int, isa: ops.Isa) -> None:
    """Thresholds among the logits show each of them; fc1 is the identity, so that hidden is known to the bit."""
    rng = np.random.default_rng(rank)
    x = floats(rng, 3, rank)
    fc2_t = ops.quantize(floats(rng, rank, n_ff), "q4_0")
    hidden = np.maximum(x, 0)
    expected, bound = (np.stack(a) for a in zip(*(rounded_logits(fc2_t, h) for h in hidden), strict=True))
    exact = hidden.astype(np.float64) @ values(fc2_t)
    assert (np.abs(expected - exact) <= bound * (1 + 1e-5)).all()
    assert bound.mean() < 0.1 * exact.std()
    assert nmse(expected.astype(np.float32), exact) < 1e-4
    case = Ffn.random(rank, n_ff, 3, "f32", "half")
    options = {"fc1": ops.quantize(np.eye(rank, dtype=np.float32), "f32"), "fc2_t": fc2_t}
    for threshold in np.quantile(exact, np.linspace(0.02, 0.98, 25)):
        found = case.run("predicted", x=x, isa=isa, threshold=float(threshold), **options).mask
        near = np.abs(expected - threshold) < 1e-5 * exact.std()
        assert (found == (expected > threshold))[~near].all()


def test_agrees_with_the_reference_and_with_fc2_by_neuron() -> None:
    case = Ffn.random(64, 320, 9, "f32", "half")
    selector = Selector(case.x, 320, "f32")
    by_unit = case.run("predicted", **selector.options())
    reference = case.run("reference", **selector.options())
    np.testing.assert_array_equal(by_unit.mask, reference.mask)
    fc2 = ops.quantize(np.ascontiguousarray(ops.dequantize(selector.fc2_t).T), "f32")
    by_neuron = case.run("predicted", fc1=selector.fc1, fc2=fc2, threshold=selector.threshold)
    np.testing.assert_array_equal(by_unit.mask, by_neuron.mask)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_only_rows_of_active_units_are_read(n_threads: int) -> None:
    n_embd, n_ff, n_tokens = 64, 1600, 18
    case = Ffn.random(n_embd, n_ff, n_tokens, "q4_0", "half")
    selector = Selector(case.x, n_ff, "q4_0")
    active = int((selector.hidden > 0).sum())
    assert 0.2 < active / selector.hidden.size < 0.8
    row = n_ff // 32 * 18
    for mode in ("predicted", "reference"):
        stats = case.run(mode, n_threads=n_threads, **selector.options()).stats  # type: ignore[arg-type]
        assert stats["bytes_predictor"] == n_tokens * RANK * n_embd // 32 * 18 + active * row


def test_no_unit_is_active() -> None:
    """All logits are 0: nothing is selected, no row of fc2_t is read, y is 0."""
    case = Ffn.random(64, 160, 2, "f32", "half")
    found = case.run("predicted", **Selector(case.x, 160, "q4_0", zero=True).options())
    assert not found.mask.any()
    assert not found.y.any()
    assert found.stats["bytes_predictor"] == 2 * RANK * 64 // 32 * 18


def test_nan_selects_nothing_and_touches_its_column_alone() -> None:
    case = Ffn.random(64, 160, 3, "f32", "half")
    options = Selector(case.x, 160, "f32").options()
    clean = case.run("predicted", **options)
    case.x[1, 5] = np.nan
    found = case.run("predicted", **options)
    assert not found.mask[1].any()
    np.testing.assert_array_equal(found.mask[[0, 2]], clean.mask[[0, 2]])


def test_refusals() -> None:
    def f32(n_row: int, n_col: int) -> ops.Matrix:
        return ops.quantize(np.ones((n_row, n_col), np.float32), "f32")

    case = Ffn.random(64, 40, 1, "f32", "half")
    for changes in (
        {"fc2_t": f32(9, 40)},
        {"fc2_t": f32(8, 41)},
        {"fc2_t": f32(8, 40), "fc2": f32(40, 8)},
    ):
        with pytest.raises(errors.ArgumentError, match="fc2_t"):
            case.run("predicted", fc1=f32(8, 64), **changes)
