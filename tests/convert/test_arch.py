"""Which checkpoints are accepted, as what, and why the others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from turbosparse.convert.arch import FAMILIES, hparams, recognise
from turbosparse.convert.checkpoint import Checkpoint
from turbosparse.convert.errors import CheckpointError, UnsupportedModelError
from turbosparse.convert.job import Options, open_job

from tests import tiny

PREDICTOR = "model.layers.0.block_sparse_moe.experts.0.predictor.fc1.weight"


def family(config: dict[str, Any], *tensors: str) -> str:
    return recognise(Checkpoint(Path("hf"), config, dict.fromkeys(tensors))).name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "bamboo", "hidden_act": "relu"}, "mistral"),
        ({"architectures": ["BambooForCausalLM"], "model_type": "mistral", "hidden_act": "relu"}, "mistral"),
        ({"model_type": "turbosparsemixtral", "hidden_act": "relu"}, "mixtral"),
        ({"model_type": "trubosparsemixtral", "hidden_act": "relu"}, "mixtral"),
        ({"model_type": "supersparsemixtral", "hidden_act": "relu"}, "mixtral"),
        ({"architectures": ["TurboSparseMixtralForCausalLM"], "hidden_act": "relu"}, "mixtral"),
        ({"model_type": "llama", "hidden_act": "relu"}, "reglu"),
        ({"architectures": ["SparseLlamaForCausalLM"], "hidden_act": "relu"}, "reglu"),
        ({"architectures": ["SparseLlamaForCausalLM"], "hidden_act": "fatrelu", "hidden_act_param": 0.0}, "reglu"),
    ],
)
def test_recognised(config: dict[str, Any], name: str) -> None:
    assert family(config) == name


def test_plain_mixtral_must_prove_itself() -> None:
    config = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_act": "relu"}
    assert family(config, PREDICTOR) == "mixtral"
    for other, tensors in ((config, []), (config | {"hidden_act": "silu"}, [PREDICTOR])):
        with pytest.raises(UnsupportedModelError):
            family(other, *tensors)


@pytest.mark.parametrize("kind", ["llama", "mistral", "mixtral", "qwen2", "gemma"])
def test_swiglu_is_refused_with_what_to_run(kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"silu.*convert_hf_to_gguf\.py.*dReLU") as caught:
        family({"model_type": kind, "hidden_act": "silu"})
    assert caught.value.exit_code == 3
    assert caught.value.data == {"model_type": kind, "hidden_act": "silu"}


def test_swiglu_checkpoint_leaves_no_file(tmp_path: Path) -> None:
    from turbosparse.convert import convert

    src = tiny.write_reglu(tmp_path / "silu", hidden_act="silu")
    with pytest.raises(UnsupportedModelError):
        convert(src, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == [src]


@pytest.mark.parametrize("config", [
    {"model_type": "bamboo", "hidden_act": "silu"},
    {"model_type": "sparsellama", "hidden_act": "fatrelu", "hidden_act_param": 0.01},
    {"model_type": "gpt2", "hidden_act": "relu"},
    {},
])  # fmt: skip
def test_contradictions_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError):
        family(config)


BASE = {
    "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 160, "vocab_size": 384,
    "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
}  # fmt: skip


def test_hyperparameters() -> None:
    hp = hparams(BASE, moe=False)
    assert (hp.n_head_kv, hp.head_dim, hp.rope_theta, hp.sliding_window, hp.n_expert) == (4, 16, 10000.0, 0, 0)
    hp = hparams(BASE | {"num_key_value_heads": 2, "sliding_window": 4096, "rope_theta": 1e6}, moe=False)
    assert (hp.n_head_kv, hp.sliding_window, hp.rope_theta) == (2, 4096, 1e6)
    hp = hparams(BASE | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, moe=False)
    assert hp.rope_theta == 5e5
    hp = hparams(BASE | {"rope_scaling": {"type": "linear", "factor": 4.0}}, moe=False)
    assert hp.rope_linear == 4.0
    hp = hparams(BASE | {"num_local_experts": 8, "num_experts_per_tok": 2}, moe=True)
    assert (hp.n_expert, hp.n_expert_used) == (8, 2)


@pytest.mark.parametrize(("key", "value"), [
    ("hidden_size", None), ("hidden_size", 0), ("hidden_size", True), ("hidden_size", "64"), ("hidden_size", 2**31),
    ("hidden_size", 66), ("num_key_value_heads", 3), ("rms_norm_eps", 0), ("rms_norm_eps", float("inf")),
    ("rope_theta", -1), ("rope_scaling", "yes"), ("sliding_window", -5), ("vocab_size", 1.5),
])  # fmt: skip
def test_absurd_hyperparameters_name_their_key(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=key.replace("rope_theta", "rope")):
        hparams(BASE | {key: value}, moe=False)


@pytest.mark.parametrize("config", [
    BASE | {"rope_scaling": {"type": "yarn", "factor": 2}},
    BASE | {"head_dim": 32},
    BASE | {"hidden_size": 60},
])  # fmt: skip
def test_what_the_loader_lacks_is_unsupported(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError):
        hparams(config, moe=False)


@pytest.mark.parametrize("spelling", tiny.MIXTRAL_TYPES)
def test_all_spellings_of_mixtral_convert(tmp_path: Path, spelling: str) -> None:
    src = tiny.write_mixtral(tmp_path / "hf", model_type=spelling, n_layer=1)
    with open_job(src, Options("f32")) as job:
        assert job.family is FAMILIES[1]
        assert job.plan.ranks == [32]
