"""The small files of a synthetic checkpoint: config, tokenizer, generation settings, planted statistics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .synth_model import SynthModel
from .synth_planting import top_share
from .synth_shapes import Shape
from .synth_tokenizer import CHATML, CONTROL, IM_END, IM_START, tokenizer_model

TRANSFORMERS = "4.41.0"  # the version that the published checkpoints name
PLANTED_TOKENS = 1_000_000  # the planted frequencies are written as counts per so many tokens
STATS = Path("planted") / "stats.safetensors"  # in a directory of its own: it is no shard


def write_files(out: Path, model: SynthModel) -> None:
    """Everything but the shards and their index, into the existing directory `out`."""
    write_json(out / "config.json", config(model.shape))
    generation = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "temperature": 0.0}  # as published
    write_json(out / "generation_config.json", generation | {"transformers_version": TRANSFORMERS})
    write_tokenizer(out, model.shape, model.seed)
    write_json(out / "synth.json", planted(model))
    (out / STATS).parent.mkdir(exist_ok=True)
    write_stats(out / STATS, model)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """`value` as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def config(s: Shape) -> dict[str, Any]:
    """config.json as TurboSparse-Mistral's or TurboSparse-Mixtral's; neither says a word about predictors."""
    common: dict[str, Any] = {
        "hidden_act": "relu",
        "hidden_size": s.n_embd,
        "intermediate_size": s.n_ff,
        "num_hidden_layers": s.n_layer,
        "num_attention_heads": s.n_head,
        "num_key_value_heads": s.n_head_kv,
        "vocab_size": s.n_vocab,
        "max_position_embeddings": s.n_ctx,
        "sliding_window": s.sliding_window or None,
        "rope_theta": s.rope_theta,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "transformers_version": TRANSFORMERS,
    }
    if not s.n_expert:
        return _family("bamboo", "Bamboo") | common
    experts = {
        "num_local_experts": s.n_expert, "num_experts_per_tok": s.n_expert_used,
        "output_router_logits": True, "router_aux_loss_coef": 0.02, "router_jitter_noise": 0.0,
    }  # fmt: skip
    return _family("turbosparsemixtral", "TurboSparseMixtral") | common | experts


def _family(kind: str, prefix: str) -> dict[str, Any]:
    auto = {
        "AutoConfig": f"configuration_{kind}.{prefix}Config",
        "AutoModelForCausalLM": f"modeling_{kind}.{prefix}ForCausalLM",
    }
    return {"architectures": [f"{prefix}ForCausalLM"], "model_type": kind, "auto_map": auto}


def write_tokenizer(out: Path, s: Shape, seed: int) -> None:
    """tokenizer.model and the three JSON files that name ChatML's tokens; no chat template, like the original."""
    (out / "tokenizer.model").write_bytes(tokenizer_model(s.n_piece, seed))
    added = {s.n_piece: IM_END, s.n_piece + 1: IM_START}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    special = dict(enumerate(CONTROL)) | added
    settings: dict[str, Any] = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(i): {"content": text} | flags for i, text in special.items()},
        "bos_token": "<s>",
        "eos_token": IM_END,
        "unk_token": "<unk>",
        "chat_template": CHATML,
        "legacy": True,
        "tokenizer_class": "LlamaTokenizer",
    }
    write_json(out / "tokenizer_config.json", settings)
    tokens = {key: settings[key] for key in ("bos_token", "eos_token", "unk_token")}
    write_json(out / "special_tokens_map.json", tokens)
    write_json(out / "added_tokens.json", {text: i for i, text in added.items()})


def planted(model: SynthModel) -> dict[str, Any]:
    """What was planted: shares of neurons, expected over tokens. For people, and for tests that measure it."""
    s, p = model.shape, model.planting
    return {
        "synthetic": "random weights with planted sparsity; the text that it writes means nothing",
        "shape": s.name,
        "seed": model.seed,
        "active": s.active,
        "gate_positive": round(p.gate_positive, 4),
        "up_positive": round(p.up_positive, 4),
        "selected": round(p.selected, 4),
        "recall": p.recall,
        "precision": round(p.recall * s.active / p.selected, 4),
        "top_20_percent_share": round(top_share(p.frequency), 4),
        "hottest": round(float(p.frequency.max()), 4),
        "coldest": round(float(p.frequency.min()), 4),
        "ranks": list(s.ranks),
    }


def write_stats(path: Path, model: SynthModel) -> None:
    """The planted frequencies in the layout of `convert --stats`: expectations, not counts of a run."""
    from safetensors.numpy import save_file

    s = model.shape
    columns = np.full(max(s.n_expert, 1), PLANTED_TOKENS, np.int64)
    if s.n_expert:
        columns = columns * s.n_expert_used // s.n_expert
    arrays = {}
    for il in range(s.n_layer):
        share = np.stack([model.frequency(il, e) for e in range(len(columns))])
        arrays[f"layers.{il}.counts"] = np.rint(share * columns[:, None]).astype(np.int64)
        arrays[f"layers.{il}.columns"] = columns
        branches = np.array([model.planting.gate_positive, model.planting.up_positive]) * s.n_ff * columns.sum()
        arrays[f"layers.{il}.branches"] = np.rint(branches).astype(np.int64)
    note = f"planted by turbosparse synth --shape {s.name} --seed {model.seed}, not counted"
    save_file(arrays, path, {"corpus": note, "sha256": "", "tokens": str(PLANTED_TOKENS)})
