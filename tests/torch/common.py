"""What the torch tests share: tiny checkpoints in float64 next to their numpy oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from turbosparse.torch import load
from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run

from tests import oracle, tiny

WRITERS = {"mistral": tiny.write_mistral, "mixtral": tiny.write_mixtral}


def pair(directory: Path, family: str, **shape: object) -> tuple[CausalLM, oracle.Oracle]:
    """A tiny checkpoint as torch module (float64) and as oracle."""
    WRITERS[family](directory, **shape)
    return load(directory, torch.float64), oracle.Oracle.from_hf(directory)


def logits(model: CausalLM, tokens: list[int], dense: bool) -> np.ndarray:
    """[n_tokens, n_vocab] float64."""
    with torch.no_grad():
        return model(torch.tensor([tokens]), Run(dense=dense))[0].double().numpy()


def tokens(n: int, seed: int = 0) -> list[int]:
    return [1, *np.random.default_rng(seed).integers(3, 360, n - 1).tolist()]
