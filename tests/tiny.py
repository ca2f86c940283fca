"""Complete random Hugging Face checkpoints, a few hundred kB each, in the layouts that `turbosparse convert` reads.

Weights are drawn so that the tests mean something: dReLU activations are sparse (the share is a parameter),
the predictors know about them without being perfect, and layers change the residual by about its own size,
so that a wrong FFN is a wrong logit. Everything follows from `seed`; torch is not needed.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Tensors = dict[str, F32]

N_VOCAB = 384  # tensor rows: 362 real tokens, padded to a multiple of 64
IM_END, IM_START = "<|im_end|>", "<|im_start|>"
MIXTRAL_TYPES = ("turbosparsemixtral", "mixtral", "supersparsemixtral", "trubosparsemixtral")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "A model reads the prompt and writes the next word, one after the other.",
    "Most neurons are silent most of the time; the few that speak carry the thought.",
    "In the morning the river was quiet and the boats lay still along the bank.",
    "She counted seven stars, then eight, then nine, and then the clouds came in.",
    "It was the best of times, it was the worst of times, said the old book on the table.",
    "Numbers such as 0, 1, 2, 3, 45, 678 and 90 belong to every text.",
    "What is the name of the town? Nobody knew; everybody asked!",
)


# ---------------------------------------------------------------------------
# Shapes and values
# ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shape:
    """Everything that decides a checkpoint. `n_expert` 0 means a dense FFN."""

    n_layer: int = 2
    n_embd: int = 64
    n_ff: int = 160
    n_head: int = 4
    n_head_kv: int = 2
    n_vocab: int = N_VOCAB
    n_expert: int = 0
    n_expert_used: int = 2
    ranks: tuple[int, ...] = (32, 48)  # per layer, repeated when shorter than n_layer; 0 = no predictor there
    seed: int = 0
    sparsity: float = 0.75  # share of neurons whose product is zero, roughly
    symmetric: bool = True  # dReLU: both branches are sparse; else gate alone
    with_predictor: bool = True
    wild_norms: bool = False  # negative and tiny RMSNorm weights
    zero_rows: tuple[int, ...] = ()  # neurons whose predictor logit is exactly 0
    tied: bool = False

    def rank(self, il: int) -> int:
        """Rank of layer il's predictor."""
        return self.ranks[il % len(self.ranks)]


def _constant_direction(n_embd: int) -> NDArray[np.float64]:
    """A +-1 pattern [n_embd] that every embedding shares: it serves as the bias that the layers lack."""
    return np.where(np.arange(n_embd) * 7 % 5 < 3, 1.0, -1.0)


def _norm(rng: np.random.Generator, shape: Shape) -> F32:
    w = 1.0 + 0.2 * rng.standard_normal(shape.n_embd)
    if shape.wild_norms:
        w[rng.permutation(shape.n_embd)[: shape.n_embd // 4]] *= -1.0
        w[rng.permutation(shape.n_embd)[: shape.n_embd // 8]] *= 1e-4
    return w.astype(np.float32)


def _ffn(rng: np.random.Generator, shape: Shape, rank: int, norm: F32, pre_norm: bool) -> Tensors:
    """gate, up [n_ff, n_embd], down [n_embd, n_ff], fc1 [r, n_embd], fc2 [n_ff, r] of one (expert's) FFN.

    Neuron j's gate follows direction j mod (r - 1), less a bias along the constant direction; fc1 holds
    those directions, fc2 picks the neuron's own and subtracts a little of the constant one.
    """
    n, n_ff = shape.n_embd, shape.n_ff
    u = _constant_direction(n)
    to_x = np.sign(norm) / np.maximum(np.abs(norm), 0.05)  # x = norm * t, t = h / rms(h)
    keep = 1.0 - shape.sparsity
    share = keep**0.5 if shape.symmetric else keep
    bias = NormalDist().inv_cdf(1.0 - share) * u / n
    n_dir = (rank or 32) - 1
    dirs = rng.standard_normal((n_dir, n)) / n**0.5
    own = dirs[np.arange(n_ff) % n_dir]
    gate = (own + 0.4 * rng.standard_normal((n_ff, n)) / n**0.5 - bias) * to_x
    up = rng.standard_normal((n_ff, n)) / n**0.5 * to_x
    if shape.symmetric:
        up = up - bias * to_x
    down = rng.standard_normal((n, n_ff)) * 1.2 / (n_ff * keep) ** 0.5
    out = {"gate": gate, "up": up, "down": down - np.outer(u, u @ down) / n}
    if shape.with_predictor and rank > 0:
        tap = np.vstack([dirs - bias, u / n])
        out["fc1"] = tap if pre_norm else tap * to_x
        fc2 = 0.05 * rng.standard_normal((n_ff, rank)) / rank**0.5
        fc2[np.arange(n_ff), np.arange(n_ff) % n_dir] += 1.0
        fc2[:, -1] -= 0.1
        fc2[list(shape.zero_rows)] = 0.0
        out["fc2"] = fc2
    return {name: w.astype(np.float32) for name, w in out.items()}


def _attention(rng: np.random.Generator, shape: Shape) -> Tensors:
    n, n_kv = shape.n_embd, shape.n_embd // shape.n_head * shape.n_head_kv
    u = _constant_direction(n)
    rows = {"q_proj": n, "k_proj": n_kv, "v_proj": n_kv, "o_proj": n}
    out = {name: rng.standard_normal((r, n)) * 1.2 / n**0.5 for name, r in rows.items()}
    out["o_proj"] -= np.outer(u, u @ out["o_proj"]) / n
    return {f"self_attn.{name}.weight": w.astype(np.float32) for name, w in out.items()}


def _dense_mlp(rng: np.random.Generator, shape: Shape, il: int, norm: F32) -> Tensors:
    ffn = _ffn(rng, shape, shape.rank(il), norm, pre_norm=True)
    names = {f"{k}": f"mlp.{k}_proj.weight" for k in ("gate", "up", "down")}
    names |= {f"{k}": f"mlp.predictor.{k}.weight" for k in ("fc1", "fc2")}
    return {names[k]: w for k, w in ffn.items()}


def _moe_mlp(rng: np.random.Generator, shape: Shape, il: int, norm: F32) -> Tensors:
    names = {"gate": "w1", "up": "w3", "down": "w2", "fc1": "predictor.fc1", "fc2": "predictor.fc2"}
    u = _constant_direction(shape.n_embd)
    router = 1.5 * rng.standard_normal((shape.n_expert, shape.n_embd)) / shape.n_embd**0.5
    router = (router - np.outer(router @ u, u) / shape.n_embd) * np.sign(norm)  # no expert is everyone's favourite
    out = {"block_sparse_moe.gate.weight": router.astype(np.float32)}
    for e in range(shape.n_expert):
        ffn = _ffn(rng, shape, shape.rank(il), norm, pre_norm=False)
        out |= {f"block_sparse_moe.experts.{e}.{names[k]}.weight": w for k, w in ffn.items()}
    return out


def tensors(shape: Shape) -> Tensors:
    """All tensors of a checkpoint under their Hugging Face names, float32."""
    rng = np.random.default_rng(shape.seed)
    n = shape.n_embd
    embed = rng.standard_normal((shape.n_vocab, n)) + _constant_direction(n)
    out: Tensors = {"model.embed_tokens.weight": embed.astype(np.float32)}
    for il in range(shape.n_layer):
        norm = _norm(rng, shape)
        layer = {"input_layernorm.weight": _norm(rng, shape), "post_attention_layernorm.weight": norm}
        layer |= _attention(rng, shape)
        layer |= (_moe_mlp if shape.n_expert else _dense_mlp)(rng, shape, il, norm)
        out |= {f"model.layers.{il}.{name}": w for name, w in layer.items()}
    out["model.norm.weight"] = _norm(rng, shape)
    if not shape.tied:
        out["lm_head.weight"] = (2.0 * rng.standard_normal((shape.n_vocab, n)) / n**0.5).astype(np.float32)
    return out


# ---------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------


def encode(array: NDArray[Any], dtype: str) -> tuple[str, bytes]:
    """Safetensors dtype name and bytes of an array stored as f32, f16 or bf16 (round to nearest even); int64 stays."""
    if array.dtype == np.int64:
        return "I64", np.ascontiguousarray(array).tobytes()
    if dtype == "f32":
        return "F32", np.ascontiguousarray(array, np.float32).tobytes()
    if dtype == "f16":
        return "F16", np.ascontiguousarray(array, np.float16).tobytes()
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    return "BF16", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def write_safetensors(path: Path, weights: Mapping[str, NDArray[Any]], dtype: str = "f32", **metadata: str) -> int:
    """One safetensors file; returns the bytes of tensor data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | metadata}
    chunks, offset = [], 0
    for name, w in weights.items():
        kind, data = encode(w, dtype)
        header[name] = {"dtype": kind, "shape": list(w.shape), "data_offsets": [offset, offset + len(data)]}
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))
    return offset


def _write_shards(out: Path, weights: Tensors, dtype: str, n_shards: int) -> None:
    if n_shards == 1:
        write_safetensors(out / "model.safetensors", weights, dtype)
        return
    names = list(weights)
    weight_map: dict[str, str] = {}
    total = 0
    for i in range(n_shards):
        part = names[i * len(names) // n_shards : (i + 1) * len(names) // n_shards]
        file = f"model-{i + 1:05}-of-{n_shards:05}.safetensors"
        total += write_safetensors(out / file, {name: weights[name] for name in part}, dtype)
        weight_map |= dict.fromkeys(part, file)
    _write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@functools.cache
def tokenizer_model(n_pieces: int = 360) -> bytes:
    """A SentencePiece BPE model with byte fallback, trained on `SENTENCES` (once per process)."""
    import sentencepiece as spm

    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, model_type="bpe", vocab_size=n_pieces,
        byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity", num_threads=1,
        remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def _write_tokenizer(out: Path, chatml: bool, chat_template: bool) -> None:
    n_pieces = 360
    (out / "tokenizer.model").write_bytes(tokenizer_model(n_pieces))
    added = {n_pieces: IM_END, n_pieces + 1: IM_START} if chatml else {}
    special = {0: "<unk>", 1: "<s>", 2: "</s>"} | added
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config: dict[str, Any] = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(i): {"content": text} | flags for i, text in special.items()},
        "bos_token": "<s>",
        "eos_token": IM_END if chatml else "</s>",
        "unk_token": "<unk>",
        "legacy": True,
        "tokenizer_class": "LlamaTokenizer",
    }
    if chat_template:
        config["chat_template"] = CHATML
    _write_json(out / "tokenizer_config.json", config)
    _write_json(out / "special_tokens_map.json", {k: config[k] for k in ("bos_token", "eos_token", "unk_token")})
    if added:
        _write_json(out / "added_tokens.json", {text: i for i, text in added.items()})


def _config(shape: Shape, **family: Any) -> dict[str, Any]:
    return {
        "architectures": [family.pop("architecture")],
        "model_type": family.pop("model_type"),
        "hidden_act": "relu",
        "hidden_size": shape.n_embd,
        "intermediate_size": shape.n_ff,
        "num_hidden_layers": shape.n_layer,
        "num_attention_heads": shape.n_head,
        "num_key_value_heads": shape.n_head_kv,
        "vocab_size": shape.n_vocab,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": shape.tied,
        "initializer_range": 0.02,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "use_cache": True,
        "attention_dropout": 0.0,
        "transformers_version": "4.41.0",
    } | family


def _write(
    out: Path, shape: Shape, config: dict[str, Any], dtype: str, n_shards: int, chatml: bool, chat_template: bool
) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    _write_shards(out, tensors(shape), dtype, n_shards)
    torch_dtype = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype]
    _write_json(out / "config.json", config | {"torch_dtype": torch_dtype})
    generation = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "temperature": 0.0}  # as published
    _write_json(out / "generation_config.json", generation | {"transformers_version": "4.41.0"})
    _write_tokenizer(out, chatml, chat_template)
    return out


def write_mistral(
    out: str | Path,
    *,
    dtype: str = "f32",
    n_shards: int = 2,
    n_ctx: int = 1024,
    sliding_window: int | None = None,
    chat_template: bool = False,
    ranks: Sequence[int] = (32, 48),
    config: Mapping[str, Any] | None = None,
    **shape: Any,
) -> Path:
    """TurboSparse-Mistral's layout (`BambooForCausalLM`); `with_predictor=False` gives Bamboo-base's.

    `config` overrides keys of config.json, here and below.
    """
    s = Shape(ranks=tuple(ranks), **shape)
    full = _config(
        s, architecture="BambooForCausalLM", model_type="bamboo", rope_theta=10000.0, max_position_embeddings=n_ctx,
        sliding_window=sliding_window,
        auto_map={
            "AutoConfig": "configuration_bamboo.BambooConfig",
            "AutoModelForCausalLM": "modeling_bamboo.BambooForCausalLM",
        },
    )  # fmt: skip
    return _write(Path(out), s, full | dict(config or {}), dtype, n_shards, True, chat_template)


def write_mixtral(
    out: str | Path,
    *,
    dtype: str = "f32",
    n_shards: int = 2,
    n_ctx: int = 1024,
    n_expert: int = 4,
    model_type: str = "turbosparsemixtral",
    chat_template: bool = False,
    ranks: Sequence[int] = (32, 48),
    config: Mapping[str, Any] | None = None,
    **shape: Any,
) -> Path:
    """TurboSparse-Mixtral's layout; `model_type` may be any of its four historical spellings."""
    s = Shape(ranks=tuple(ranks), n_expert=n_expert, **shape)
    full = _config(
        s, architecture="TurboSparseMixtralForCausalLM", model_type=model_type, rope_theta=1e6,
        max_position_embeddings=n_ctx, sliding_window=None, num_local_experts=n_expert,
        num_experts_per_tok=s.n_expert_used, output_router_logits=True, router_aux_loss_coef=0.02,
        router_jitter_noise=0.0,
        auto_map={
            "AutoConfig": "configuration_turbosparsemixtral.TurboSparseMixtralConfig",
            "AutoModelForCausalLM": "modeling_turbosparsemixtral.TurboSparseMixtralForCausalLM",
        },
    )  # fmt: skip
    return _write(Path(out), s, full | dict(config or {}), dtype, n_shards, True, chat_template)


def write_reglu(
    out: str | Path,
    *,
    dtype: str = "f32",
    n_shards: int = 2,
    n_ctx: int = 1024,
    hidden_act: str = "relu",
    architecture: str = "LlamaForCausalLM",
    config: Mapping[str, Any] | None = None,
    **shape: Any,
) -> Path:
    """ReluLLaMA's layout: a llama whose gate is a ReLU, no predictor; hidden_act "silu" gives a plain SwiGLU model."""
    s = Shape(**({"with_predictor": False, "symmetric": False, "n_head_kv": 4} | shape))
    full = _config(
        s, architecture=architecture, model_type="llama", rope_theta=10000.0, max_position_embeddings=n_ctx,
    ) | {"hidden_act": hidden_act, "pretraining_tp": 1, "rope_scaling": None}  # fmt: skip
    return _write(Path(out), s, full | dict(config or {}), dtype, n_shards, False, False)


def write_predictor_dir(out: str | Path, **shape: Any) -> Path:
    """The predictors that `write_mistral(**shape)` embeds, as a separate directory of model_{il}.safetensors."""
    s = Shape(**shape)
    weights = tensors(s)
    path = Path(out)
    path.mkdir(parents=True, exist_ok=True)
    for il in range(s.n_layer):
        fc = {f"{k}.weight": weights[f"model.layers.{il}.mlp.predictor.{k}.weight"] for k in ("fc1", "fc2")}
        write_safetensors(path / f"model_{il}.safetensors", fc)
    return path
