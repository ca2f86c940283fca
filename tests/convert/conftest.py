"""Checkpoints for the converter's tests, and a way to break one thing at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny

# n_ff and ranks that no 256-block fits, a norm with negative weights, as a real checkpoint would have by chance
SHAPE: dict[str, Any] = {"n_layer": 2, "n_embd": 64, "n_ff": 160, "ranks": [32, 48], "seed": 3, "n_shards": 1}


@pytest.fixture(scope="session")
def mistral_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_mistral(tmp_path_factory.mktemp("hf") / "mistral", **SHAPE)


@pytest.fixture(scope="session")
def mistral_bf16_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_mistral(tmp_path_factory.mktemp("hf") / "mistral-bf16", dtype="bf16", **SHAPE)


@pytest.fixture(scope="session")
def mixtral_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_mixtral(tmp_path_factory.mktemp("hf") / "mixtral", n_expert=4, **SHAPE)


@pytest.fixture(scope="session")
def wide_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """n_embd 256: every type fits, K-quants included."""
    return tiny.write_mistral(
        tmp_path_factory.mktemp("hf") / "wide", n_layer=1, n_embd=256, n_ff=96, ranks=[256], n_shards=1
    )


def load_all(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors of a float32 checkpoint directory, read by the reference implementation."""
    from safetensors.numpy import load_file

    out: dict[str, np.ndarray[Any, Any]] = {}
    for file in sorted(path.glob("*.safetensors")):
        out |= load_file(file)
    return out


@pytest.fixture
def weights() -> Callable[[Path], dict[str, np.ndarray[Any, Any]]]:
    return load_all


Edit = Callable[..., Path]


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """edited(src, config={...}, change={name: array or None}, files={name: json or None}) -> a changed copy."""

    def make(
        src: Path,
        *,
        config: Mapping[str, Any] | None = None,
        change: Mapping[str, np.ndarray[Any, Any] | None] | None = None,
        files: Mapping[str, Any] | None = None,
    ) -> Path:
        out = tmp_path / f"edited{len(list(tmp_path.iterdir()))}"
        shutil.copytree(src, out)
        values = json.loads((out / "config.json").read_text()) | dict(config or {})
        (out / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))
        if change:
            tensors: dict[str, Any] = load_all(src) | dict(change)
            tiny.write_safetensors(out / "model.safetensors", {k: v for k, v in tensors.items() if v is not None})
        for name, value in (files or {}).items():
            if value is None:
                (out / name).unlink()
            elif isinstance(value, bytes):
                (out / name).write_bytes(value)
            else:
                (out / name).write_text(json.dumps(value))
        return out

    return make


@pytest.fixture
def stats_file(tmp_path: Path) -> Callable[..., Path]:
    """stats_file(n_layer, n_expert, n_ff, seed=0) -> random counts in the documented layout."""

    def make(n_layer: int, n_expert: int, n_ff: int, seed: int = 0) -> Path:
        from turbosparse.convert.neurons import save_stats

        rng = np.random.default_rng(seed)
        layers = []
        for _ in range(n_layer):
            columns = rng.integers(50, 100, max(n_expert, 1))
            counts = (rng.random((max(n_expert, 1), n_ff)) ** 2 * columns[:, None]).astype(np.int64)
            layers.append((counts, columns))
        path = tmp_path / f"stats{seed}.safetensors"
        save_stats(path, layers, corpus="test text", sha256="ab" * 32, tokens=400)
        return path

    return make
