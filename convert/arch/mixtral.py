"""TurboSparse-Mixtral: dReLU experts, one predictor each, on the normalised FFN input.

Its model_type was renamed three times. The first name is Mixtral's own, so a checkpoint that
says only "mixtral" has to prove itself: ReLU activation and predictors inside the experts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .base import LAYER, Family, FfnNames, model_types

TYPES = ("turbosparsemixtral", "trubosparsemixtral", "supersparsemixtral")
EXPERT = LAYER + "block_sparse_moe.experts.{e}."


def is_turbosparse(config: dict[str, Any], tensors: Collection[str]) -> bool:
    """Whether config.json says TurboSparse-Mixtral, or says Mixtral and the tensors prove it."""
    types = model_types(config)
    if any(name in types or name + "forcausallm" in types for name in TYPES):
        return True
    proven = config.get("hidden_act") == "relu" and any(".predictor.fc1." in name for name in tensors)
    return proven and bool(types & {"mixtral", "mixtralforcausallm"})


FAMILY = Family(
    "mixtral",
    "drelu",
    FfnNames(
        gate=EXPERT + "w1.weight",
        up=EXPERT + "w3.weight",
        down=EXPERT + "w2.weight",
        fc1=EXPERT + "predictor.fc1.weight",
        fc2=EXPERT + "predictor.fc2.weight",
        router=LAYER + "block_sparse_moe.gate.weight",
    ),
    pre_norm=False,
    masked=True,
    matches=is_turbosparse,
)
