"""A model's forward pass one layer at a time, with the points between which distillation compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from turbosparse.torch.decoder import CausalLM, DecoderLayer
from turbosparse.torch.layers import Run, rope_tables


@dataclass
class Place:
    """Just before one layer's FFN: the residual before its norm and its input x, both [B, T, E].

    `out` [B, T, E] is the residual after the layer; whoever walks may set it, else the walk computes it.
    """

    layer: DecoderLayer
    residual: Tensor
    x: Tensor
    out: Tensor | None = None

    def finish(self, run: Run) -> Tensor:
        """Computes `out` unless it is there, and returns it."""
        if self.out is None:
            self.out = self.residual + self.layer.feed_forward(self.residual, self.x, run)
        return self.out


def walk(model: CausalLM, tokens: Tensor, run: Run) -> Iterator[Place]:
    """The layers in order for tokens int64 [B, T]."""
    h: Tensor = model.model.embed_tokens(tokens)
    tables = rope_tables(tokens.shape[1], model.config.head_dim, model.config.rope_theta, h)
    for layer in model.model.layers:
        residual = h + layer.self_attn(layer.input_layernorm(h), tables)
        place = Place(layer, residual, layer.post_attention_layernorm(residual))
        yield place
        h = place.finish(run)
