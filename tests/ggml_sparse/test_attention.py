"""Attention as an operator: float64 oracle, masks, and bits that depend on a token and the rows that it sees alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from turbosparse import errors, ops

from tests.ggml_sparse.ops_cases import ISAS, Doubles, Floats, floats, values

BLOCK, RANGE = 64, 256  # of the kernels
TYPES = ("f16", "f32", "q8_0")
SHAPES = [  # heads, KV heads, d_k, d_v
    (8, 2, 128, 128),
    (4, 4, 64, 64),
    (8, 1, 64, 32),
    (7, 1, 32, 96),
    (6, 2, 96, 128),
]


def causal(n_token: int, n_kv: int, n_past: int) -> Floats:
    """Token t sees the rows up to n_past + t, whatever is stored behind."""
    rows = np.arange(n_kv)[None] <= n_past + np.arange(n_token)[:, None]
    return np.where(rows, 0, -np.inf).astype(np.float32)


class Cache:
    """Random K and V of `n_kv` rows, quantised."""

    def __init__(
        self, rng: np.random.Generator, n_kv: int, n_head_kv: int, d_k: int, d_v: int, type: str = "f16"
    ) -> None:
        self.shape = (n_kv, n_head_kv)
        self.k = ops.quantize(floats(rng, n_kv * n_head_kv, d_k), type)
        self.v = ops.quantize(floats(rng, n_kv * n_head_kv, d_v), type)

    def oracle(self, q: Floats, mask: npt.NDArray[Any]) -> Doubles:
        k, v = (values(m).reshape(*self.shape, -1) for m in (self.k, self.v))
        group = q.shape[1] // self.shape[1]
        out = np.zeros((*q.shape[:2], v.shape[-1]))
        for h in range(q.shape[1]):
            s = q[:, h].astype(np.float64) @ k[:, h // group].T * q.shape[2] ** -0.5 + mask.astype(np.float16)
            live = np.isfinite(s).any(1)
            p = np.exp(s[live] - s[live].max(1, keepdims=True))
            out[live, h] = p / p.sum(1, keepdims=True) @ v[:, h // group]
        return out


def assert_near(found: Floats, expected: Doubles, atol: float = 2e-6) -> None:
    """A mean of values of size 1 in float32: 2e-6 is a dozen roundings."""
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(shape: tuple[int, int, int, int], type: str, isa: ops.Isa) -> None:
    """Several ranges, the last one with part of a block."""
    n_head, n_head_kv, d_k, d_v = shape
    rng = np.random.default_rng(1)
    for n_token, n_kv in ((1, 1), (1, 300), (3, 2 * RANGE + BLOCK + 5), (40, RANGE + 9)):
        cache = Cache(rng, n_kv, n_head_kv, d_k, d_v, type)
        q, mask = floats(rng, n_token, n_head, d_k), causal(n_token, n_kv, max(0, n_kv - n_token - 3))
        assert_near(ops.attention(q, cache.k, cache.v, mask, isa=isa), cache.oracle(q, mask))


def test_the_mask_is_added() -> None:
    rng = np.random.default_rng(2)
    cache, q = Cache(rng, 200, 2, 64, 64), floats(rng, 5, 4, 64)
    mask = (3 * rng.standard_normal((5, 200))).astype(np.float16)
    mask[rng.random((5, 200)) < 0.3] = -np.inf
    assert_near(ops.attention(q, cache.k, cache.v, mask, scale=0.125), cache.oracle(q, mask))


@pytest.mark.parametrize("isa", ISAS)
def test_large_scores(isa: ops.Isa) -> None:
    """Scores of some hundreds, in an order that raises the maximum again and again; float32 rounds them by 3e-5."""
    rng = np.random.default_rng(3)
    cache = Cache(rng, 600, 1, 64, 64, "f32")
    q = floats(rng, 2, 2, 64)
    rising = np.argsort(values(cache.k) @ q[0, 0])
    cache.k = ops.Matrix("f32", 64, np.ascontiguousarray(cache.k.data[rising]))
    mask = np.zeros((2, 600))
    assert_near(ops.attention(64 * q, cache.k, cache.v, mask, isa=isa), cache.oracle(64 * q, mask), 1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_exp(isa: ops.Isa) -> None:
    """Two rows, scores 0 and x: the ratio of what they give is e^x, to 3e-7; nothing below -87."""
    x = -np.concatenate([np.linspace(0, 86.9, 3000), np.geomspace(1e-6, 1, 200), [88, 100, 1000]]).astype(np.float32)
    q = np.zeros((len(x), 1, 16), np.float32)
    q[:, 0, 0] = x
    k, v = np.zeros((2, 16), np.float32), np.zeros((2, 16), np.float32)
    k[1, 0] = v[0, 0] = v[1, 1] = 1
    out = ops.attention(q, ops.quantize(k, "f32"), ops.quantize(v, "f32"), np.zeros((len(x), 2)), scale=1, isa=isa)
    out = out.astype(np.float64)
    kept = x >= -87
    ratio = out[kept, 0, 1] / out[kept, 0, 0]
    np.testing.assert_allclose(ratio, np.exp(x[kept].astype(np.float64)), rtol=3e-7)
    assert (out[~kept, 0, 1] == 0).all()
    assert out[0, 0, 0] == out[0, 0, 1] == 0.5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_for_any_threads_and_any_cut(shape: tuple[int, int, int, int], isa: ops.Isa) -> None:
    """A prompt of 90 tokens behind 500 rows: whole, in pieces, alone, with 1 to 4 threads, in a longer cache."""
    n_head, n_head_kv, d_k, d_v = shape
    rng = np.random.default_rng(4)
    n_token, n_past = 90, 500
    cache, q = Cache(rng, 700, n_head_kv, d_k, d_v), floats(rng, n_token, n_head, d_k)
    mask = causal(n_token, 700, n_past)
    whole = ops.attention(q, cache.k, cache.v, mask, isa=isa)
    for n_threads in (2, 3, 4):
        np.testing.assert_array_equal(ops.attention(q, cache.k, cache.v, mask, isa=isa, n_threads=n_threads), whole)
    for cut in (1, 3, 16):
        for i in range(0, n_token, cut) if cut > 1 else (0, 1, 57, 89):
            n_kv = n_past + min(i + cut, n_token)  # rows behind these do not exist yet
            k, v = (ops.Matrix(m.type, m.n_col, m.data[: n_kv * n_head_kv]) for m in (cache.k, cache.v))
            found = ops.attention(q[i : i + cut], k, v, mask[i : i + cut, :n_kv], isa=isa, n_threads=1 + i % 3)
            np.testing.assert_array_equal(found, whole[i : i + cut])


def test_hidden_rows_leave_no_trace() -> None:
    """Whole blocks, single rows, and what lies behind the last row that is seen, of any finite value."""
    rng = np.random.default_rng(5)
    cache, q = Cache(rng, 400, 2, 64, 64, "f32"), floats(rng, 12, 4, 64)
    hidden = rng.random(400) < 0.2
    hidden[64:128] = hidden[256:330] = hidden[390:] = True
    mask = np.where(hidden, -np.inf, 0) * np.ones((12, 1))
    mask[3] = -np.inf
    expected = ops.attention(q, cache.k, cache.v, mask)
    assert (expected[3] == 0).all()
    for m in (cache.k, cache.v):
        m.data.view(np.float32).reshape(400, 2, 64)[hidden] = 1e30
    np.testing.assert_array_equal(ops.attention(q, cache.k, cache.v, mask), expected)


def test_what_it_refuses() -> None:
    rng = np.random.default_rng(6)
    cache, q = Cache(rng, 8, 2, 32, 32), floats(rng, 3, 4, 32)
    mask = causal(3, 8, 5)
    bad: list[tuple[str, tuple[Any, ...]]] = [
        ("q", (q[:, :, :16], cache.k, cache.v, mask)),
        ("mask", (q, cache.k, cache.v, mask[:2])),
        ("n_head", (q[:, :3], cache.k, cache.v, mask)),
        ("n_kv", (q, cache.k, cache.v, mask[:, :5])),
        ("v", (q, cache.k, ops.quantize(floats(rng, 8, 32), "f16"), mask)),
        ("k", (q, ops.quantize(floats(rng, 16, 32), "q4_0"), cache.v, mask)),
        ("k", (q[:, :, :24], ops.quantize(floats(rng, 16, 24), "f16"), cache.v, mask)),
    ]
    for where, arguments in bad:
        with pytest.raises(errors.ArgumentError) as caught:
            ops.attention(*arguments)
        assert caught.value.where == where
