"""Many continuations at once with keys and values kept: all rows are at the same place, each with its own tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run, apply_rope, rope_tables


class Lockstep:
    """`n_rows` contexts of at most `n_max` tokens, in the weights' dtype and on their device."""

    def __init__(self, model: CausalLM, n_rows: int, n_max: int, run: Run) -> None:
        config, like = model.config, model.lm_head.weight
        self.model, self.run, self.n_rows, self.at = model, run, n_rows, 0
        shape = (config.num_hidden_layers, 2, n_rows, config.num_key_value_heads, n_max, config.head_dim)
        self._kept = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self._tables = rope_tables(n_max, config.head_dim, config.rope_theta, like)

    def step(self, tokens: Tensor) -> Tensor:
        """Takes each row's next token, int64 [n_rows]; logits float32 [n_rows, n_vocab]."""
        with torch.no_grad():
            h: Tensor = self.model.model.embed_tokens(tokens)[:, None]
            for i, layer in enumerate(self.model.model.layers):
                made: Any = layer
                h = h + self._attend(made.self_attn, made.input_layernorm(h), i)
                h = h + made.feed_forward(h, made.post_attention_layernorm(h), self.run)
            self.at += 1
            logits: Tensor = self.model.lm_head(self.model.model.norm(h[:, 0]))
            return logits.float()

    def _attend(self, attn: Any, x: Tensor, layer: int) -> Tensor:
        """x [B, 1, E] -> [B, 1, E]; the rows' keys and values so far are all visible."""
        tables = (self._tables[0][self.at], self._tables[1][self.at])
        q, k, v = attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)
        q, k, v = (part.view(self.n_rows, -1, 1, attn.head_dim) for part in (q, k, v))
        keys, values = self._kept[layer]
        keys[:, :, self.at : self.at + 1] = apply_rope(k, tables)
        values[:, :, self.at : self.at + 1] = v
        grouped = apply_rope(q, tables).view(self.n_rows, attn.n_head_kv, -1, attn.head_dim)
        seen = slice(0, self.at + 1)
        scores = grouped @ keys[:, :, seen].transpose(-1, -2) * attn.head_dim**-0.5
        y = torch.softmax(scores.float(), dim=-1).to(x.dtype) @ values[:, :, seen]
        out: Tensor = attn.o_proj(y.reshape(self.n_rows, 1, -1))
        return out


def pick(logits: Tensor, temp: float, top_k: int, rng: torch.Generator) -> Tensor:
    """One id per row, int64 [n_rows], of the `top_k` most likely at temperature `temp`."""
    best, ids = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    chosen = torch.multinomial(torch.softmax(best / temp, dim=-1), 1, generator=rng)
    return ids.gather(-1, chosen)[:, 0]
