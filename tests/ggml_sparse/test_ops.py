"""Types, rounding, gathered dot and gathered axpy: every type of quants.def on every instruction set here."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from turbosparse import errors, ops
from turbosparse.convert import quantize as converter

from tests.ggml_sparse.ops_cases import ISAS, MAX_NMSE, TYPES, dots, floats, nmse, typed_widths, values


def test_the_engine_and_the_converter_have_the_same_types() -> None:
    assert {name.lower() for name in TYPES} == set(converter.TYPES)
    for info in TYPES.values():
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(info.id)]
        assert (info.block_size, info.type_size) == (block, size)


def test_generic_is_always_usable() -> None:
    assert ISAS[0] == "generic"


@pytest.mark.parametrize(("type", "n_col"), typed_widths())
def test_dequantize_matches_gguf(type: str, n_col: int) -> None:
    """gguf-py's numpy dequantiser is an independent reading of the formats."""
    w = ops.quantize(floats(np.random.default_rng(1), 5, n_col), type)
    data = w.data.view({"f32": np.float32, "f16": np.float16}.get(type, np.uint8))
    expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(TYPES[type].id))
    np.testing.assert_array_max_ulp(ops.dequantize(w), expected.astype(np.float32), maxulp=1)


@pytest.mark.parametrize("type", ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "bf16"])
def test_quantize_matches_gguf(type: str) -> None:
    x = floats(np.random.default_rng(2), 7, 320)
    expected = gguf.quants.quantize(x, gguf.GGMLQuantizationType(TYPES[type].id))
    np.testing.assert_array_equal(ops.quantize(x, type).data, expected.view(np.uint8).reshape(7, -1))


@pytest.mark.parametrize(("type", "n_col"), typed_widths())
def test_round_x_rounds_to_eight_bits_or_not_at_all(type: str, n_col: int) -> None:
    x = floats(np.random.default_rng(3), 4, n_col)
    rounded = ops.round_x(x, type)
    if TYPES[type].x_name == "f32":
        np.testing.assert_array_equal(rounded, x)
        return
    block = 256 if TYPES[type].x_name == "q8_K" else 32
    step = np.abs(x.reshape(4, -1, block)).max(-1, keepdims=True) / 127
    error = np.abs(rounded - x).reshape(4, -1, block)
    assert (error <= 0.5 * step + 127 * step * 2.0**-11).all()  # half a step, and the scale in half precision
    assert (rounded != x).any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("type", "n_col"), typed_widths())
def test_gather_dot(type: str, n_col: int, isa: ops.Isa) -> None:
    rng = np.random.default_rng(4)
    w, x = ops.quantize(floats(rng, 33, n_col), type), floats(rng, 3, n_col)
    ids = rng.integers(-2, 33, (3, 70)).astype(np.int32)
    ids[0, 0], ids[0, -1] = 0, 32
    out = ops.gather_dot(w, x, ids, isa=isa)
    expected = np.where(ids < 0, 0.0, np.take_along_axis(dots(w, x), np.maximum(ids, 0), axis=1))
    assert (out[ids < 0] == 0).all()
    assert nmse(out, expected) <= MAX_NMSE
    # no sum of n float32 products is further off
    size = np.abs(ops.round_x(x, type)).astype(np.float64) @ np.abs(values(w)).T
    bound = n_col * 2.0**-24 * np.take_along_axis(size, np.maximum(ids, 0), axis=1)
    assert (np.abs(out - expected) <= bound).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_col", [1, 7, 15, 17, 33, 65, 100])
@pytest.mark.parametrize("type", ["f32", "f16", "bf16"])
def test_float_rows_of_any_width(type: str, n_col: int, isa: ops.Isa) -> None:
    rng = np.random.default_rng(5)
    w, x = ops.quantize(floats(rng, 9, n_col), type), floats(rng, 2, n_col)
    ids = np.tile(np.arange(9, dtype=np.int32), (2, 1))
    assert nmse(ops.gather_dot(w, x, ids, isa=isa), dots(w, x)) <= MAX_NMSE
    h = floats(rng, 2, 9)
    assert nmse(ops.gather_axpy(w, h, ids, isa=isa), h.astype(np.float64) @ values(w)) <= MAX_NMSE


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("type", "n_col"), typed_widths())
def test_gather_axpy(type: str, n_col: int, isa: ops.Isa) -> None:
    rng = np.random.default_rng(6)
    w, h = ops.quantize(floats(rng, 33, n_col), type), floats(rng, 3, 70)
    ids = rng.integers(-2, 33, (3, 70)).astype(np.int32)
    ids[0, 0], ids[0, -1] = 0, 32
    y = ops.gather_axpy(w, h, ids, isa=isa)
    rows = np.where(ids[..., None] < 0, 0.0, values(w)[np.maximum(ids, 0)])
    expected = np.einsum("ti,tic->tc", h.astype(np.float64), rows)
    bound = 71 * 2.0**-23 * np.einsum("ti,tic->tc", np.abs(h).astype(np.float64), np.abs(rows))
    assert (np.abs(y - expected) <= bound).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", list(TYPES))
def test_bits_do_not_depend_on_threads_or_batch(type: str, isa: ops.Isa) -> None:
    rng = np.random.default_rng(7)
    n_col = 1280  # more than one unit of work along y
    w, x, h = ops.quantize(floats(rng, 40, n_col), type), floats(rng, 5, n_col), floats(rng, 5, 150)
    ids = rng.integers(-1, 40, (5, 150)).astype(np.int32)
    dot, axpy = ops.gather_dot(w, x, ids, isa=isa), ops.gather_axpy(w, h, ids, isa=isa)
    for n_threads in (2, 3, 4):
        np.testing.assert_array_equal(ops.gather_dot(w, x, ids, n_threads=n_threads, isa=isa), dot)
        np.testing.assert_array_equal(ops.gather_axpy(w, h, ids, n_threads=n_threads, isa=isa), axpy)
    for t in range(5):
        one = slice(t, t + 1)
        np.testing.assert_array_equal(ops.gather_dot(w, x[one], ids[one], isa=isa), dot[one])
        np.testing.assert_array_equal(ops.gather_axpy(w, h[one], ids[one], isa=isa), axpy[one])


def test_extremes_of_eight_bits() -> None:
    """-128 in a q8_0 file, and full-scale products, must not saturate."""
    quants = np.full((1, 320), -128, np.int8)
    quants[0, ::3] = 127
    scales = np.full((10, 1), 1.0, np.float16).view(np.int8)
    blocks = np.concatenate([scales, quants.reshape(10, 32)], axis=1)
    w = ops.Matrix("q8_0", 320, np.ascontiguousarray(blocks.reshape(1, -1)).view(np.uint8))
    x = np.where(np.arange(320) % 2, 1.0, -1.0).astype(np.float32)[None]
    for isa in ISAS:
        out = ops.gather_dot(w, x, np.zeros((1, 1), np.int32), isa=isa)
        assert nmse(out, dots(w, x)) <= MAX_NMSE


@pytest.mark.parametrize("op", [ops.gather_dot, ops.gather_axpy])
def test_empty_lists(op: object) -> None:
    w = ops.quantize(np.ones((4, 32), np.float32), "f16")
    assert ops.gather_dot(w, np.ones((2, 32), np.float32), np.empty((2, 0), np.int32)).shape == (2, 0)
    assert (ops.gather_axpy(w, np.ones((2, 0), np.float32), np.empty((2, 0), np.int32)) == np.zeros((2, 32))).all()


def test_ids_out_of_range_are_refused() -> None:
    w, x = ops.quantize(np.ones((4, 32), np.float32), "f32"), np.ones((1, 32), np.float32)
    for bad in (4, 2**31 - 1, 2**40):
        with pytest.raises(errors.ArgumentError) as caught:
            ops.gather_dot(w, x, np.array([[0, bad]]))
        assert caught.value.where == "ids[1]"
        assert "n_row = 4" in caught.value.expected
        with pytest.raises(errors.ArgumentError):
            ops.gather_axpy(w, np.ones((1, 2), np.float32), np.array([[0, bad]]))


def test_wrong_shapes_are_refused() -> None:
    w, ids = ops.quantize(np.ones((4, 32), np.float32), "f32"), np.zeros((1, 1), np.int32)
    x = np.ones((1, 32), np.float32)
    for wrong in (x[:, :31], np.ones((2, 32), np.float32), x[0]):
        with pytest.raises(errors.ArgumentError):
            ops.gather_dot(w, wrong, ids)
    with pytest.raises(errors.ArgumentError):
        ops.gather_axpy(w, np.ones((1, 2), np.float32), ids)
    with pytest.raises(errors.ArgumentError, match="ids"):
        ops.gather_dot(w, x, np.zeros((1, 1), np.float32))  # type: ignore[arg-type]
    with pytest.raises(errors.ArgumentError, match="multiple of 32"):
        ops.quantize(np.ones((4, 33), np.float32), "q8_0")
    with pytest.raises(errors.ArgumentError, match="multiple of 256"):
        ops.round_x(np.ones((1, 320), np.float32), "q4_K")
    with pytest.raises(errors.ArgumentError, match="data"):
        ops.dequantize(ops.Matrix("q8_0", 64, w.data[:, :34].copy()))
    with pytest.raises(errors.ArgumentError):
        ops.Matrix("f32", 16, w.data[:, ::2])


def test_unknown_names_are_refused() -> None:
    w, ids = ops.quantize(np.ones((4, 32), np.float32), "f32"), np.zeros((1, 1), np.int32)
    x = np.ones((1, 32), np.float32)
    with pytest.raises(errors.UnsupportedModelError, match="iq2_xxs"):
        ops.quantize(x, "iq2_xxs")
    with pytest.raises(errors.ArgumentError, match="isa"):
        ops.gather_dot(w, x, ids, isa="avx1024")  # type: ignore[arg-type]
    for n_threads in (0, -1, 100_000):
        with pytest.raises(errors.ArgumentError, match="n_threads"):
            ops.gather_dot(w, x, ids, n_threads=n_threads)
