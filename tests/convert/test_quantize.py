"""Types: bit-equal with gguf's own quantisers, exact where exactness is promised, fallbacks as llama-quantize's."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import quants
from turbosparse.convert.errors import MissingPackageError, UsageError
from turbosparse.convert.quantize import (
    TYPES,
    T,
    _ggml,
    decode,
    encode,
    fitting_type,
    parse_type,
    row_bytes,
    to_bf16,
    to_f32,
)  # fmt: skip

RNG = np.random.default_rng(7)
X = (RNG.standard_normal((33, 512)) * RNG.gamma(1.0, 1.0, (33, 1))).astype(np.float32)
X[5] = 0.0
X[6, ::7] *= 100.0


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "bf16", "f16"])
def test_bit_equal_with_gguf_py(name: str) -> None:
    np.testing.assert_array_equal(
        encode(X, TYPES[name]), quants.quantize(X, TYPES[name]).view(np.uint8).reshape(33, -1)
    )


@pytest.mark.parametrize("name", list(TYPES))
def test_round_trip_error_of_every_type(name: str) -> None:
    qtype = TYPES[name]
    data = encode(X, qtype)
    assert data.shape == (33, row_bytes(qtype, 512))
    y = decode(data, qtype)
    np.testing.assert_array_equal(y, quants.dequantize(data, qtype).reshape(33, 512))
    bound = {"f32": 0, "f16": 1e-6, "bf16": 1e-5, "q8_0": 1e-4, "q6_k": 1e-3}.get(name, 5e-3 if "5" in name else 2e-2)
    assert ((y - X) ** 2).sum() <= bound * (X**2).sum()


def test_bf16_is_exact_in_f32_and_rounds_to_even() -> None:
    bits = np.arange(0, 1 << 16, dtype=np.uint16).reshape(1, -1)
    wide = to_f32(bits)
    np.testing.assert_array_equal(wide.view(np.uint32) >> 16, bits)
    finite = np.isfinite(wide)
    np.testing.assert_array_equal(to_bf16(wide)[finite], bits[finite])
    tie = np.array([0x3F808000, 0x3F818000, 0x3F808001], np.uint32).view(np.float32)  # 1 + half a step, odd, above half
    np.testing.assert_array_equal(to_bf16(tie), [0x3F80, 0x3F82, 0x3F81])
    assert np.isnan(to_f32(to_bf16(np.array([np.nan, -np.nan], np.float32)))).all()


def test_bf16_rows_are_copied() -> None:
    raw = RNG.integers(0, 0x7F80, (4, 64)).astype(np.uint16)
    np.testing.assert_array_equal(encode(raw, T.BF16).view(np.uint16), raw)
    np.testing.assert_array_equal(encode(raw, T.F32).view(np.float32), to_f32(raw))


@pytest.mark.parametrize(
    ("asked", "width", "given"),
    [
        ("q4_k", 256, "q4_k"), ("q4_k", 896, "q5_0"), ("q5_k", 1088, "q5_1"), ("q6_k", 1344, "q8_0"),
        ("q4_k", 48, "f16"), ("q4_0", 48, "f16"), ("q8_0", 96, "q8_0"), ("f32", 7, "f32"), ("bf16", 7, "bf16"),
    ],
)  # fmt: skip
def test_fallback(asked: str, width: int, given: str) -> None:
    assert fitting_type(TYPES[asked], width) is TYPES[given]


def test_unknown_type_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"q4_k_m.*q4_0"):
        parse_type("q4_k_m")


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    _ggml.cache_clear()
    try:
        with pytest.raises(MissingPackageError, match="pip install llama-cpp-python"):
            encode(X, T.Q4_0)
        assert encode(X, T.BF16).nbytes == X.size * 2  # float types need no library
    finally:
        _ggml.cache_clear()
