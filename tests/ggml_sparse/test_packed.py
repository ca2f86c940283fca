"""The packed layout of rows: the same values and, on every instruction set, the same bits of every result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from turbosparse import errors, ops

from tests.ggml_sparse.ops_cases import ISAS, TYPES, Predictor, floats

PACKED = [name for name, info in TYPES.items() if info.block_size > 1]


def random_rows(type: str, n_row: int, n_col: int, seed: int) -> ops.Matrix:
    return ops.quantize(floats(np.random.default_rng(seed), n_row, n_col), type)


def any_bytes(type: str, n_row: int, n_col: int) -> ops.Matrix:
    """Every bit of a row set somewhere, whatever it means."""
    w = random_rows(type, n_row, n_col, 0)
    return ops.Matrix(type, n_col, np.random.default_rng(1).integers(0, 256, w.data.shape).astype(np.uint8))


def test_every_quantised_type_can_be_packed() -> None:
    assert len(PACKED) == 8


@pytest.mark.parametrize("n_col", [512, 1024, 2560])
@pytest.mark.parametrize("type", PACKED)
def test_packing_only_moves_bits(type: str, n_col: int) -> None:
    w = any_bytes(type, 7, n_col)
    packed = ops.pack(w)
    assert packed.layout == "packed"
    assert (packed.data != w.data).any()
    np.testing.assert_array_equal(ops.pack(packed, "rows").data, w.data)
    np.testing.assert_array_equal(ops.pack(packed).data, packed.data)
    np.testing.assert_array_equal(ops.dequantize(packed).view(np.uint32), ops.dequantize(w).view(np.uint32))


def test_the_order_of_q4_0() -> None:
    """packed-unit.h: dwords of sixteen blocks side by side, then their scales."""
    w = any_bytes("q4_0", 3, 1024)
    blocks = w.data.reshape(3, 2, 16, 18)
    quants = blocks[..., 2:].reshape(3, 2, 16, 4, 4).transpose(0, 1, 3, 2, 4).reshape(3, 2, 256)
    scales = blocks[..., :2].reshape(3, 2, 32)
    np.testing.assert_array_equal(ops.pack(w).data, np.concatenate([quants, scales], axis=2).reshape(3, -1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", PACKED)
def test_dots_have_the_same_bits(type: str, isa: ops.Isa) -> None:
    for n_col in (512, 1536, 4096):
        w, x = random_rows(type, 19, n_col, 2), floats(np.random.default_rng(3), 3, n_col)
        ids = np.random.default_rng(4).integers(-1, 19, (3, 40)).astype(np.int32)
        found = ops.gather_dot(ops.pack(w), x, ids, isa=isa)
        np.testing.assert_array_equal(found.view(np.uint32), ops.gather_dot(w, x, ids, isa=isa).view(np.uint32))
        assert found.any()


@pytest.mark.parametrize("isa", ISAS)
def test_extremes_of_eight_bits(isa: ops.Isa) -> None:
    """-128 and full-scale products must not saturate."""
    blocks = np.full((16, 34), 0x80, np.uint8)
    blocks[:, 2::3] = 127
    blocks[:, :2] = np.frombuffer(np.float16(1).tobytes(), np.uint8)
    w = ops.Matrix("q8_0", 512, blocks.reshape(1, -1))
    x = np.where(np.arange(512) % 2, 1.0, -1.0).astype(np.float32)[None]
    ids = np.zeros((1, 1), np.int32)
    np.testing.assert_array_equal(ops.gather_dot(ops.pack(w), x, ids, isa=isa), ops.gather_dot(w, x, ids, isa=isa))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", PACKED)
def test_an_ffn_has_the_same_bits(type: str, isa: ops.Isa) -> None:
    """Every number of columns, so that rows are read by dots and by tiles, with half tiles and odd ones."""
    n_embd, n_ff = 512, 37
    gate, up, down = (random_rows(type, n_ff, n_embd, seed) for seed in (5, 6, 7))
    for n_tokens in range(1, 18):
        x = floats(np.random.default_rng(n_tokens), n_tokens, n_embd)
        for mode in ("dense", "exact"):
            plain = ops.ffn(x, gate=gate, up=up, down_t=down, mode=mode, isa=isa)
            packed = ops.ffn(x, gate=ops.pack(gate), up=ops.pack(up), down_t=down, mode=mode, isa=isa)
            np.testing.assert_array_equal(packed.y.view(np.uint32), plain.y.view(np.uint32))
            assert packed.stats == plain.stats


@pytest.mark.parametrize("mode", ["predicted", "reference"])
@pytest.mark.parametrize("types", [("q4_0", "q4_0"), ("q4_0", "q6_K"), ("q8_0", "f16"), ("q4_K", "q5_K")])
def test_a_predictor_may_be_packed(types: tuple[str, str], mode: ops.Mode) -> None:
    """Layouts and types mix: x is prepared once for each."""
    n_embd, n_ff, rank = 1024, 70, 512
    gate, up, down = (random_rows(types[i > 0], n_ff, n_embd, 8 + i) for i in range(3))
    for n_tokens in (1, 3):
        x = floats(np.random.default_rng(9), n_tokens, n_embd)
        predictor = Predictor.random(x, n_ff, rank, types[0]).options()
        plain = ops.ffn(x, gate=gate, up=up, down_t=down, mode=mode, **predictor)
        predictor |= {"fc1": ops.pack(predictor["fc1"]), "fc2": ops.pack(predictor["fc2"])}
        packed = ops.ffn(x, gate=ops.pack(gate), up=up, down_t=down, mode=mode, **predictor)
        np.testing.assert_array_equal(packed.y.view(np.uint32), plain.y.view(np.uint32))
        np.testing.assert_array_equal(packed.mask, plain.mask)
        assert 0 < plain.mask.sum() < plain.mask.size


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["drelu", "reglu"])
@pytest.mark.parametrize("type", ["q4_0", "q8_0", "q4_K", "f16"])
def test_rows_of_gate_and_up_may_be_pairs(type: str, activation: ops.Activation, isa: ops.Isa) -> None:
    """Rows i of both side by side: the same bits and counters."""
    n_embd, n_ff, rank = 512, 300, 512
    gate, up, down = (random_rows(type, n_ff, n_embd, 20 + i) for i in range(3))
    packed = (ops.pack(gate), ops.pack(up)) if type in PACKED else (gate, up)
    pairs = ops.pair(*packed)
    for n_tokens, first in ((1, "gate"), (3, "up"), (18, "gate")):
        x = floats(np.random.default_rng(9), n_tokens, n_embd)
        predictor = Predictor.random(x, n_ff, rank, "q4_0").options()
        for mode in ("predicted", "exact", "dense", "reference"):
            options: dict[str, Any] = {"down_t": down, "mode": mode, "isa": isa}
            options |= {"activation": activation, "first_branch": first}
            options |= predictor if mode == "predicted" else {}
            apart = ops.ffn(x, gate=packed[0], up=packed[1], **options)
            paired = ops.ffn(x, gate=pairs[0], up=pairs[1], n_threads=2, **options)
            np.testing.assert_array_equal(paired.y.view(np.uint32), apart.y.view(np.uint32))
            assert paired.stats == apart.stats


def test_the_layout_for_sums_only_moves_bits() -> None:
    """Four blocks to 64 bytes, their dwords in turns, then the scales of sixteen."""
    w = any_bytes("q4_0", 3, 1024)
    sums = ops.pack(w, "sums")
    assert sums.layout == "sums"
    blocks = w.data.reshape(3, 2, 4, 4, 18)  # row, unit, four blocks, block
    quants = blocks[..., 2:].reshape(3, 2, 4, 4, 4, 4).swapaxes(3, 4).reshape(3, 2, 256)
    scales = blocks[..., :2].reshape(3, 2, 32)
    np.testing.assert_array_equal(sums.data, np.concatenate([quants, scales], axis=2).reshape(3, -1))
    np.testing.assert_array_equal(ops.pack(sums, "rows").data, w.data)
    np.testing.assert_array_equal(ops.pack(sums, "packed").data, ops.pack(w).data)
    np.testing.assert_array_equal(ops.dequantize(sums), ops.dequantize(w))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_ff", [1, 40, 300, 7808])
def test_rows_of_down_in_the_layout_for_sums(n_ff: int, isa: ops.Isa) -> None:
    """The same bits: groups that are not full, lists of several, and any number of columns and threads."""
    n_embd = 1024
    gate, up = (random_rows("q4_0", n_ff, n_embd, 20 + i) for i in range(2))
    down = any_bytes("q4_0", n_ff, n_embd)
    down.data.reshape(n_ff, -1, 18)[..., :2] = np.frombuffer(np.float16(0.3).tobytes(), np.uint8)
    for n_tokens in (1, 3, 5, 18):
        x = floats(np.random.default_rng(9), n_tokens, n_embd)
        for mode in ("exact", "dense", "reference") if n_ff <= 300 else ("exact",):
            plain = ops.ffn(x, gate=gate, up=up, down_t=down, mode=mode, isa=isa)  # type: ignore[arg-type]
            sums = ops.ffn(x, gate=gate, up=up, down_t=ops.pack(down, "sums"), mode=mode, isa=isa, n_threads=2)  # type: ignore[arg-type]
            np.testing.assert_array_equal(sums.y.view(np.uint32), plain.y.view(np.uint32))
            assert sums.stats == plain.stats


@pytest.mark.parametrize("isa", ISAS)
def test_a_predictor_by_unit_in_the_layout_for_sums(isa: ops.Isa) -> None:
    n_embd, n_ff, rank = 512, 1024, 70
    gate, up, down = (random_rows("q4_0", n_ff, n_embd, 20 + i) for i in range(3))
    fc1, fc2_t = random_rows("q4_0", rank, n_embd, 30), random_rows("q4_0", rank, n_ff, 31)
    for n_tokens in (1, 6):
        x = floats(np.random.default_rng(9), n_tokens, n_embd)
        options: dict[str, Any] = {"gate": gate, "up": up, "down_t": down, "fc1": fc1, "isa": isa, "mode": "predicted"}
        plain = ops.ffn(x, fc2_t=fc2_t, **options)
        sums = ops.ffn(x, fc2_t=ops.pack(fc2_t, "sums"), **options)
        np.testing.assert_array_equal(sums.mask, plain.mask)
        np.testing.assert_array_equal(sums.y.view(np.uint32), plain.y.view(np.uint32))
        assert 0.2 < plain.mask.mean() < 0.8


def test_layouts_have_their_places() -> None:
    w = random_rows("q4_0", 4, 512, 10)
    sums, x = ops.pack(w, "sums"), np.ones((1, 512), np.float32)
    with pytest.raises(errors.ArgumentError, match="w: expected rows in layout ROWS or PACKED"):
        ops.gather_dot(sums, x, np.zeros((1, 1), np.int32))
    with pytest.raises(errors.ArgumentError, match="ggml's layout"):
        ops.gather_axpy(sums, np.ones((1, 1), np.float32), np.zeros((1, 1), np.int32))
    for name in ("gate", "up"):
        with pytest.raises(errors.ArgumentError, match=f"{name}: expected rows in layout ROWS or PACKED"):
            ops.ffn(x, **({"gate": w, "up": w, "down_t": w} | {name: sums}))
    with pytest.raises(errors.UnsupportedModelError, match="q4_0 for sums"):
        ops.pack(random_rows("q8_0", 4, 512, 10), "sums")


def test_rows_that_overlap_are_refused() -> None:
    w = random_rows("q4_0", 4, 512, 10)
    overlapping = np.lib.stride_tricks.as_strided(w.data, (3, w.data.shape[1]), (w.data.shape[1] - 1, 1))
    with pytest.raises(errors.ArgumentError, match="contiguous rows"):
        ops.Matrix("q4_0", 512, overlapping)


@pytest.mark.parametrize("type", ["f32", "f16", "bf16"])
def test_floats_cannot_be_packed(type: str) -> None:
    with pytest.raises(errors.UnsupportedModelError, match="quantised"):
        ops.pack(ops.quantize(np.ones((2, 512), np.float32), type))


def test_rows_must_be_whole_units() -> None:
    with pytest.raises(errors.ArgumentError, match="512"):
        ops.pack(ops.quantize(np.ones((2, 544), np.float32), "q4_0"))


def test_sums_of_packed_rows_are_refused() -> None:
    w = random_rows("q4_0", 4, 512, 10)
    with pytest.raises(errors.ArgumentError, match="ggml's layout"):
        ops.gather_axpy(ops.pack(w), np.ones((1, 1), np.float32), np.zeros((1, 1), np.int32))
    with pytest.raises(errors.ArgumentError, match="down_t"):
        ops.ffn(np.ones((1, 512), np.float32), gate=w, up=w, down_t=ops.pack(w))
