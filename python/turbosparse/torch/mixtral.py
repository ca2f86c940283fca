"""TurboSparse-Mixtral: top-k experts, one predictor per expert, reading the NORMALISED FFN input."""

# mypy: disallow-subclassing-any=False
# (where torch is not installed, its classes are Any)

from __future__ import annotations

import torch
from torch import Tensor, nn

from turbosparse.torch.config import MIXTRAL, Config
from turbosparse.torch.decoder import CausalLM, DecoderLayer, check_ranks
from turbosparse.torch.layers import Branches, Place, Predictor, Run, drelu_ffn


class Expert(nn.Module):
    """w1 = gate, w3 = up, w2 = down."""

    def __init__(self, config: Config, place: Place, rank: int) -> None:
        super().__init__()
        n_embd, n_ff = config.hidden_size, config.intermediate_size
        self.place = place
        self.w1 = nn.Linear(n_embd, n_ff, bias=False)
        self.w2 = nn.Linear(n_ff, n_embd, bias=False)
        self.w3 = nn.Linear(n_embd, n_ff, bias=False)
        self.predictor = Predictor(n_embd, rank, n_ff) if rank else None

    def forward(self, x: Tensor, run: Run) -> Tensor:
        """x [n, E]: the normalised rows routed here; their predictor reads the same."""
        return drelu_ffn(x, x, Branches(self.w1, self.w3, self.w2), self.predictor, self.place, run)


class SparseMoeBlock(nn.Module):
    """Softmax over all experts, the top k, their weights renormalised to sum 1."""

    def __init__(self, config: Config, layer: int, rank: int) -> None:
        super().__init__()
        n_expert, self.top_k = config.num_local_experts or 0, config.num_experts_per_tok or 0
        self.layer = layer
        self.gate = nn.Linear(config.hidden_size, n_expert, bias=False)
        self.experts = nn.ModuleList(Expert(config, Place(layer, e), rank) for e in range(n_expert))

    def forward(self, x: Tensor, run: Run) -> Tensor:
        """x [B, T, E] -> [B, T, E]; every token visits its own top_k experts."""
        flat = x.flatten(0, -2)
        weights, chosen = self._route(flat, run)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == e)
            if token.numel():
                part = expert(flat[token], run) * weights[token, slot, None]
                out = out.index_add(0, token, part)
        return out.view_as(x)

    def _route(self, flat: Tensor, run: Run) -> tuple[Tensor, Tensor]:
        """Weights [n, top_k] summing to 1 and expert ids [n, top_k]."""
        logits = self.gate(flat)
        probs = torch.softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
        weights, chosen = torch.topk(probs, self.top_k, dim=-1)
        if run.observer is not None:
            run.observer.router(self.layer, probs, chosen)
        return (weights / weights.sum(-1, keepdim=True)).to(flat.dtype), chosen


class MixtralDecoderLayer(DecoderLayer):
    """One layer; its FFN is called `block_sparse_moe`."""

    def __init__(self, config: Config, layer: int, rank: int) -> None:
        super().__init__(config)
        self.block_sparse_moe = SparseMoeBlock(config, layer, rank)

    def feed_forward(self, residual: Tensor, x: Tensor, run: Run) -> Tensor:
        """The predictors tap `x`, the normalised input."""
        del residual
        out: Tensor = self.block_sparse_moe(x, run)
        return out


class TurboSparseMixtralForCausalLM(CausalLM):
    """TurboSparse-Mixtral; `ranks` has one predictor rank per layer, the same for all experts of a layer."""

    family = MIXTRAL

    def __init__(self, config: Config, ranks: list[int]) -> None:
        check_ranks(config, ranks)
        super().__init__(config, lambda i: MixtralDecoderLayer(config, i, ranks[i]))
