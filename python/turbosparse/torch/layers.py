"""The layers that both families share: RMSNorm, rotary attention, predictor, the masked dReLU FFN.

Shapes: B sequences of T tokens; E = hidden_size, F = intermediate_size, r = predictor rank.
"""

# mypy: disallow-subclassing-any=False
# (where torch is not installed, its classes are Any)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from turbosparse.torch.config import Config


class Place(NamedTuple):
    """Which FFN: layer, and expert (0 in the Mistral family)."""

    layer: int
    expert: int


class Observer(Protocol):
    """Sees what the FFNs compute; training and evaluation take losses and counts from here.

    `wants_logits`: the predictors run even if their mask is not applied.
    """

    wants_logits: bool

    def ffn(self, place: Place, act: Tensor, logits: Tensor | None) -> None:
        """`act` [n, F] = relu(gate) * relu(up) before any mask; `logits` [n, F] of the predictor, None without one.

        That product is also shown where the run joins the branches in another way.
        """

    def router(self, layer: int, probs: Tensor, chosen: Tensor) -> None:
        """`probs` [n, n_expert] after softmax; `chosen` [n, top_k] expert ids. Mixtral family only."""


def drelu(gate: Tensor, up: Tensor) -> Tensor:
    """relu(gate) * relu(up)."""
    return functional.relu(gate) * functional.relu(up)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up: what Llama and Mistral have, and a dReLU model is made from."""
    return functional.silu(gate) * up


@dataclass(frozen=True)
class Run:
    """How one forward pass treats the FFNs.

    `dense`: the predictor's mask is not applied. `activation` joins the two branches. `unit_tap`: the Mistral
    family's predictors read the residual scaled to unit RMS; as they have no biases their masks stay the same, but
    their logits, and so their training, no longer depend on a token's norm.
    """

    dense: bool = False
    observer: Observer | None = None
    activation: Callable[[Tensor, Tensor], Tensor] = drelu
    unit_tap: bool = False

    @property
    def wants_logits(self) -> bool:
        """Whether the predictors must be evaluated."""
        return not self.dense or (self.observer is not None and self.observer.wants_logits)


class RMSNorm(nn.Module):
    """w * x / sqrt(mean(x^2) + eps), the mean taken in at least float32 (as Hugging Face does)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., E] -> [..., E]."""
        wide = x if x.dtype == torch.float64 else x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        out: Tensor = self.weight * (wide * scale).to(x.dtype)
        return out


def rope_tables(n_tokens: int, head_dim: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [T, head_dim] for positions 0..T-1; the two halves repeat (Hugging Face's rotate_half form)."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    steps = torch.arange(0, head_dim, 2, dtype=dtype, device=like.device)
    angle = torch.arange(n_tokens, dtype=dtype, device=like.device)[:, None] * theta ** (-steps / head_dim)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def apply_rope(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates x [B, heads, T, head_dim]: pairs are (i, i + head_dim / 2)."""
    cos, sin = tables
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions and an optional sliding window, no biases."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_head, self.n_head_kv = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.window = config.head_dim, config.sliding_window
        kv_size = self.n_head_kv * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, T, E] -> [B, T, E]."""
        q = apply_rope(self._heads(self.q_proj(x), self.n_head), tables)
        k = apply_rope(self._heads(self.k_proj(x), self.n_head_kv), tables)
        v = self._heads(self.v_proj(x), self.n_head_kv)
        share = self.n_head // self.n_head_kv
        k, v = k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1)
        mask = self._window_mask(x)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor, n_head: int) -> Tensor:
        return x.reshape(*x.shape[:-1], n_head, self.head_dim).transpose(1, 2)

    def _window_mask(self, x: Tensor) -> Tensor | None:
        """True where a token may look: itself and the window - 1 tokens before it. None: the window is not reached."""
        n_tokens = x.shape[1]
        if self.window is None or n_tokens <= self.window:
            return None
        at = torch.arange(n_tokens, device=x.device)
        distance = at[:, None] - at[None, :]
        return (distance >= 0) & (distance < self.window)


class Predictor(nn.Module):
    """fc2(relu(fc1(tap))): one logit per neuron; the neuron is computed iff its logit is > 0."""

    def __init__(self, n_embd: int, rank: int, n_ff: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_embd, rank, bias=False)
        self.fc2 = nn.Linear(rank, n_ff, bias=False)

    def forward(self, tap: Tensor) -> Tensor:
        """tap [..., E] -> logits [..., F]."""
        logits: Tensor = self.fc2(functional.relu(self.fc1(tap)))
        return logits


def straight_through(logits: Tensor) -> Tensor:
    """round(sigmoid(logits)) forward (exactly 0 or 1; 0 at logit 0), the sigmoid's gradient backward."""
    hard = (logits > 0).to(logits.dtype)
    if not logits.requires_grad:
        return hard
    soft = torch.sigmoid(logits)
    return hard + (soft - soft.detach())


class Branches(NamedTuple):
    """The three matrices of one FFN, whatever the family calls them."""

    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear


def drelu_ffn(
    x: Tensor, tap: Tensor, branches: Branches, predictor: Predictor | None, place: Place, run: Run
) -> Tensor:
    """down(mask * relu(gate(x)) * relu(up(x))), mask = round(sigmoid(predictor(tap))).

    x and tap are [..., E]: the normalised FFN input, and what the predictor reads. Without a predictor, or with
    `run.dense`, there is no mask.
    """
    gate, up = branches.gate(x), branches.up(x)
    act = run.activation(gate, up)
    logits = predictor(tap) if predictor is not None and run.wants_logits else None
    if run.observer is not None:
        run.observer.ffn(place, act if run.activation is drelu else drelu(gate, up), logits)
    if logits is not None and not run.dense:
        act = act * straight_through(logits)
    out: Tensor = branches.down(act)
    return out
