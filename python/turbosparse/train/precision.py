"""The arithmetic of a run: float32, or bfloat16 products with float32 weights and sums."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # help must not need torch
    import torch


def add_dtype_option(parser: argparse.ArgumentParser) -> None:
    """`--dtype auto|f32|bf16`."""
    about = (
        "of the arithmetic; weights are F32. auto: bf16 on a GPU. CPUs with AVX512-BF16 or AMX are up to three times "
        "as fast with bf16, others slower"
    )
    parser.add_argument("--dtype", choices=("auto", "f32", "bf16"), default="auto", help=about)


def dtype_for(name: str, device: str) -> torch.dtype:
    """What `--dtype` means on a device."""
    import torch

    fast = name == "bf16" or (name == "auto" and device.startswith("cuda"))
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Products in `dtype`; nothing where that is float32."""
    import torch

    fast = dtype != torch.float32
    cast: AbstractContextManager[Any] = torch.autocast(device.type, torch.bfloat16, enabled=fast)
    return cast
