"""What the two micro checkpoints are and how they are trained: sizes, mix, phases, constants. No code."""

from __future__ import annotations

from dataclasses import dataclass, field

from turbosparse.torch.config import Config
from turbosparse.train.tokenizer import N_PIECES

# Rows of embedding and head: N_PIECES + 2 ChatML tokens, padded to a multiple of 64.
N_VOCAB = -(-(N_PIECES + 2) // 64) * 64
_COMMON_KEYS = {"attention_dropout": 0.0, "transformers_version": "4.41.0", "use_cache": True}

MISTRAL = Config(
    model_type="bamboo",
    vocab_size=N_VOCAB,
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=8192,
    rope_theta=10000.0,
    sliding_window=4096,
    extra=_COMMON_KEYS,
)
MOE = Config(
    model_type="turbosparsemixtral",
    vocab_size=N_VOCAB,
    hidden_size=128,
    intermediate_size=224,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=8192,
    rope_theta=1000000.0,
    sliding_window=None,
    num_local_experts=4,
    num_experts_per_tok=2,
    extra={**_COMMON_KEYS, "output_router_logits": True, "router_aux_loss_coef": 0.02, "router_jitter_noise": 0.0},
)


# Shares of the groups of train/data.py in a batch: before and in the masked phase.
_MIX = {"austen": 0.5, "moby": 0.1, "sotu": 0.2, "chat": 0.2}
_LAST_MIX = {"austen": 0.4, "moby": 0.08, "sotu": 0.17, "chat": 0.35}


@dataclass(frozen=True)
class Recipe:
    """One training run. Fractions are of the whole run, measured in its time or its steps.

    Phases: `sparse` (language model and sparsity, no predictor) until `predictor_from`; `warm` (predictors learn
    which neurons are non-zero, not yet applied) until `masked_from`; `masked` (their hard mask is applied, gradients
    pass straight through, dialogue has a larger share) until the end.
    """

    config: Config
    ranks: list[int]
    mix: dict[str, float] = field(default_factory=lambda: dict(_MIX))
    last_mix: dict[str, float] = field(default_factory=lambda: dict(_LAST_MIX))
    batch: int = 8
    n_tokens: int = 256
    lr: float = 3e-3
    last_lr: float = 1e-4
    warmup_steps: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    zero_from: float = 0.75
    zero_target: float = 0.89
    zero_ramp: tuple[float, float] = (0.05, 0.5)
    zero_gain: float = 0.3
    predictor_from: float = 0.62
    masked_from: float = 0.70
    predictor_weight: float = 0.2
    pos_weight: float = 6.0
    balance_weight: float = 0.02
    seed: int = 1


RECIPES = {
    "mistral": Recipe(config=MISTRAL, ranks=[64, 32, 64, 64, 96, 64]),
    "moe": Recipe(config=MOE, ranks=[32, 64, 32, 64]),
}
