"""One sparse FFN against float64, in every mode, type, instruction set and odd size."""

from __future__ import annotations

import functools
import itertools
from typing import Any, get_args

import numpy as np
import pytest
from turbosparse import errors, ops

from tests.ggml_sparse.ops_cases import (
    ISAS,
    MAX_NMSE_GROUPS,
    SHARES,
    TYPES,
    WIDTHS,
    Ffn,
    Floats,
    Group,
    Predictor,
    floats,
    nmse,
    typed_widths,
    values,
)

N_FF = (1, 15, 16, 17, 160, 320)
N_TOKENS = (1, 2, 17)
ACTIVATIONS: tuple[ops.Activation, ...] = get_args(ops.Activation)


@functools.lru_cache(maxsize=32)
def shared_case(*arguments: Any) -> Ffn:
    """Ffn.random, kept while the next tests want the same; not to be written to."""
    return Ffn.random(*arguments)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


@pytest.mark.parametrize("isa", ISAS)  # varies fastest: they share their cases
@pytest.mark.parametrize(("type", "n_embd"), typed_widths())
def test_dense_and_exact(type: str, n_embd: int, isa: ops.Isa) -> None:
    for n_ff in N_FF:
        for share in SHARES:
            case = shared_case(n_embd, n_ff, max(N_TOKENS), type, share)
            expected = case.y()
            for n_tokens in N_TOKENS:
                x = case.x[:n_tokens]
                dense, exact = case.run("dense", x, isa=isa), case.run("exact", x, isa=isa)
                assert nmse(dense.y, expected[:n_tokens]) <= case.max_nmse, (n_ff, n_tokens, share)
                assert same_bits(dense.y, exact.y), (n_ff, n_tokens, share)
                assert exact.mask.all()
                assert dense.mask.all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("type", list(TYPES))
def test_reference(type: str, activation: ops.Activation) -> None:
    """The scalar oracle of the library agrees with numpy to double precision, and so do the kernels."""
    case = Ffn.random(256, 33, 2, type, "half")
    reference = case.run("reference", activation=activation)
    expected = case.y(activation)
    assert nmse(reference.y, expected) <= 1e-14
    for isa in ISAS:
        y = case.run("exact", activation=activation, isa=isa).y
        assert nmse(y, reference.y.astype(np.float64)) <= case.max_nmse


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: ops.Activation, isa: ops.Isa) -> None:
    for first in ("gate", "up"):
        case = Ffn.random(96, 160, 3, "f32", "half")
        options = {"activation": activation, "first_branch": first, "isa": isa}
        dense, exact = case.run("dense", **options), case.run("exact", **options)
        assert nmse(dense.y, case.y(activation)) <= case.max_nmse
        assert same_bits(dense.y, exact.y)


@pytest.mark.parametrize("isa", ISAS)
def test_first_branch_changes_work_not_bits(isa: ops.Isa) -> None:
    case = Ffn.random(64, 320, 2, "q8_0", "half")
    gate, up = case.run("exact", first_branch="gate", isa=isa), case.run("exact", first_branch="up", isa=isa)
    assert same_bits(gate.y, up.y)
    assert gate.stats["rows_gate"] == up.stats["rows_up"] == 2 * 320
    assert gate.stats["rows_up"] == 2 * case.gate_on.sum()
    assert up.stats["rows_gate"] == 2 * case.up_on.sum()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", list(TYPES))
def test_predicted(type: str, isa: ops.Isa) -> None:
    n_embd, rank = (256, 256) if TYPES[type].block_size == 256 else (96, 32)
    for n_ff in N_FF:
        case = shared_case(n_embd, n_ff, max(N_TOKENS), type, "half")
        predictor = Predictor.random(case.x, n_ff, rank, type)
        expected = case.y(mask=predictor.mask)
        for n_tokens in N_TOKENS:
            run = case.run("predicted", case.x[:n_tokens], isa=isa, **predictor.options())
            np.testing.assert_array_equal(run.mask, predictor.mask[:n_tokens])
            assert nmse(run.y, expected[:n_tokens]) <= case.max_nmse, (n_ff, n_tokens)


@pytest.mark.parametrize("rank", [32, 48, 5, 7])
def test_predictor_of_another_type_and_rank(rank: int) -> None:
    case = Ffn.random(320, 160, 17, "q4_0", "half", down="f16")
    for scaled in (True, False):
        predictor = Predictor.random(case.x, 160, rank, "f32", scaled=scaled)
        options = predictor.options() if scaled else predictor.options() | {"pred_in_scale": None}
        fast, reference = case.run("predicted", **options), case.run("reference", **options)
        np.testing.assert_array_equal(fast.mask, predictor.mask)
        np.testing.assert_array_equal(reference.mask, predictor.mask)
        assert 0 < predictor.mask.sum() < predictor.mask.size
        assert nmse(fast.y, reference.y.astype(np.float64)) <= case.max_nmse


def test_threshold_is_strict() -> None:
    """A logit equal to the threshold does not select: all zeros give logit 0."""
    case = Ffn.random(64, 32, 2, "f32", "all")
    fc1, fc2 = ops.quantize(np.zeros((8, 64), np.float32), "f32"), ops.quantize(np.ones((32, 8), np.float32), "f32")
    zeros = {"fc1": fc1, "fc2": fc2}
    for mode in ("predicted", "reference"):
        assert not case.run(mode, threshold=0.0, **zeros).mask.any()  # type: ignore[arg-type]
        assert not case.run(mode, threshold=0.0, **zeros).y.any()  # type: ignore[arg-type]
        below = float(np.nextafter(np.float32(0), np.float32(-1)))
        assert case.run(mode, threshold=below, **zeros).mask.all()  # type: ignore[arg-type]


def test_exact_ignores_a_predictor() -> None:
    case = Ffn.random(64, 160, 2, "f32", "half")
    predictor = Predictor.random(case.x, 160, 32, "f32")
    assert same_bits(case.run("exact", **predictor.options()).y, case.run("exact").y)
    assert case.run("exact", **predictor.options()).mask.all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", list(TYPES))
def test_bits_do_not_depend_on_threads_or_batch(type: str, isa: ops.Isa) -> None:
    case = shared_case(256, 160, 40, type, "half")  # three tiles of columns
    predictor = Predictor.random(case.x, 160, 256, type)
    for mode in ("dense", "exact", "predicted"):
        options = predictor.options() if mode == "predicted" else {}
        whole = case.run(mode, isa=isa, **options)  # type: ignore[arg-type]
        for n_threads in (2, 3, 4):
            assert same_bits(case.run(mode, isa=isa, n_threads=n_threads, **options).y, whole.y)  # type: ignore[arg-type]
        for part in (slice(0, 1), slice(39, 40), slice(5, 7), slice(8, 17), slice(3, 20)):
            y = case.run(mode, x=case.x[part], isa=isa, n_threads=2, **options).y  # type: ignore[arg-type]
            assert same_bits(y, whole.y[part])


@pytest.mark.parametrize("n_tokens", [1, 4])
@pytest.mark.parametrize("type", ["f32", "q4_0", "q8_0", "q4_K"])
def test_many_threads_share_wide_rows(type: str, n_tokens: int) -> None:
    """Rows of down are cut into parts when threads are many; each counts as one row."""
    n_embd = 1280 if type == "q4_K" else 1120
    case = shared_case(n_embd, 96, n_tokens, type, "half")
    alone, many = case.run("exact"), case.run("exact", n_threads=8)
    assert same_bits(many.y, alone.y)
    assert many.stats == alone.stats
    assert nmse(alone.y, case.y()) <= case.max_nmse


def known_hidden(n_ff: int, shift: float, n_embd: int) -> tuple[Floats, Floats, Floats]:
    """h [n_ff], and x and up of a relu FFN that make it to the bit."""
    h = np.maximum(floats(np.random.default_rng(9), n_ff) + np.float32(shift), 0)
    up = np.zeros((n_ff, n_embd), np.float32)
    up[:, 0] = h
    x = np.zeros((1, n_embd), np.float32)
    x[0, 0] = 1
    return h, x, up


def piece_of(j: int, n_ff: int) -> int:
    """Sixteen pieces take turns by stretches, of a power of two near n_ff / 192 neurons."""
    stretch = min(64, max(16, 1 << (n_ff // 192).bit_length() - 1 if n_ff >= 192 else 0))
    return j // stretch % 16


def added_in_order(pieces: Floats) -> Floats:
    """By quarters of four."""
    y = np.zeros(pieces.shape[1], np.float32)
    for quarter in pieces.reshape(4, 4, -1):
        y += ((quarter[0] + quarter[1]) + quarter[2]) + quarter[3]
    return y


# half of the neurons; nearly all, what a list just holds
ORDERS = pytest.mark.parametrize(("n_ff", "shift"), [(1000, 0.0), (7808, 2.2)])


@pytest.mark.parametrize("isa", ISAS)
@ORDERS
def test_order_of_the_sum(n_ff: int, shift: float, isa: ops.Isa) -> None:
    """A piece's neurons by ascending j, one FMA per element, pieces added by quarters from +0."""
    h, x, up = known_hidden(n_ff, shift, 64)
    down = floats(np.random.default_rng(10), n_ff, 64)
    pieces = np.zeros((16, 64), np.float32)
    for j in range(n_ff):
        k = piece_of(j, n_ff)
        pieces[k] = (np.float64(h[j]) * down[j].astype(np.float64) + pieces[k]).astype(np.float32)
    expected = added_in_order(pieces)
    y = ops.ffn(x, up=ops.quantize(up, "f32"), down_t=ops.quantize(down, "f32"), activation="relu", isa=isa).y[0]
    if isa == "generic":
        np.testing.assert_array_equal(y, expected)
    assert (y == expected).mean() > 0.9  # a float64 FMA rounds twice, now and then to another float


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_embd", [64, 1120])  # no whole chunk of factors; two, and what is left
@ORDERS
def test_order_of_the_sum_of_groups(n_ff: int, shift: float, n_embd: int, isa: ops.Isa) -> None:
    """q4_0: sixteen neurons of a piece that are not zero at a time, factors of 16 bits, an FMA per element."""
    h, x, up = known_hidden(n_ff, shift, n_embd)
    down_t = ops.quantize(floats(np.random.default_rng(10), n_ff, n_embd), "q4_0")
    pieces = np.zeros((16, n_embd // 32, 32), np.float32)
    for k in range(16):
        active = np.array([j for j in range(n_ff) if piece_of(j, n_ff) == k and h[j] > 0])
        for at in range(0, active.size, 16):
            ids = active[at : at + 16]
            group = Group.of(down_t, ids, h[ids], 127 * 256)
            pieces[k] = (group.integers * group.scale[:, None].astype(np.float64) + pieces[k]).astype(np.float32)
    expected = added_in_order(pieces.reshape(16, -1))
    for mode in ("exact", "dense"):
        for n_tokens in (1, 20):
            run = ops.ffn(
                np.repeat(x, n_tokens, 0),
                up=ops.quantize(up, "f32"),
                down_t=down_t,
                activation="relu",
                mode=mode,  # type: ignore[arg-type]
                isa=isa,
            )
            assert same_bits(run.y, np.repeat(run.y[:1], n_tokens, 0))
            assert (run.y[0] == expected).mean() > 0.99
            np.testing.assert_allclose(run.y[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [1e-38, 1e-34, 1e-28, 1e30])
def test_groups_of_any_size(size: float, isa: ops.Isa) -> None:
    """Factors may be huge or tiny; each is off by at most half an integer, which is 2^-125 or more."""
    h, x, up = known_hidden(160, 0.0, 64)
    down_t = ops.quantize(floats(np.random.default_rng(10), 160, 64), "q4_0")
    x *= np.float32(size)
    y = ops.ffn(x, up=ops.quantize(up, "f32"), down_t=down_t, activation="relu", isa=isa).y[0]
    expected = (h * np.float32(size)).astype(np.float64) @ values(down_t)
    if size >= 1e-28:
        assert nmse(y, expected) <= MAX_NMSE_GROUPS
    assert (np.abs(y - expected) <= 8 * 160 * 2.0**-126 + 1e-3 * np.abs(expected).max()).all()
    zero = ops.quantize(np.zeros((160, 64), np.float32), "q4_0")
    assert not ops.ffn(x, up=ops.quantize(up, "f32"), down_t=zero, activation="relu", isa=isa).y.any()


def test_counters() -> None:
    n_embd, n_ff, n_tokens = 64, 320, 17
    case = Ffn.random(n_embd, n_ff, n_tokens, "q4_0", "half", down="q8_0")
    predictor = Predictor.random(case.x, n_ff, 32, "f16")
    q4, q8 = n_embd // 32 * 18, n_embd // 32 * 34
    every, first = n_ff * n_tokens, int(case.gate_on.sum()) * n_tokens
    both = int((case.gate_on & case.up_on).sum()) * n_tokens

    dense = case.run("dense", n_threads=3).stats
    assert dense == {
        "n_neuron": every,
        "n_selected": every,
        "n_active": both,
        "rows_gate": every,
        "rows_up": every,
        "rows_down": every,
        "bytes_ffn": every * (2 * q4 + q8),
        "bytes_predictor": 0,
    }
    for mode in ("exact", "reference"):
        stats = case.run(mode, n_threads=3).stats  # type: ignore[arg-type]
        assert (stats["n_selected"], stats["n_active"], stats["rows_down"]) == (every, both, both)
        if mode == "exact":
            assert (stats["rows_gate"], stats["rows_up"]) == (every, first)
            assert stats["bytes_ffn"] == (every + first) * q4 + both * q8

    stats = case.run("predicted", n_threads=3, **predictor.options()).stats
    active = int((predictor.mask & case.gate_on & case.up_on).sum())
    assert stats["n_selected"] == stats["rows_gate"] == predictor.mask.sum()
    assert stats["rows_up"] == (predictor.mask & case.gate_on).sum()
    assert stats["n_active"] == stats["rows_down"] == active
    assert stats["bytes_predictor"] == n_tokens * 2 * (32 * n_embd + n_ff * 32)


@pytest.mark.parametrize("first", ["gate", "up"])
def test_nan_and_inf_stay_visible(first: str) -> None:
    """relu keeps NaN, in dense and exact alike; only the column that holds it is touched."""
    for poison, down in itertools.product((np.nan, np.inf), ("f32", "q4_0")):
        case = Ffn.random(64, 40, 3, "f32", "half", down=down)
        clean = case.run("exact").y
        case.x[1, 5] = poison
        dense, exact = case.run("dense", first_branch=first), case.run("exact", first_branch=first)
        np.testing.assert_array_equal(dense.y, exact.y)
        assert not np.isfinite(exact.y[1]).any()
        assert same_bits(exact.y[[0, 2]], clean[[0, 2]])


def test_no_tokens() -> None:
    case = Ffn.random(64, 40, 1, "f32", "half")
    run = case.run("exact", x=np.empty((0, 64), np.float32))
    assert run.y.shape == (0, 64)
    assert run.stats["n_neuron"] == 0


@pytest.mark.parametrize("n_embd", WIDTHS)
def test_mixed_types(n_embd: int) -> None:
    rng = np.random.default_rng(n_embd)
    case = Ffn.random(n_embd, 40, 3, "q4_0", "half", down="f32")
    for up in ("bf16", "q8_0", "q5_1"):
        case.up = ops.quantize(floats(rng, 40, n_embd), up)
        assert nmse(case.run("exact", n_threads=2).y, case.y()) <= case.max_nmse


def refused(match: str, **changes: object) -> None:
    case = Ffn.random(64, 40, 2, "f32", "half")
    arguments: dict[str, object] = {"x": case.x, "gate": case.gate, "up": case.up, "down_t": case.down_t} | changes
    with pytest.raises(errors.ArgumentError, match=match) as caught:
        ops.ffn(**arguments)  # type: ignore[arg-type]
    assert caught.value.where
    assert caught.value.expected
    assert caught.value.found


def test_refusals() -> None:
    def f32(n_row: int, n_col: int) -> ops.Matrix:
        return ops.quantize(np.ones((n_row, n_col), np.float32), "f32")

    refused("gate", gate=None)
    refused("gate", gate=f32(41, 64))
    refused("gate", activation="relu")
    refused("down_t", down_t=f32(40, 32))
    refused("x must have shape", x=np.ones((2, 63), np.float32))
    refused("predictor", mode="predicted")
    refused("fc2", mode="predicted", fc1=f32(8, 64))
    refused("fc1", mode="predicted", fc1=f32(8, 63), fc2=f32(40, 8))
    refused("fc2", mode="predicted", fc1=f32(8, 64), fc2=f32(40, 9))
    refused("fc2", mode="predicted", fc1=f32(8, 64), fc2=f32(39, 8))
    refused("pred_in_scale", mode="predicted", fc1=f32(8, 64), fc2=f32(40, 8), pred_in_scale=np.ones(63, np.float32))
    refused("mode", mode="fast")
    refused("activation", activation="silu")
    refused("n_threads", n_threads=0)
