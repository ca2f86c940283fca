"""What a model family tells the converter: its FFN, its tensor names and its hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, UnsupportedModelError

LAYER = "model.layers.{il}."

# Names shared by all families here: the Llama attention block.
TOKEN_EMBD = "model.embed_tokens.weight"
OUTPUT_NORM = "model.norm.weight"
OUTPUT = "lm_head.weight"
ATTN_NORM = LAYER + "input_layernorm.weight"
ATTN_Q = LAYER + "self_attn.q_proj.weight"
ATTN_K = LAYER + "self_attn.k_proj.weight"
ATTN_V = LAYER + "self_attn.v_proj.weight"
ATTN_OUTPUT = LAYER + "self_attn.o_proj.weight"
FFN_NORM = LAYER + "post_attention_layernorm.weight"

# Buffers that older transformers versions saved; recomputed from rope_theta by every runtime.
IGNORABLE = (".rotary_emb.inv_freq",)


@dataclass(frozen=True)
class FfnNames:
    """Format strings over {il} and, for experts, {e}."""

    gate: str
    up: str
    down: str
    fc1: str
    fc2: str
    router: str = ""


DENSE_FFN = FfnNames(
    gate=LAYER + "mlp.gate_proj.weight",
    up=LAYER + "mlp.up_proj.weight",
    down=LAYER + "mlp.down_proj.weight",
    fc1=LAYER + "mlp.predictor.fc1.weight",
    fc2=LAYER + "mlp.predictor.fc2.weight",
)


@dataclass(frozen=True)
class Family:
    """One row of the table of supported models.

    `pre_norm`: the predictor was trained on the residual before the FFN's RMSNorm, so the file
    carries 1/w (docs/gguf-extension.md, "One tap"). `masked`: trained with its mask applied, so
    predicted mode is the model's own output. `matches(config, tensor_names)` recognises it.
    """

    name: str
    activation: str
    ffn: FfnNames
    pre_norm: bool
    masked: bool
    matches: Callable[[dict[str, Any], Collection[str]], bool]


@dataclass(frozen=True)
class Hparams:
    """Shape of the model. `n_expert` is 0 for a dense one; lengths in tokens, neurons or elements."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_ctx: int
    rms_eps: float
    rope_theta: float
    rope_linear: float  # position scaling factor, 1.0 = none
    sliding_window: int  # tokens, 0 = none
    n_expert: int
    n_expert_used: int


def model_types(config: dict[str, Any]) -> set[str]:
    """model_type and architectures in lower case: checkpoints contradict themselves in either."""
    archs = config.get("architectures") or []
    names = [config.get("model_type"), *(archs if isinstance(archs, list) else [])]
    return {n.lower() for n in names if isinstance(n, str)}


def hparams(config: dict[str, Any], *, moe: bool) -> Hparams:
    """Read a Llama-style config.json; CheckpointError names the key that is missing or absurd."""
    n_embd, n_head = positive(config, "hidden_size"), positive(config, "num_attention_heads")
    n_head_kv = positive(config, "num_key_value_heads", n_head)
    if n_head % n_head_kv:
        raise CheckpointError(
            f"config.json: num_attention_heads {n_head} is no multiple of num_key_value_heads {n_head_kv}"
        )
    if config.get("head_dim") is None and n_embd % n_head:
        raise CheckpointError(f"config.json: hidden_size {n_embd} is no multiple of num_attention_heads {n_head}")
    head_dim = positive(config, "head_dim", n_embd // n_head)
    if head_dim * n_head != n_embd or head_dim % 2:
        raise UnsupportedModelError(
            f"config.json: {n_head} heads of {head_dim} do not make hidden_size {n_embd}, or are odd; not supported",
            key="head_dim",
            expected=n_embd // n_head,
            found=head_dim,
        )
    n_expert = positive(config, "num_local_experts") if moe else 0
    n_expert_used = positive(config, "num_experts_per_tok") if moe else 0
    if n_expert_used > n_expert:
        raise CheckpointError(f"config.json: num_experts_per_tok {n_expert_used} is above num_local_experts {n_expert}")
    rope_theta, rope_linear = rope(config)
    return Hparams(
        n_layer=positive(config, "num_hidden_layers"),
        n_embd=n_embd,
        n_ff=positive(config, "intermediate_size"),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_vocab=positive(config, "vocab_size"),
        n_ctx=positive(config, "max_position_embeddings"),
        rms_eps=positive_float(config, "rms_norm_eps"),
        rope_theta=rope_theta,
        rope_linear=rope_linear,
        sliding_window=positive(config, "sliding_window", 0),
        n_expert=n_expert,
        n_expert_used=n_expert_used,
    )


def rope(config: dict[str, Any]) -> tuple[float, float]:
    """(theta, linear factor). transformers 5 moved both into rope_parameters."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise CheckpointError(f"config.json: rope_scaling is {parameters!r}, expected an object")
    theta = config.get("rope_theta", parameters.get("rope_theta", 10000.0))
    theta = positive_float({"rope_theta": theta}, "rope_theta")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, 1.0
    if kind == "linear":
        return theta, positive_float(parameters, "factor")
    raise UnsupportedModelError(
        f"config.json: RoPE scaling {kind!r} is not supported; known: none, linear", key="rope_scaling", found=kind
    )


def positive(config: dict[str, Any], key: str, default: int | None = None) -> int:
    """The integer `key` of config.json, above 0; `default` where it is absent or null."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 0 < value < 2**31:
        raise CheckpointError(f"config.json: {key} is {value!r}, expected a positive integer", key=key, found=value)
    return value


def positive_float(config: dict[str, Any], key: str) -> float:
    """The number `key` of config.json, above 0 and finite."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise CheckpointError(f"config.json: {key} is {value!r}, expected a positive number", key=key, found=value)
    return float(value)
