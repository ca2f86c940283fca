"""The decoder stack of both families: embeddings, layers around an FFN of the family's own, final norm, head."""

# mypy: disallow-subclassing-any=False
# (where torch is not installed, its classes are Any)

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from turbosparse.torch.config import Config
from turbosparse.torch.layers import Attention, RMSNorm, Run, rope_tables


class DecoderLayer(nn.Module):
    """Attention and FFN, each behind an RMSNorm and a residual. Subclasses own the FFN and what its predictor taps."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, h: Tensor, tables: tuple[Tensor, Tensor], run: Run) -> Tensor:
        """The residual stream h [B, T, E] after this layer."""
        h = h + self.self_attn(self.input_layernorm(h), tables)
        return h + self.feed_forward(h, self.post_attention_layernorm(h), run)

    def feed_forward(self, residual: Tensor, x: Tensor, run: Run) -> Tensor:
        """residual: the stream before the norm, x: after it; both [B, T, E] -> [B, T, E]."""
        raise NotImplementedError


class DecoderModel(nn.Module):
    """Token embeddings, layers, final norm: the part that checkpoints call `model.`"""

    def __init__(self, config: Config, make_layer: Callable[[int], DecoderLayer]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(make_layer(i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class CausalLM(nn.Module):
    """What both families share; use `BambooForCausalLM` or `TurboSparseMixtralForCausalLM`."""

    family: str

    def __init__(self, config: Config, make_layer: Callable[[int], DecoderLayer]) -> None:
        super().__init__()
        if config.family != self.family:
            raise ValueError(f"{type(self).__name__} takes model_type {self.family}, found {config.model_type}")
        self.config = config
        self.model = DecoderModel(config, make_layer)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.apply(self._init)

    def forward(self, tokens: Tensor, run: Run | None = None) -> Tensor:
        """tokens int64 [B, T] -> logits [B, T, vocab_size] in the weights' dtype.

        The default run applies the predictors' mask, as Hugging Face does; `Run(dense=True)` leaves it out.
        """
        run = run or Run()
        h: Tensor = self.model.embed_tokens(tokens)
        tables = rope_tables(tokens.shape[1], self.config.head_dim, self.config.rope_theta, h)
        for layer in self.model.layers:
            h = layer(h, tables, run)
        logits: Tensor = self.lm_head(self.model.norm(h))
        return logits

    def _init(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            torch.nn.init.normal_(module.weight, std=self.config.initializer_range)


def check_ranks(config: Config, ranks: list[int]) -> None:
    """One rank per layer; 0 = this layer has no predictor."""
    if len(ranks) != config.num_hidden_layers:
        raise ValueError(f"ranks: expected {config.num_hidden_layers} values (one per layer), found {len(ranks)}")
