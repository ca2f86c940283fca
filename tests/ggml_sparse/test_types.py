"""Whole files of every type: they load, run, keep exact == dense, and stay near the F32 file.

Kernels are compared with the reference per block elsewhere (test_ops*). Here the bound on logits is what rounding the
weights of a two-layer random model costs, measured with a factor of about two to spare; a wrong scale, a swapped
nibble or a mixed-up row is off by the whole range.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import ggufedit
from tests.conftest import Case
from tests.ggml_sparse.test_logits import assert_close

BOUND = {  # RMS error of the middle token's logits over their standard deviation
    "f32": 1e-6, "f16": 1.5e-3, "bf16": 0.012, "q8_0": 0.04, "q4_0": 0.45, "q4_1": 0.42, "q5_0": 0.23, "q5_1": 0.24,
    "q4_k": 0.3, "q5_k": 0.15, "q6_k": 0.08,
}  # fmt: skip
K_SHAPE = {"n_embd": 256, "n_ff": 256, "n_head": 4, "n_layer": 1, "ranks": (64,)}  # K blocks are 256 wide


def shape_of(outtype: str) -> dict[str, Any]:
    return K_SHAPE if outtype.endswith("_k") else {"n_ff": 320}


def rms_error(found: Any, expected: Any) -> float:
    """Of the middle token: a routing choice or a mask that rounding tips is a large error of few tokens."""
    return float(np.median(np.sqrt(np.mean((found - expected) ** 2, axis=1))) / np.std(expected))


@pytest.mark.parametrize("family", ["mistral", "mixtral"])
@pytest.mark.parametrize("outtype", BOUND)
def test_whole_file(cases: Any, outtype: str, family: str) -> None:
    case = cases(family, outtype, hot=True, **shape_of(outtype))
    tokens = case.tokens(24)
    with case.open(n_ctx=64) as model:
        dense = model.logits(tokens, mode="dense")
        np.testing.assert_array_equal(model.logits(tokens, mode="exact"), dense)
        predicted = model.logits(tokens, mode="predicted")
        reference = model.logits(tokens, mode="reference")
    error = rms_error(dense, case.run(tuple(tokens), "dense").logits)
    assert error <= BOUND[outtype], f"{outtype}: {error:.3g}"
    # the same rounded x; in quantised files the predictor's hidden units are rounded, too (cpu/group-sum.h), which the
    # reference does not repeat: a logit near the threshold may fall on the other side (0.005 to 0.015 over six seeds)
    assert rms_error(predicted, reference) <= (1e-3 if outtype in {"f32", "f16", "bf16"} else 0.02)


@pytest.mark.parametrize("family", ["mistral", "mixtral"])
@pytest.mark.parametrize("outtype", [t for t in BOUND if t not in {"f32", "f16", "bf16"}])
def test_predicted_is_the_reference_where_no_hidden_unit_is_rounded(cases: Any, outtype: str, family: str) -> None:
    """fc2 by neuron: every dot sees the same rounded x, and the masks are the same to the last neuron."""
    case = cases(family, outtype, hot=True, convert={"fc2_by_unit": False}, **shape_of(outtype))
    tokens = case.tokens(24)
    with case.open(n_ctx=64) as model:
        predicted, reference = (model.logits(tokens, mode=mode) for mode in ("predicted", "reference"))
    assert rms_error(predicted, reference) <= 1e-6


@pytest.mark.parametrize("outtype", BOUND)
def test_the_type_is_really_in_the_file(cases: Any, outtype: str) -> None:
    import gguf

    case = cases("mistral", outtype, hot=True, **shape_of(outtype))
    kind = gguf.GGMLQuantizationType[outtype.upper()]
    for name in ("ffn_gate", "ffn_up", "ffn_down_t"):
        assert ggufedit.GgufEdit(case.gguf).tensor(f"blk.0.{name}.weight").type == kind
    with case.open(n_ctx=64) as model:
        layer = model.layers[0]
        assert {str(t).lower() for t in (layer.type_gate, layer.type_up, layer.type_down)} == {outtype}


@pytest.mark.parametrize("outtype", ["f16", "bf16", "q8_0", "q4_0", "q5_1"])
@pytest.mark.parametrize("predictor_type", ["f32", "f16", "q8_0"])
def test_predictor_type_is_separate(cases: Any, outtype: str, predictor_type: str) -> None:
    case = cases("mistral", outtype, convert={"predictor_type": predictor_type}, ranks=(32, 64))
    tokens = case.tokens(24)
    with case.open(n_ctx=64) as model:
        assert {la.type_predictor for la in model.layers} == {predictor_type}
        found = model.logits(tokens, mode="predicted")
    assert rms_error(found, case.run(tuple(tokens), "predicted").logits) <= BOUND[outtype] + 0.15


def test_f16_weights_are_exactly_the_rounded_checkpoint(cases: Any) -> None:
    """An f16 checkpoint as an f16 file loses nothing: the F32 bound holds against the oracle on it."""
    case = cases("mistral", "f16", dtype="f16", convert={"predictor_type": "f16"})
    tokens = case.tokens(24)
    with case.open(n_ctx=64) as model:
        for mode, reference in (("exact", "dense"), ("predicted", "predicted")):
            expected = case.run(tuple(tokens), reference).logits
            assert_close(model.logits(tokens, mode=mode), expected, tolerance=5e-3)  # attention rounds x to F16


@pytest.mark.parametrize(
    "kinds", ["q4_0 f16 q8_0", "f32 q5_1 q4_1", "q8_0 q4_0 f32", "bf16 q8_0 q5_0", "q4_1 q4_1 f16"]
)
@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_gate_up_and_down_of_different_types(cases: Any, tmp_path: Path, family: str, kinds: str) -> None:
    """As K mixes have it: tensors of files of several types spliced into one, differently per layer."""
    mixed = ggufedit.GgufEdit(cases(family, "f32", hot=True, n_ff=320).gguf)
    suffix = "_exps.weight" if family == "mixtral" else ".weight"
    for il in (0, 1):
        names = ("ffn_gate", "ffn_up", "ffn_down_t")
        for name, kind in zip(names, kinds.split()[:: 1 - 2 * il], strict=True):
            donor = ggufedit.GgufEdit(cases(family, kind, hot=True, n_ff=320).gguf)
            target, source = (f.tensor(f"blk.{il}.{name}{suffix}") for f in (mixed, donor))
            target.type, target.data = source.type, source.data
    case = Case(cases(family, n_ff=320).hf, mixed.write(tmp_path / "mixed.gguf"))
    tokens = case.tokens(24)
    with case.open(n_ctx=64) as model:
        dense, exact = (model.logits(tokens, mode=m) for m in ("dense", "exact"))
        predicted, reference = (model.logits(tokens, mode=m) for m in ("predicted", "reference"))
    np.testing.assert_array_equal(exact, dense)
    assert rms_error(dense, case.run(tuple(tokens), "dense").logits) < 0.4
    assert rms_error(predicted, reference) <= 0.02


@pytest.mark.parametrize("outtype", ["q4_k", "q5_k", "q6_k"])
def test_k_types_fall_back_where_the_width_does_not_fit(cases: Any, outtype: str) -> None:
    """n_embd 96 is no multiple of 256: the file holds 32-wide types instead, and runs."""
    case = cases("mistral", outtype, hot=True, n_embd=96, n_ff=320)
    types = {t.type for t in ggufedit.GgufEdit(case.gguf).tensors if "ffn_gate" in str(t.name)}
    assert types <= {6, 7, 8}, "q5_0, q5_1 or q8_0"
    tokens = case.tokens(24)
    with case.open(n_ctx=64) as model:
        dense = model.logits(tokens, mode="dense")
        np.testing.assert_array_equal(model.logits(tokens, mode="exact"), dense)
    assert rms_error(dense, case.run(tuple(tokens), "dense").logits) <= BOUND["q5_0"]
