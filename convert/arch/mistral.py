"""TurboSparse-Mistral and Bamboo: dense dReLU FFN, predictors on the residual before RMSNorm.

Bamboo-base/DPO use the same code without embedded predictors; theirs lie in a directory of
their own and were trained after the model, so predicted mode is not its own output.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .base import DENSE_FFN, Family, model_types


def is_bamboo(config: dict[str, Any], tensors: Collection[str]) -> bool:
    """Whether config.json says bamboo."""
    return bool(model_types(config) & {"bamboo", "bambooforcausallm"})


FAMILY = Family("mistral", "drelu", DENSE_FFN, pre_norm=True, masked=True, matches=is_bamboo)
