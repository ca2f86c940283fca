"""What a finished student is worth: held-out perplexity beside its teacher's, zero rates, predictor recall."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run
from turbosparse.train.evaluate import Counter
from turbosparse.train.surgery import TEACHER


def windows(tokens: npt.NDArray[Any], n_tokens: int, limit: int) -> Tensor:
    """At most `limit` windows [n, n_tokens + 1] int64, one behind the other; n is 0 if the text is too short."""
    n = min(len(tokens) // (n_tokens + 1), limit)
    return torch.from_numpy(np.asarray(tokens[: n * (n_tokens + 1)]).astype(np.int64)).view(n, n_tokens + 1)


def loss(model: CausalLM, rows: Tensor, run: Run, batch: int) -> float:
    """Mean cross-entropy in nats per token over windows [n, T + 1]."""
    total = 0.0
    for part in _batches(rows, batch, model):
        with torch.no_grad():
            logits = model(part[:, :-1], run)
        total += float(functional.cross_entropy(logits.flatten(0, 1).float(), part[:, 1:].flatten(), reduction="sum"))
    n: int = rows.shape[0] * (rows.shape[1] - 1)
    return total / n


def compare_heldout(
    teacher: CausalLM, student: CausalLM, streams: Iterable[tuple[str, Tensor]], has_predictors: bool, batch: int
) -> dict[str, Any]:
    """Per stream: perplexities of the teacher and the student (dense, and masked if it has predictors)."""
    counter = Counter(student.config.num_hidden_layers)
    out: dict[str, Any] = {"streams": {}}
    for name, rows in streams:
        entry = {"tokens": rows.shape[0] * (rows.shape[1] - 1)}
        if not entry["tokens"]:
            continue
        entry["teacher"] = math.exp(loss(teacher, rows, TEACHER, batch))
        entry["student"] = math.exp(loss(student, rows, Run(dense=True, observer=counter), batch))
        if has_predictors:
            entry["masked"] = math.exp(loss(student, rows, Run(), batch))
        out["streams"][name] = entry
    if out["streams"]:
        out["layers"] = [counts.rates() for counts in counter.layers]
        out["zero_rate"] = float(np.mean([rates["zero"] for rates in out["layers"]]))
        out["recall"] = float(np.mean([rates["recall"] for rates in out["layers"]])) if has_predictors else None
    return out


def _batches(rows: Tensor, batch: int, model: CausalLM) -> Iterator[Tensor]:
    device = model.lm_head.weight.device
    return (rows[at : at + batch].to(device) for at in range(0, len(rows), batch))
