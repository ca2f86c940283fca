"""Where a layer's predictor comes from: inside the checkpoint, or a directory beside it.

A directory holds one file per layer, `model_{layer}.safetensors` or `.pt`, each with `fc1.weight`
[r, n_embd] and `fc2.weight` [n_ff, r], or one safetensors checkpoint with the embedded names.
Its optional config.json may state `sparse_threshold` in logit units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arch import Family
from .checkpoint import Tensor, open_pickle, open_safetensors, read_json
from .errors import CheckpointError, UnsupportedModelError, UsageError

PER_LAYER = re.compile(r"model_(\d+)\.(safetensors|pt)")


@dataclass(frozen=True)
class Predictors:
    """Predictor tensors under the family's embedded names, with where they came from."""

    tensors: dict[str, Tensor]
    source: str
    threshold: float = 0.0


def load_directory(path: Path, family: Family, fds: list[int], *, allow_pickle: bool) -> Predictors:
    """Read the predictor directory `path`; descriptors are appended to `fds`."""
    if not path.is_dir():
        raise UsageError(f"--predictors {path} is not a directory", path=str(path))
    threshold = _threshold(path)
    if threshold and family.pre_norm:
        raise UnsupportedModelError(
            f"{path.name}/config.json sets sparse_threshold {threshold}, but these predictors read the residual before "
            "RMSNorm, where a threshold other than 0 depends on the token's norm. Recalibrate them to 0",
            key="sparse_threshold",
            expected=0,
            found=threshold,
        )
    tensors: dict[str, Tensor] = {}
    for file in sorted(path.iterdir()):
        if file.suffix not in (".safetensors", ".pt"):
            continue
        if file.suffix == ".pt" and not allow_pickle:
            raise UsageError(
                f"{file.name} is a pickle, and unpickling runs code of whoever made it. Pass --allow-pickle to read it "
                "with torch's weights_only loader, or convert it to safetensors",
                path=str(file),
            )
        found = open_pickle(file) if file.suffix == ".pt" else open_safetensors(file, fds)
        tensors |= _named(file, found, family)
    if not tensors:
        raise CheckpointError(f"no predictor files (model_0.safetensors, ...) in {path}", path=str(path))
    return Predictors(tensors, f"directory {path.name}", threshold)


def _threshold(path: Path) -> float:
    config = path / "config.json"
    value = read_json(config).get("sparse_threshold", 0.0) if config.is_file() else 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CheckpointError(f"{path.name}/config.json: sparse_threshold is {value!r}", key="sparse_threshold")
    return float(value)


def _named(file: Path, tensors: list[Tensor] | list[Any], family: Family) -> dict[str, Tensor]:
    match = PER_LAYER.fullmatch(file.name)
    if match is None:
        return {t.name: t for t in tensors}
    names = {"fc1.weight": family.ffn.fc1, "fc2.weight": family.ffn.fc2}
    by_name = {t.name: t for t in tensors}
    if set(by_name) != set(names) or family.ffn.router:
        raise CheckpointError(
            f"{file.name} holds {', '.join(sorted(by_name))}; expected fc1.weight and fc2.weight of a dense layer",
            path=str(file),
            expected=sorted(names),
            found=sorted(by_name),
        )
    il = int(match[1])
    return {names[name].format(il=il): t for name, t in by_name.items()}
