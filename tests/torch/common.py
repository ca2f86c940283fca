"""What the torch tests share: tiny checkpoints in float64 next to their numpy oracle, a SwiGLU source as GGUF."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from turbosparse.torch import load
from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run

from tests import oracle, tiny

WRITERS = {"mistral": tiny.write_mistral, "mixtral": tiny.write_mixtral}


def pair(directory: Path, family: str, **shape: object) -> tuple[CausalLM, oracle.Oracle]:
    """A tiny checkpoint as torch module (float64) and as oracle."""
    WRITERS[family](directory, **shape)
    return load(directory, torch.float64), oracle.Oracle.from_hf(directory)


def logits(model: CausalLM, tokens: list[int], dense: bool) -> np.ndarray:
    """[n_tokens, n_vocab] float64."""
    with torch.no_grad():
        return model(torch.tensor([tokens]), Run(dense=dense))[0].double().numpy()


def tokens(n: int, seed: int = 0) -> list[int]:
    return [1, *np.random.default_rng(seed).integers(3, 360, n - 1).tolist()]


def write_gguf(source, path, *, tied, arch="llama"):
    """The source as llama.cpp's converter writes it: q and k permuted, llama.* keys, a byte-level BPE."""
    c = source.config
    out = gguf.GGUFWriter(path, arch)
    for add, value in (
        (out.add_block_count, c.num_hidden_layers), (out.add_context_length, c.max_position_embeddings),
        (out.add_embedding_length, c.hidden_size), (out.add_feed_forward_length, c.intermediate_size),
        (out.add_head_count, c.num_attention_heads), (out.add_head_count_kv, c.num_key_value_heads),
        (out.add_layer_norm_rms_eps, c.rms_norm_eps), (out.add_rope_freq_base, c.rope_theta),
        (out.add_tokenizer_model, "gpt2"), (out.add_tokenizer_pre, "smollm"), (out.add_bos_token_id, 1),
        (out.add_eos_token_id, 2), (out.add_token_list, [f"t{i}" for i in range(c.vocab_size)]),
        (out.add_token_types, [3] * 3 + [1] * (c.vocab_size - 3)), (out.add_token_merges, ["t 3"]),
    ):  # fmt: skip
        add(value)
    short = {v: k for k, v in NAMES.items()}
    for name, weight in source.state.items():
        parts = name.split(".")
        kind = ".".join(parts[3:-1]) if parts[1] == "layers" else name.removesuffix(".weight")
        stem = f"blk.{parts[2]}.{short[kind]}" if parts[1] == "layers" else short[kind]
        w = weight.numpy()
        if kind.endswith(("q_proj", "k_proj")):
            n = c.num_attention_heads if kind.endswith("q_proj") else c.num_key_value_heads
            w = np.ascontiguousarray(w.reshape(n, 2, w.shape[0] // n // 2, -1).swapaxes(1, 2)).reshape(w.shape)
        if not (tied and stem == "output"):
            out.add_tensor(stem + ".weight", w)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
