"""Activation counts over a text: how often each neuron is not zero, for hot-first placement.

The stats file is what `turbosparse convert --stats` reads: safetensors with, for layer i,
`layers.{i}.counts` int64 [n_expert or 1, n_ff], `layers.{i}.columns` int64 [n_expert or 1] and, where
branches were counted, `layers.{i}.branches` int64 [2]: neurons with gate above 0 and with up above 0, in
every 16th column. Neurons are in the checkpoint's own order; metadata `corpus`, `sha256` and `tokens`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ArgumentError, FileError
from .model import LayerProfile, Model

WINDOW = 512  # tokens per fresh sequence
BRANCH_EVERY = 16  # columns of which both branches are computed whole, to tell which is zero more often


@dataclass(frozen=True)
class Profile:
    """Counts of a run over a text.

    Attributes:
        layers: of each layer, neurons in the checkpoint's order.
        corpus: its name.
        sha256: of the text's UTF-8 bytes.
        tokens: evaluated.
        branches: of each layer, neurons with gate above 0 and with up above 0 in the columns looked at.
    """

    layers: list[LayerProfile]
    corpus: str
    sha256: str
    tokens: int
    branches: list[tuple[int, int]] = field(default_factory=list)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the stats file."""
        from safetensors.numpy import save_file

        arrays = {
            f"layers.{il}.{name}": np.ascontiguousarray(array, dtype=np.int64)
            for il, layer in enumerate(self.layers)
            for name, array in zip(layer._fields, layer, strict=True)
        }
        for il, branches in enumerate(self.branches):
            arrays[f"layers.{il}.branches"] = np.array(branches, dtype=np.int64)
        save_file(arrays, path, {"corpus": self.corpus, "sha256": self.sha256, "tokens": str(self.tokens)})


def profile_text(
    model: Model,
    text: str,
    *,
    corpus: str = "",
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Profile:
    """Count activations of `model`, in its current mode, over `text`.

    The text is read in windows of at most 512 tokens, each a fresh sequence with BOS in front
    where the file wants one.

    Args:
        corpus: name to record.
        max_tokens: read no more.
        progress: called with the tokens done and their number.

    Raises:
        ArgumentError: the text is empty.
    """
    tokens = model.tokenize(text)[:max_tokens]
    if not text or not tokens:
        raise ArgumentError("there is nothing to profile: the text is empty", where="text", found="0 tokens")
    windows = _windows(tokens, min(WINDOW, model.n_ctx), model.info.token_bos if model.info.add_bos else None)
    total, done = sum(map(len, windows)), 0
    model.set_profiling(True)
    model.set_diagnosis(BRANCH_EVERY)
    try:
        for window in windows:
            model.reset()
            model.eval(window)
            done += len(window)
            if progress:
                progress(done, total)
        stored = model.read_profile()
        branches = [(layer.n_gate, layer.n_up) for layer in model.read_diagnosis()]
    finally:
        model.set_profiling(False)
        model.set_diagnosis(0)
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return Profile(_checkpoint_order(model, stored), corpus, sha256, done, branches)


def profile_file(
    model_path: str | os.PathLike[str],
    text_path: str | os.PathLike[str],
    stats_path: str | os.PathLike[str],
    *,
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Profile:
    """profile_text from file to file: load the GGUF, count over the text, write the stats file.

    Args:
        options: of Model, by name.
    """
    try:
        text = Path(text_path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FileError(
            f"{text_path} cannot be read: {error.strerror}",
            where=str(text_path),
            expected="a text file",
            found=str(error.strerror),
        ) from error
    with Model(model_path, **{"n_ctx": WINDOW, **options}) as model:
        result = profile_text(model, text, corpus=Path(text_path).name, max_tokens=max_tokens, progress=progress)
    result.save(stats_path)
    return result


def _windows(tokens: Sequence[int], size: int, bos: int | None) -> list[list[int]]:
    """Cut `tokens` into windows; all but the first, which has its own, get BOS in front."""
    if bos is None:
        return [list(tokens[i : i + size]) for i in range(0, len(tokens), size)]
    rest = tokens[1:] if tokens[0] == bos else tokens
    return [[bos, *rest[i : i + size - 1]] for i in range(0, len(rest), size - 1)] or [[bos]]


def _checkpoint_order(model: Model, stored: list[LayerProfile]) -> list[LayerProfile]:
    """Undo the hot-first permutation of the file: row j is the checkpoint's neuron perm[j]."""
    if not model.info.hot_first:
        return stored
    from gguf import GGUFReader

    perms = {
        tensor.name: tensor.data
        for tensor in GGUFReader(model.path).tensors
        if tensor.name.endswith(".ffn_neuron_perm")
    }
    return [_unpermute(layer, perms[f"blk.{il}.ffn_neuron_perm"]) for il, layer in enumerate(stored)]


def _unpermute(layer: LayerProfile, perm: Any) -> LayerProfile:
    counts = np.empty_like(layer.counts)
    np.put_along_axis(counts, perm.reshape(counts.shape).astype(np.int64), layer.counts, axis=1)
    return LayerProfile(counts, layer.columns)
