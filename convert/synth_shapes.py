"""Shapes of synthetic checkpoints: the two published ones, with their predictor ranks, and custom ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .errors import UsageError

# Ranks of TurboSparse-Mistral: 1536 for layer 0, 1024 for 1-9; of the rest only sums are known
# (layers 10-19: 11264, 20-29: 14976, 30-31: 3328), met here by multiples of 64. Total 40320.
MISTRAL_RANKS = (1536, *[1024] * 9, *[1024] * 8, *[1536] * 2, 1152, *[1536] * 9, 1536, 1792)
# Ranks of TurboSparse-Mixtral, the same for all experts of a layer. Total 33152.
MIXTRAL_RANKS = (*[896] * 2, *[1024] * 11, 1088, *[1024] * 13, *[1088] * 4, 1344)


@dataclass(frozen=True)
class Shape:
    """What decides the size of a checkpoint. `n_expert` 0 means a dense FFN with predictors on the residual.

    `n_piece` tokens come from the tokenizer model, two more are ChatML's, the rest of `n_vocab` is padding.
    `ranks` [n_layer] are those of the predictors, 0 = none. `n_ctx` and `sliding_window` are in tokens.
    """

    name: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    n_piece: int
    ranks: tuple[int, ...]
    n_expert: int = 0
    n_expert_used: int = 2
    n_ctx: int = 32768
    sliding_window: int = 0
    rope_theta: float = 10000.0
    active: float = 0.10  # share of neurons that are not zero, on average over tokens

    @property
    def n_kv(self) -> int:
        """Width of one token's keys, elements."""
        return self.n_embd // self.n_head * self.n_head_kv


MISTRAL_7B = Shape(
    "mistral-7b", 32, 4096, 14336, 32, 8, 32064, 32000, MISTRAL_RANKS, sliding_window=4096,
)  # fmt: skip
MIXTRAL_8X7B = Shape(
    "mixtral-8x7b", 32, 4096, 14336, 32, 8, 57024, 57000, MIXTRAL_RANKS,
    n_expert=8, rope_theta=1e6, active=0.15,
)  # fmt: skip
CUSTOM = Shape("custom", 4, 512, 1792, 8, 2, 1024, 1016, (128, 160), n_ctx=4096)
SHAPES = {shape.name: shape for shape in (MISTRAL_7B, MIXTRAL_8X7B, CUSTOM)}

MIN_VOCAB = 384  # 3 control tokens, 256 bytes, printable ASCII, ChatML


def shape(name: str, *, n_layer: int | None = None, ranks: tuple[int, ...] | None = None, **changes: Any) -> Shape:
    """The shape called `name`, with `changes` to its fields (None = as it is) and `n_layer` layers.

    Ranks are those of the first layers; for more layers than there are ranks they repeat.
    Raises UsageError for a shape that no model could have.
    """
    if name not in SHAPES:
        raise UsageError(f"unknown shape {name!r}; known: {', '.join(SHAPES)}", found=name)
    base = SHAPES[name]
    given = {key: value for key, value in changes.items() if value is not None}
    if "n_vocab" in given and "n_piece" not in given:
        given["n_piece"] = given["n_vocab"] - 8  # ChatML and six rows of padding
    if given.get("n_expert", base.n_expert) and not base.n_expert:
        given = {"active": 0.15, "rope_theta": 1e6, "sliding_window": 0} | given
    base = replace(base, **given)
    n_layer = base.n_layer if n_layer is None else n_layer
    ranks = ranks or base.ranks
    out = replace(base, n_layer=n_layer, ranks=tuple(ranks[il % len(ranks)] for il in range(max(n_layer, 0))))
    _check(out)
    return out


def _check(s: Shape) -> None:
    def need(condition: bool, message: str) -> None:
        if not condition:
            raise UsageError(f"shape {s.name}: {message}", shape=s.name)

    sizes = {"layers": s.n_layer, "n-embd": s.n_embd, "n-ff": s.n_ff, "n-head": s.n_head, "n-head-kv": s.n_head_kv}
    for key, value in sizes.items():
        need(0 < value < 2**24, f"--{key} is {value}, expected a positive number")
    need(s.n_embd % 32 == 0 and s.n_embd >= 64, f"--n-embd {s.n_embd} is no multiple of 32 from 64 on")
    need(s.n_embd % s.n_head == 0, f"--n-embd {s.n_embd} is no multiple of --n-head {s.n_head}")
    need(s.n_embd // s.n_head % 2 == 0, f"heads of width {s.n_embd // s.n_head} cannot be rotated (odd)")
    need(s.n_head % s.n_head_kv == 0, f"--n-head {s.n_head} is no multiple of --n-head-kv {s.n_head_kv}")
    need(s.n_ff >= 64, f"--n-ff {s.n_ff} is too small to plant a frequency law, 64 is the least")
    need(MIN_VOCAB <= s.n_vocab <= 70000, f"--n-vocab {s.n_vocab} is outside {MIN_VOCAB}..70000")
    need(s.n_expert == 0 or 0 < s.n_expert_used <= s.n_expert, f"--n-expert {s.n_expert} is below the 2 used per token")
    need(all(16 <= r <= 2 * s.n_embd for r in s.ranks), f"--rank {s.ranks} is outside 16..{2 * s.n_embd}")
    need(0.01 <= s.active <= 0.5, f"--active {s.active} is outside 0.01..0.5")
