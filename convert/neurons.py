"""Activation counts -> hot-first neuron order.

A stats file is a safetensors file with, for every layer i,
  `layers.{i}.counts`   [n_expert or 1, n_ff] (or [n_ff]) int: how often the neuron's output was not zero,
  `layers.{i}.columns`  [n_expert or 1] int: FFN columns seen (a column is a token; for MoE a token of that expert),
  `layers.{i}.branches` [2] int, optional: how often relu(gate) and relu(up) were not zero,
neurons in the checkpoint's own order, and the strings `corpus`, `sha256` and `tokens` as metadata.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arch import Hparams
from .checkpoint import FileTensor, open_safetensors, safetensors_metadata
from .errors import CheckpointError

Counts = tuple[NDArray[Any], NDArray[Any]]  # ([n_expert or 1, n_ff], [n_expert or 1])


@dataclass(frozen=True)
class LayerOrder:
    """One layer's placement: rows of gate, up, down_t and fc2 are stored in the order `perm`."""

    perm: NDArray[np.int32]  # [n_expert or 1, n_ff] stored row -> original neuron
    freq: NDArray[np.float32]  # [n_expert or 1, n_ff] of the stored neuron, falling
    expert_freq: NDArray[np.float32]  # [n_expert or 1] share of tokens that ran the expert
    first_branch: int = 0  # 0 gate, 1 up: the one that is zero more often


@dataclass(frozen=True)
class Stats:
    """What was counted, and on what."""

    layers: list[LayerOrder]
    corpus: str = ""
    sha256: str = ""
    tokens: int = 0


def layer_order(counts: NDArray[Any], columns: NDArray[Any], tokens: int, first_branch: int = 0) -> LayerOrder:
    """Order by falling count; ties keep the original order, so that the result is reproducible."""
    perm = np.argsort(-counts.astype(np.int64), axis=1, kind="stable").astype(np.int32)
    share = counts / np.maximum(columns, 1)[:, None]
    freq = np.take_along_axis(share, perm.astype(np.int64), axis=1).astype(np.float32)
    return LayerOrder(perm, freq, (columns / max(tokens, 1)).astype(np.float32), first_branch)


def load_stats(path: Path, hp: Hparams) -> Stats:
    """Read and check a stats file for a model of this shape; CheckpointError names what is wrong."""
    if not path.is_file():
        raise CheckpointError(f"stats file {path} does not exist", path=str(path))
    fds: list[int] = []
    try:
        tensors = {t.name: t for t in open_safetensors(path, fds)}
        raw = [_layer(path, tensors, il, hp.n_ff, max(hp.n_expert, 1)) for il in range(hp.n_layer)]
        surplus = [n for n in tensors if n.startswith(f"layers.{hp.n_layer}.")]
    finally:
        for fd in fds:
            os.close(fd)
    if surplus:
        raise CheckpointError(f"{path.name} has counts for layer {hp.n_layer}, the model only {hp.n_layer} layers")
    meta = safetensors_metadata(path)
    tokens = int(meta["tokens"]) if meta.get("tokens", "").isdigit() else _tokens(raw[0][1], hp)
    layers = [layer_order(counts, columns, tokens, branch) for counts, columns, branch in raw]
    return Stats(layers, meta.get("corpus", path.name), meta.get("sha256", ""), tokens)


def _tokens(columns: NDArray[Any], hp: Hparams) -> int:
    """Tokens behind the counts when the file does not say: each runs a dense layer once, a MoE layer k times."""
    return max(int(columns.sum()) // max(hp.n_expert_used, 1), 1)


def _layer(
    path: Path, tensors: dict[str, FileTensor], il: int, n_ff: int, n_column: int
) -> tuple[NDArray[Any], NDArray[Any], int]:
    counts = _read(path, tensors, f"layers.{il}.counts")
    columns = _read(path, tensors, f"layers.{il}.columns")
    counts = counts.reshape(1, -1) if counts.ndim == 1 else counts
    columns = columns.reshape(-1)
    if counts.shape != (n_column, n_ff) or columns.shape != (n_column,):
        raise CheckpointError(
            f"{path.name}: layer {il} has counts {list(counts.shape)} and columns {list(columns.shape)}; the model "
            f"needs [{n_column}, {n_ff}] and [{n_column}]. They were counted on another model",
            layer=il,
            expected=(n_column, n_ff),
            found=counts.shape,
        )
    if (counts < 0).any() or (counts > columns[:, None]).any():
        raise CheckpointError(f"{path.name}: layer {il} counts a neuron more often than its {columns.max()} columns")
    if f"layers.{il}.branches" not in tensors:
        return counts, columns, 0
    branches = _read(path, tensors, f"layers.{il}.branches")
    if branches.shape != (2,):
        raise CheckpointError(f"{path.name}: layers.{il}.branches has shape {list(branches.shape)}, expected [2]")
    return counts, columns, int(branches[1] < branches[0])


def _read(path: Path, tensors: dict[str, FileTensor], name: str) -> NDArray[Any]:
    tensor = tensors.get(name)
    if tensor is None:
        raise CheckpointError(f"{path.name} has no {name}", path=str(path), tensor=name)
    if tensor.dtype not in ("I64", "I32") or not 1 <= len(tensor.shape) <= 2:
        raise CheckpointError(f"{path.name}: {name} is {tensor.dtype} {list(tensor.shape)}, expected I64 counts")
    return tensor.read(0, tensor.shape[0]).astype(np.int64)


def save_stats(path: Path, layers: list[Counts], *, corpus: str, sha256: str, tokens: int) -> None:
    """Write counts (checkpoint order) in the layout above."""
    from safetensors.numpy import save_file

    arrays = {}
    for il, (counts, columns) in enumerate(layers):
        arrays[f"layers.{il}.counts"] = np.ascontiguousarray(counts, np.int64)
        arrays[f"layers.{il}.columns"] = np.ascontiguousarray(columns, np.int64)
    save_file(arrays, path, {"corpus": corpus, "sha256": sha256, "tokens": str(tokens)})
