"""The plan: every tensor taken once, nothing dropped, shapes and types as the format says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.constants import GGMLQuantizationType as T
from turbosparse.convert import convert
from turbosparse.convert.errors import CheckpointError, UnsupportedModelError
from turbosparse.convert.job import Options, open_job
from turbosparse.convert.quantize import decode

from tests import tiny

LAYER = "model.layers.{}."


def read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors of a GGUF as the reference reader sees them, dequantised, slowest dimension first."""
    out = {}
    for t in GGUFReader(path).tensors:
        shape = tuple(int(n) for n in reversed(t.shape))
        if t.tensor_type == T.I32:
            out[t.name] = np.asarray(t.data).reshape(shape)
        else:
            rows = np.ascontiguousarray(t.data).view(np.uint8).reshape(int(np.prod(shape[:-1])), -1)
            out[t.name] = decode(rows, T(t.tensor_type)).reshape(shape)
    return out


def permute(w: np.ndarray[Any, Any], n_head: int) -> np.ndarray[Any, Any]:
    """Row by row, as the definition of rope pairs says: i and i + d/2 of a head become 2i and 2i + 1."""
    d = len(w) // n_head
    out = np.empty_like(w)
    for h in range(n_head):
        for i in range(d // 2):
            out[h * d + 2 * i] = w[h * d + i]
            out[h * d + 2 * i + 1] = w[h * d + i + d // 2]
    return out


def test_every_value_of_a_dense_checkpoint(mistral_dir: Path, tmp_path: Path, weights: Any) -> None:
    hf, got = weights(mistral_dir), read(convert(mistral_dir, tmp_path / "m.gguf", outtype="f32"))
    expected = {"token_embd.weight": hf["model.embed_tokens.weight"], "output_norm.weight": hf["model.norm.weight"]}
    expected["output.weight"] = hf["lm_head.weight"]
    for il in range(2):
        p, b = LAYER.format(il), f"blk.{il}."
        expected |= {
            b + "attn_norm.weight": hf[p + "input_layernorm.weight"],
            b + "ffn_norm.weight": hf[p + "post_attention_layernorm.weight"],
            b + "attn_q.weight": permute(hf[p + "self_attn.q_proj.weight"], 4),
            b + "attn_k.weight": permute(hf[p + "self_attn.k_proj.weight"], 2),
            b + "attn_v.weight": hf[p + "self_attn.v_proj.weight"],
            b + "attn_output.weight": hf[p + "self_attn.o_proj.weight"],
            b + "ffn_gate.weight": hf[p + "mlp.gate_proj.weight"],
            b + "ffn_up.weight": hf[p + "mlp.up_proj.weight"],
            b + "ffn_down_t.weight": hf[p + "mlp.down_proj.weight"].T,
            b + "ffn_pred_fc1.weight": hf[p + "mlp.predictor.fc1.weight"],
            b + "ffn_pred_fc2.weight": hf[p + "mlp.predictor.fc2.weight"],
            b + "ffn_pred_in_scale": np.float32(1) / hf[p + "post_attention_layernorm.weight"],
        }
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_every_value_of_a_moe_checkpoint(mixtral_dir: Path, tmp_path: Path, weights: Any) -> None:
    hf, got = weights(mixtral_dir), read(convert(mixtral_dir, tmp_path / "m.gguf", outtype="f32"))
    for il in range(2):
        p, b = LAYER.format(il) + "block_sparse_moe.", f"blk.{il}."
        np.testing.assert_array_equal(got[b + "ffn_gate_inp.weight"], hf[p + "gate.weight"])
        assert b + "ffn_pred_in_scale" not in got  # these predictors read the normalised input
        for e in range(4):
            x = p + f"experts.{e}."
            np.testing.assert_array_equal(got[b + "ffn_gate_exps.weight"][e], hf[x + "w1.weight"])
            np.testing.assert_array_equal(got[b + "ffn_up_exps.weight"][e], hf[x + "w3.weight"])
            np.testing.assert_array_equal(got[b + "ffn_down_t_exps.weight"][e], hf[x + "w2.weight"].T)
            np.testing.assert_array_equal(got[b + "ffn_pred_fc1_exps.weight"][e], hf[x + "predictor.fc1.weight"])
            np.testing.assert_array_equal(got[b + "ffn_pred_fc2_exps.weight"][e], hf[x + "predictor.fc2.weight"])


@pytest.mark.parametrize("outtype", ["f32", "bf16"])
def test_bf16_checkpoint_survives_exactly(mistral_bf16_dir: Path, tmp_path: Path, outtype: str) -> None:
    out = convert(mistral_bf16_dir, tmp_path / "m.gguf", outtype=outtype)
    with open_job(mistral_bf16_dir, Options("f32")) as job:
        source = job.checkpoint.tensors["model.layers.1.mlp.down_proj.weight"].read(0, 64)
    exact = (source.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(read(out)["blk.1.ffn_down_t.weight"], exact.T)
    types = {t.name: t.tensor_type for t in GGUFReader(out).tensors}
    assert types["blk.0.ffn_pred_fc1.weight"] == T.BF16  # as trained
    assert types["blk.0.ffn_norm.weight"] == T.F32


def types_of(src: Path, **options: Any) -> dict[str, str]:
    with open_job(src, Options(**options)) as job:
        return {t.name: t.qtype.name.lower() for t in job.plan.tensors}


def test_type_of_every_kind_of_tensor(wide_dir: Path) -> None:
    types = types_of(wide_dir, outtype="q4_k")
    assert types["blk.0.ffn_gate.weight"] == types["token_embd.weight"] == types["blk.0.attn_k.weight"] == "q4_k"
    assert types["output.weight"] == "q6_k"
    assert types["blk.0.ffn_pred_fc1.weight"] == types["blk.0.ffn_pred_fc2_t.weight"] == "q4_0"
    assert types["blk.0.ffn_norm.weight"] == types["blk.0.ffn_pred_in_scale"] == "f32"
    assert types_of(wide_dir, outtype="q4_k", pure=True)["output.weight"] == "q4_k"
    assert types_of(wide_dir, outtype="q4_0", predictor_type="q4_1")["blk.0.ffn_pred_fc2_t.weight"] == "q4_1"
    assert types_of(wide_dir, outtype="f16")["blk.0.ffn_pred_fc2.weight"] == "f32"  # trained in f32: f16 would round
    assert types_of(wide_dir, outtype="q8_0")["output.weight"] == "q8_0"


def test_fallbacks_are_listed(mistral_dir: Path) -> None:
    with open_job(mistral_dir, Options("q6_k", predictor_type="q5_k", fc2_by_unit=False)) as job:
        fell = {t.name: (t.wanted.name, t.qtype.name) for t in job.plan.fallbacks if t.wanted}
    assert fell["blk.0.ffn_up.weight"] == ("Q6_K", "Q8_0")
    assert fell["blk.0.ffn_pred_fc2.weight"] == ("Q5_K", "Q5_1")  # rank 32
    assert fell["blk.1.ffn_pred_fc2.weight"] == ("Q5_K", "F16")  # rank 48


def test_fc2_is_by_unit_where_predictors_are_quantised(mistral_dir: Path, tmp_path: Path) -> None:
    def names(n_ff: int = 160, **options: Any) -> set[str]:
        src = mistral_dir if n_ff == 160 else tiny.write_mistral(tmp_path / str(n_ff), n_ff=n_ff)
        with open_job(src, Options(**options)) as job:
            assert ("turbosparse.required_features" in job.kv) == bool(job.plan.features)
            return {t.name.removeprefix("blk.1.ffn_pred_") for t in job.plan.tensors if ".ffn_pred_fc2" in t.name}

    assert "fc2_t.weight" in names(outtype="q4_0")
    assert "fc2.weight" in names(outtype="f16")
    assert "fc2_t.weight" in names(outtype="f16", predictor_type="q8_0")
    assert "fc2.weight" in names(outtype="q4_0", predictor_type="f16")
    assert "fc2.weight" in names(outtype="q4_0", fc2_by_unit=False)
    assert "fc2_t.weight" in names(outtype="bf16", fc2_by_unit=True)
    assert "fc2.weight" in names(n_ff=150, outtype="q4_0")  # rows of 150 could not be quantised at all


def test_planned_bytes_are_written_bytes(mixtral_dir: Path, tmp_path: Path) -> None:
    with open_job(mixtral_dir, Options("q5_1")) as job:
        job.write(tmp_path / "m.gguf")
        written = {t.name: t.n_bytes for t in GGUFReader(tmp_path / "m.gguf").tensors}
        assert written == {t.name: t.n_bytes for t in job.plan.tensors}


def test_negative_and_tiny_norm_weights(tmp_path: Path) -> None:
    src = tiny.write_mistral(tmp_path / "hf", wild_norms=True)
    got = read(convert(src, tmp_path / "m.gguf", outtype="f32"))
    norm, scale = got["blk.0.ffn_norm.weight"], got["blk.0.ffn_pred_in_scale"]
    assert norm.min() < 0
    np.testing.assert_array_equal(scale, np.float32(1) / norm)


@pytest.mark.parametrize("value", [0.0, 1e-39, -0.0])
def test_norm_without_an_inverse_is_refused(mistral_dir: Path, edited: Any, weights: Any, value: float) -> None:
    name = LAYER.format(1) + "post_attention_layernorm.weight"
    norm = weights(mistral_dir)[name].copy()
    norm[7] = value
    src = edited(mistral_dir, change={name: norm})
    with pytest.raises(UnsupportedModelError, match=r"layer 1: .*\[7\].*--no-predictors"):
        types_of(src)
    assert "blk.1.ffn_pred_fc1.weight" not in types_of(src, no_predictors=True)


def test_nan_in_a_norm_is_refused(mistral_dir: Path, edited: Any, weights: Any) -> None:
    norm = weights(mistral_dir)["model.norm.weight"].copy()
    norm[3] = np.nan
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds nan at element 3"):
        types_of(edited(mistral_dir, change={"model.norm.weight": norm}))


def test_unmapped_tensor_is_an_error_that_lists_it(mistral_dir: Path, edited: Any) -> None:
    extra = {LAYER.format(0) + "self_attn.q_proj.bias": np.zeros(64, np.float32)}
    with pytest.raises(CheckpointError, match=r"1 tensors have no place.*q_proj\.bias"):
        types_of(edited(mistral_dir, change=extra))


def test_a_lone_fc2_is_not_dropped(mistral_dir: Path, edited: Any) -> None:
    src = edited(mistral_dir, change={LAYER.format(0) + "mlp.predictor.fc1.weight": None})
    with pytest.raises(CheckpointError, match=r"predictor\.fc2"):
        types_of(src)


def test_rotary_buffers_are_left_out_and_said_so(mistral_dir: Path, edited: Any) -> None:
    name = LAYER.format(0) + "self_attn.rotary_emb.inv_freq"
    src = edited(mistral_dir, change={name: np.ones(8, np.float32)})
    with open_job(src, Options()) as job:
        assert job.plan.ignored == [name]
        assert any(name in note for note in job.notes)


def test_layer_without_predictor_has_rank_0(mistral_dir: Path, edited: Any) -> None:
    p = LAYER.format(0) + "mlp.predictor."
    src = edited(mistral_dir, change={p + "fc1.weight": None, p + "fc2.weight": None})
    with open_job(src, Options()) as job:
        assert job.plan.ranks == [0, 48]
        assert "blk.0.ffn_pred_in_scale" not in {t.name for t in job.plan.tensors}


@pytest.mark.parametrize(("name", "shape"), [
    ("model.layers.0.mlp.up_proj.weight", (161, 64)),
    ("model.layers.0.mlp.down_proj.weight", (160, 64)),
    ("model.layers.1.self_attn.k_proj.weight", (64, 64)),
    ("model.layers.1.mlp.predictor.fc2.weight", (160, 47)),
    ("model.norm.weight", (63,)),
    ("lm_head.weight", (380, 64)),
])  # fmt: skip
def test_wrong_shape_names_tensor_expected_and_found(
    mistral_dir: Path, edited: Any, name: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(CheckpointError, match=name) as caught:
        types_of(edited(mistral_dir, change={name: np.zeros(shape, np.float32)}))
    assert caught.value.data["found"] == list(shape)


def test_experts_of_unequal_rank_are_refused(mixtral_dir: Path, edited: Any) -> None:
    name = LAYER.format(0) + "block_sparse_moe.experts.2.predictor.fc1.weight"
    with pytest.raises(CheckpointError, match=r"experts\.2\.predictor\.fc1"):
        types_of(edited(mixtral_dir, change={name: np.zeros((16, 64), np.float32)}))


def test_missing_tensor_and_integer_weights(mistral_dir: Path, edited: Any) -> None:
    name = LAYER.format(1) + "mlp.gate_proj.weight"
    with pytest.raises(CheckpointError, match=f"no tensor {name}"):
        types_of(edited(mistral_dir, change={name: None}))
    with pytest.raises(CheckpointError, match="I64"):
        types_of(edited(mistral_dir, change={name: np.zeros((160, 64), np.int64)}))


def test_tied_embeddings_have_no_output(tmp_path: Path) -> None:
    assert "output.weight" not in types_of(tiny.write_mistral(tmp_path / "hf", tied=True))


def test_vocabulary_is_that_of_the_rows(mistral_dir: Path, edited: Any) -> None:
    with open_job(edited(mistral_dir, config={"vocab_size": 370}), Options()) as job:
        assert job.hp.n_vocab == 384
        assert len(job.kv["tokenizer.ggml.tokens"][1]) == 384
        assert any("384 embedding rows" in note for note in job.notes)
