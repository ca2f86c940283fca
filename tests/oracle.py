"""Whole-model oracle: numpy float64, straight from a Hugging Face directory; shares nothing with converter or engine.

Covers TurboSparse-Mistral (`bamboo`), TurboSparse-Mixtral (and its historical spellings) and ReLU-gated llamas.
Semantics follow the checkpoints' own modelling code as recorded in the project's facts:
RoPE in the rotate_half convention, grouped KV heads, causal softmax attention, RMSNorm x = w * h / rms(h),
dReLU relu(gate x) * relu(up x) (arXiv 2406.05955), mask = round(sigmoid(logit)) = logit > 0.
A Mistral predictor reads the residual *before* the FFN's RMSNorm, a Mixtral expert's the normalised input.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

MOE_TYPES = {"turbosparsemixtral", "mixtral", "supersparsemixtral", "trubosparsemixtral"}


class WeightFile:
    """Tensors of a checkpoint directory, decoded to float64 on access."""

    def __init__(self, src: Path) -> None:
        self._at: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for path in sorted(src.glob("*.safetensors")):
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
            for name, info in header.items():
                if name != "__metadata__":
                    self._at[name] = (path, 8 + size, info)

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def __getitem__(self, name: str) -> F64:
        path, base, info = self._at[name]
        begin, end = info["data_offsets"]
        with path.open("rb") as file:
            file.seek(base + begin)
            data = file.read(end - begin)
        if info["dtype"] == "BF16":
            values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(data, {"F32": np.float32, "F16": np.float16}[info["dtype"]])
        return values.astype(np.float64).reshape(info["shape"])


@dataclasses.dataclass
class Ffn:
    """gate, up [n_ff, n_embd], down [n_embd, n_ff]; predictor fc1 [r, n_embd], fc2 [n_ff, r] or None."""

    gate: F64
    up: F64
    down: F64
    fc1: F64 | None
    fc2: F64 | None
    activation: str  # "drelu" | "reglu"

    def columns(self, x: F64, tap: F64, masked: bool, threshold: float) -> dict[str, Any]:
        """Everything about FFN columns x [n, n_embd] whose predictor reads `tap`; the output is under "y"."""
        gate = np.maximum(x @ self.gate.T, 0.0)
        up = x @ self.up.T
        if self.activation == "drelu":
            up = np.maximum(up, 0.0)
        logit = np.full(gate.shape, np.inf)
        if masked and self.fc1 is not None and self.fc2 is not None:
            logit = np.maximum(tap @ self.fc1.T, 0.0) @ self.fc2.T
        mask = logit > threshold
        hidden = gate * up * mask
        return {"mask": mask, "logit": logit, "gate": gate, "up": up, "hidden": hidden, "y": hidden @ self.down.T}


@dataclasses.dataclass
class LayerTrace:
    """What one layer's FFN did. n_col = n_tokens, or n_tokens * n_expert_used in (token, choice) order for MoE."""

    mask: Bool  # [n_col, n_ff] the predictor let the neuron pass (all true without one)
    logit: F64  # [n_col, n_ff] +inf without a predictor
    gate: F64  # [n_col, n_ff] after its ReLU, unmasked
    up: F64  # [n_col, n_ff] after its ReLU (drelu), unmasked
    hidden: F64  # [n_col, n_ff] masked product, what `down` sees
    expert: I64  # [n_col] 0 for a dense FFN
    router_gap: F64  # [n_tokens] lead of the last chosen expert over the first one left out

    @property
    def n_selected(self) -> int:
        return int(self.mask.sum())

    @property
    def n_active(self) -> int:
        return int(np.count_nonzero(self.hidden))

    def rows(self, first_branch: int) -> dict[str, int]:
        """Rows that `exact` or `predicted` must compute when it evaluates gate (0) or up (1) first."""
        first = self.gate if first_branch == 0 else self.up
        second = int((self.mask & (first > 0)).sum())
        names = ("rows_gate", "rows_up") if first_branch == 0 else ("rows_up", "rows_gate")
        return {names[0]: self.n_selected, names[1]: second, "rows_down": self.n_active}


@dataclasses.dataclass
class Run:
    """Logits [n_tokens, n_vocab] and one trace per layer."""

    logits: F64
    layers: list[LayerTrace]

    def mask_margins(self) -> F64:
        """[n_tokens] Distance of the token's nearest discrete decision from its tipping point: a predictor logit from
        0 (unless it is exactly there), the router's last choice from the first expert left out."""
        layers = (np.minimum(la.router_gap, _smallest(la.logit, len(self.logits))) for la in self.layers)
        gaps: F64 = np.minimum.reduce(list(layers))
        return gaps

    def margin(self) -> float:
        """The smallest of them, branches that are almost zero included: n_active is comparable with a float32
        engine's while this is far above its rounding errors."""
        n = len(self.logits)
        branches = (_smallest(values, n).min() for la in self.layers for values in (la.gate, la.up))
        return float(min(self.mask_margins().min(), *branches))


def _smallest(values: F64, n_tokens: int) -> F64:
    """[n_tokens] Smallest magnitude but zero among each token's columns; values [n_col, n_ff]."""
    magnitude = np.where(values == 0.0, np.inf, np.abs(values))
    smallest: F64 = magnitude.reshape(n_tokens, -1).min(axis=1)
    return smallest


def _rms_norm(h: F64, w: F64, eps: float) -> F64:
    return h / np.sqrt(np.mean(h * h, axis=-1, keepdims=True) + eps) * w


def _softmax(a: F64) -> F64:
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _rope_factor(config: dict[str, Any]) -> float:
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type", scaling.get("rope_type", "linear")) != "linear":
        raise ValueError(f"RoPE scaling {scaling!r}: the oracle knows linear only")
    return float(scaling.get("factor", 1.0))


def _rope(x: F64, theta: float, factor: float) -> F64:
    """rotate_half: x [n_tokens, n_head, d] at positions 0.. / factor, frequency i = theta^(-2i/d) turns
    (x_i, x_{i + d/2})."""
    n_tokens, _, d = x.shape
    angle = np.arange(n_tokens)[:, None] / factor * theta ** (-np.arange(0, d, 2) / d)
    cos, sin = (np.tile(f(angle), 2)[:, None, :] for f in (np.cos, np.sin))
    rotated = np.concatenate([-x[..., d // 2 :], x[..., : d // 2]], axis=-1)
    return x * cos + rotated * sin


class Oracle:
    """One checkpoint. Modes: "dense" (no predictor anywhere) and "predicted" (mask where the layer has one)."""

    def __init__(self, config: dict[str, Any], weights: WeightFile) -> None:
        self.config = config
        self._w = weights
        self.n_layer = int(config["num_hidden_layers"])
        self.n_head = int(config["num_attention_heads"])
        self.n_head_kv = int(config["num_key_value_heads"])
        self.n_vocab = int(config["vocab_size"])
        self.eps = float(config["rms_norm_eps"])
        self.theta = float(config["rope_theta"])
        self.rope_factor = _rope_factor(config)
        self.is_moe = config["model_type"] in MOE_TYPES and "num_local_experts" in config
        if config["hidden_act"] != "relu":
            raise ValueError(f"hidden_act {config['hidden_act']!r}: the oracle knows ReLU only")
        self.activation = "drelu" if config["model_type"] in {"bamboo", *MOE_TYPES} else "reglu"
        self._cache: dict[str, F64] = {}

    @classmethod
    def from_hf(cls, src: str | Path) -> Oracle:
        """Open a checkpoint directory: config.json and *.safetensors."""
        path = Path(src)
        return cls(json.loads((path / "config.json").read_text(encoding="utf-8")), WeightFile(path))

    @property
    def has_predictor(self) -> bool:
        """Layer 0 (and so every layer of the tiny checkpoints) has a predictor."""
        return self.ffn(0).fc1 is not None

    def weight(self, name: str) -> F64:
        if name not in self._cache:
            self._cache[name] = self._w[name]
        return self._cache[name]

    def ffn(self, il: int, expert: int = 0) -> Ffn:
        """The FFN of layer il (of one expert)."""
        base = f"model.layers.{il}.mlp."
        names = ["gate_proj", "up_proj", "down_proj"]
        if self.is_moe:
            base = f"model.layers.{il}.block_sparse_moe.experts.{expert}."
            names = ["w1", "w3", "w2"]
        gate, up, down = (self.weight(f"{base}{name}.weight") for name in names)
        fc = [f"{base}predictor.{name}.weight" for name in ("fc1", "fc2")]
        fc1, fc2 = (self.weight(name) if name in self._w else None for name in fc)
        return Ffn(gate, up, down, fc1, fc2, self.activation)

    def run(self, tokens: Sequence[int], mode: str = "dense", threshold: float = 0.0) -> Run:
        """Forward pass over one sequence. `threshold` is compared with the predictor's logit."""
        if mode not in {"dense", "predicted"}:
            raise ValueError(f"unknown mode {mode!r}")
        window = self.config.get("sliding_window")
        if window and len(tokens) > window:
            raise ValueError(f"{len(tokens)} tokens do not fit the sliding window of {window}")
        h = self.weight("model.embed_tokens.weight")[np.asarray(tokens, np.int64)]
        layers = []
        for il in range(self.n_layer):
            base = f"model.layers.{il}."
            h = h + self._attention(il, _rms_norm(h, self.weight(base + "input_layernorm.weight"), self.eps))
            x = _rms_norm(h, self.weight(base + "post_attention_layernorm.weight"), self.eps)
            y, trace = (self._moe if self.is_moe else self._mlp)(il, h, x, mode == "predicted", threshold)
            h = h + y
            layers.append(trace)
        h = _rms_norm(h, self.weight("model.norm.weight"), self.eps)
        head = "model.embed_tokens.weight" if self.config["tie_word_embeddings"] else "lm_head.weight"
        return Run(h @ self.weight(head).T, layers)

    def logits(self, tokens: Sequence[int], mode: str = "dense") -> F64:
        """[n_tokens, n_vocab]"""
        return self.run(tokens, mode).logits

    def masks(self, tokens: Sequence[int]) -> list[Bool]:
        """Per layer, the predictor's choice in "predicted" mode: [n_tokens, n_ff], for MoE [n_tokens, k, n_ff]."""
        run = self.run(tokens, "predicted")
        return [t.mask.reshape(len(tokens), -1, t.mask.shape[1]) if self.is_moe else t.mask for t in run.layers]

    def greedy(self, prompt: Sequence[int], n: int, mode: str = "dense", stop: Sequence[int] = ()) -> list[int]:
        """n tokens after the prompt, arg max at every step (lowest id among equals); ends at a token of `stop`."""
        tokens = list(prompt)
        while len(tokens) < len(prompt) + n:
            tokens.append(int(np.argmax(self.logits(tokens, mode)[-1])))
            if tokens[-1] in stop:
                break
        return tokens[len(prompt) :]

    def _attention(self, il: int, x: F64) -> F64:
        n_tokens, n_embd = x.shape
        d = n_embd // self.n_head
        base = f"model.layers.{il}.self_attn."
        q, k, v = (
            (x @ self.weight(f"{base}{name}_proj.weight").T).reshape(n_tokens, -1, d) for name in ("q", "k", "v")
        )
        q, k = (_rope(a, self.theta, self.rope_factor) for a in (q, k))
        k, v = (np.repeat(a, self.n_head // self.n_head_kv, axis=1) for a in (k, v))
        score = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d)
        score[:, np.triu(np.ones((n_tokens, n_tokens), bool), 1)] = -np.inf
        out = np.einsum("hij,jhd->ihd", _softmax(score), v).reshape(n_tokens, n_embd)
        return out @ self.weight(f"{base}o_proj.weight").T

    def _mlp(self, il: int, h: F64, x: F64, masked: bool, threshold: float) -> tuple[F64, LayerTrace]:
        col = self.ffn(il).columns(x, h, masked, threshold)
        y = col.pop("y")
        return y, LayerTrace(**col, expert=np.zeros(len(x), np.int64), router_gap=np.full(len(x), np.inf))

    def _moe(self, il: int, h: F64, x: F64, masked: bool, threshold: float) -> tuple[F64, LayerTrace]:
        """Softmax over all experts, the best k renormalised; a predictor belongs to an expert and reads x."""
        del h
        k = int(self.config["num_experts_per_tok"])
        p = _softmax(x @ self.weight(f"model.layers.{il}.block_sparse_moe.gate.weight").T)
        order = np.argsort(-p, axis=-1, kind="stable")
        chosen = order[:, :k]
        weight = np.take_along_axis(p, chosen, -1)
        gap = np.full(len(x), np.inf)
        if k < p.shape[1]:
            gap = weight[:, -1] - np.take_along_axis(p, order[:, k : k + 1], -1)[:, 0]
        weight = weight / weight.sum(axis=-1, keepdims=True)
        flat = chosen.reshape(-1)
        token = np.repeat(np.arange(len(x)), k)
        parts: dict[str, Any] = {}
        for e in np.unique(flat):
            rows = np.flatnonzero(flat == e)
            col = self.ffn(il, int(e)).columns(x[token[rows]], x[token[rows]], masked, threshold)
            for name, value in col.items():
                parts.setdefault(name, np.empty((len(flat), value.shape[1]), value.dtype))[rows] = value
        y = parts.pop("y") * weight.reshape(-1, 1)
        trace = LayerTrace(**parts, expert=flat.astype(np.int64), router_gap=gap)
        return y.reshape(len(x), k, -1).sum(axis=1), trace
