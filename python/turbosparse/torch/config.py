"""`config.json` of the two families, read and written with the keys that the published checkpoints have.

Predictor ranks are in no config: they differ per layer and come from tensor shapes (`checkpoint.read_ranks`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MISTRAL = "bamboo"
MIXTRAL = "turbosparsemixtral"
# The Mixtral one was renamed three times ("trubo" is theirs); a plain Mixtral has hidden_act "silu" and is refused.
MODEL_TYPES = {
    "bamboo": MISTRAL,
    "mixtral": MIXTRAL,
    "turbosparsemixtral": MIXTRAL,
    "trubosparsemixtral": MIXTRAL,
    "supersparsemixtral": MIXTRAL,
}
ARCHITECTURES = {MISTRAL: "BambooForCausalLM", MIXTRAL: "TurboSparseMixtralForCausalLM"}
_AUTO_MAP = {
    MISTRAL: {
        "AutoConfig": "configuration_bamboo.BambooConfig",
        "AutoModel": "modeling_bamboo.BambooModel",
        "AutoModelForCausalLM": "modeling_bamboo.BambooForCausalLM",
    },
    MIXTRAL: {
        "AutoConfig": "configuration_turbosparsemixtral.TurboSparseMixtralConfig",
        "AutoModelForCausalLM": "modeling_turbosparsemixtral.TurboSparseMixtralForCausalLM",
    },
}
_NOT_OURS = ("architectures", "auto_map", "hidden_act", "torch_dtype")


class LayoutError(ValueError):
    """A checkpoint that is not what the layout says.

    Carries `where` (file), `what` (key or tensor), `expected` and `found`.
    """

    def __init__(self, where: str, what: str, expected: object, found: object, hint: str = "") -> None:
        super().__init__(f"{where}: {what}: expected {expected}, found {found}{'; ' + hint if hint else ''}")
        self.where, self.what, self.expected, self.found = where, what, expected, found


@dataclass(frozen=True)
class Config:
    """Sizes and constants of one model, named as in `config.json`.

    `num_local_experts` is None for the Mistral family. `extra` keeps keys that the modules do not need, so that
    load followed by save loses nothing.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = None
    num_local_experts: int | None = None
    num_experts_per_tok: int | None = None
    bos_token_id: int = 1
    eos_token_id: int = 2
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """MISTRAL or MIXTRAL, whichever spelling `model_type` has."""
        return MODEL_TYPES[self.model_type]

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config.json") -> Config:
        """Checks and takes over a parsed `config.json`; raises LayoutError naming the key."""
        _require(raw, where, "model_type", tuple(MODEL_TYPES))
        _require(raw, where, "hidden_act", ("relu",))
        known = {name for name in cls.__dataclass_fields__ if name != "extra"}
        missing = [name for name in _REQUIRED if raw.get(name) is None]
        if missing:
            raise LayoutError(where, missing[0], "a value", "none", "the file is not complete")
        extra = {k: v for k, v in raw.items() if k not in known and k not in _NOT_OURS}
        config = cls(**{k: v for k, v in raw.items() if k in known}, extra=extra)
        config._check(where)
        return config

    def to_dict(self, dtype: str) -> dict[str, Any]:
        """The `config.json` of this model; `dtype` is a torch dtype's short name, such as "bfloat16"."""
        own = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "extra"}
        if self.family == MISTRAL:
            del own["num_local_experts"], own["num_experts_per_tok"]
        fixed = {
            "architectures": [ARCHITECTURES[self.family]],
            "auto_map": _AUTO_MAP[self.family],
            "hidden_act": "relu",
            "torch_dtype": dtype,
        }
        return dict(sorted({**own, **fixed, **self.extra}.items()))

    def _check(self, where: str) -> None:
        if self.hidden_size % self.num_attention_heads:
            divisor = f"a divisor of {self.hidden_size}"
            raise LayoutError(where, "num_attention_heads", divisor, self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            divisor = f"a divisor of {self.num_attention_heads}"
            raise LayoutError(where, "num_key_value_heads", divisor, self.num_key_value_heads)
        if self.family == MIXTRAL and not self.num_local_experts:
            raise LayoutError(where, "num_local_experts", "a number > 0", self.num_local_experts)
        if self.family == MIXTRAL and not 0 < (self.num_experts_per_tok or 0) <= (self.num_local_experts or 0):
            expected = f"1..{self.num_local_experts}"
            raise LayoutError(where, "num_experts_per_tok", expected, self.num_experts_per_tok)


_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rope_theta",
)


def _require(raw: dict[str, Any], where: str, key: str, allowed: tuple[str, ...]) -> None:
    if raw.get(key) not in allowed:
        raise LayoutError(where, key, " or ".join(allowed), raw.get(key), "not a TurboSparse checkpoint")
