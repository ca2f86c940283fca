"""ReluLLaMA and ProSparse: Llama with relu(gate) * up. Predictors, if any, in a directory of their own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .base import DENSE_FFN, Family, model_types


def is_reglu(config: dict[str, Any], tensors: Collection[str]) -> bool:
    """Whether config.json says ProSparse, or a Llama with ReLU."""
    types = model_types(config)
    if types & {"sparsellama", "sparsellamaforcausallm"}:
        return True
    return config.get("hidden_act") == "relu" and bool(types & {"llama", "llamaforcausallm"})


FAMILY = Family("reglu", "reglu", DENSE_FFN, pre_norm=True, masked=False, matches=is_reglu)
