"""TurboSparse-Mistral (`BambooForCausalLM`): its predictors read the residual stream BEFORE the FFN's RMSNorm."""

# mypy: disallow-subclassing-any=False
# (where torch is not installed, its classes are Any)

from __future__ import annotations

import torch
from torch import Tensor, nn

from turbosparse.torch.config import MISTRAL, Config
from turbosparse.torch.decoder import CausalLM, DecoderLayer, check_ranks
from turbosparse.torch.layers import Branches, Place, Predictor, Run, drelu_ffn


class BambooMLP(nn.Module):
    """gate/up/down with an embedded predictor (rank 0: none)."""

    def __init__(self, config: Config, layer: int, rank: int) -> None:
        super().__init__()
        n_embd, n_ff = config.hidden_size, config.intermediate_size
        self.place = Place(layer, 0)
        self.gate_proj = nn.Linear(n_embd, n_ff, bias=False)
        self.up_proj = nn.Linear(n_embd, n_ff, bias=False)
        self.down_proj = nn.Linear(n_ff, n_embd, bias=False)
        self.predictor = Predictor(n_embd, rank, n_ff) if rank else None

    def forward(self, residual: Tensor, x: Tensor, run: Run) -> Tensor:
        """residual and x [B, T, E]: before and after the norm."""
        branches = Branches(self.gate_proj, self.up_proj, self.down_proj)
        return drelu_ffn(x, residual, branches, self.predictor, self.place, run)


class BambooDecoderLayer(DecoderLayer):
    """One layer; its FFN is called `mlp`."""

    def __init__(self, config: Config, layer: int, rank: int) -> None:
        super().__init__(config)
        self.mlp = BambooMLP(config, layer, rank)

    def feed_forward(self, residual: Tensor, x: Tensor, run: Run) -> Tensor:
        """The predictor taps `residual`."""
        if run.unit_tap:
            residual = residual * torch.rsqrt(residual.square().mean(-1, keepdim=True) + 1e-12)
        out: Tensor = self.mlp(residual, x, run)
        return out


class BambooForCausalLM(CausalLM):
    """TurboSparse-Mistral; `ranks` has one predictor rank per layer."""

    family = MISTRAL

    def __init__(self, config: Config, ranks: list[int]) -> None:
        check_ranks(config, ranks)
        super().__init__(config, lambda i: BambooDecoderLayer(config, i, ranks[i]))
