"""Re-read a file and compare every tensor and key with its source.

F32, F16 and BF16 must equal the source rounded once. Block types are compared by normalised mean
square error, over the tensor and per row, so that one swapped or skipped row cannot hide in an average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import keys
from .contract import Contract, check_contract, small
from .errors import VerifyError
from .export import Progress, ahead, block_rows, default_threads
from .ggufile import GGUFFile, Info
from .job import Job, Options, open_job
from .metadata import hparam_kv
from .neurons import LayerOrder, Stats
from .plan import Planned, build_plan
from .quantize import FLOATS, T, Type, decode, encode, to_f32, type_name

# NMSE allowed over a tensor: two to three times that of normally distributed weights.
NMSE = {
    T.Q8_0: 4e-4, T.Q6_K: 1e-3, T.Q5_0: 5e-3, T.Q5_1: 5e-3, T.Q5_K: 4e-3, T.Q4_0: 2e-2, T.Q4_1: 2e-2, T.Q4_K: 1.5e-2,
}  # fmt: skip
MAPS = ("ffn_neuron_freq", "ffn_neuron_perm", "ffn_expert_freq")
ROW_FACTOR = 8  # a single row may be this much worse: an outlier widens its block's steps


@dataclass(frozen=True)
class TensorError:
    """Measured difference of one tensor; `bound` 0 means bit-equal after one rounding."""

    name: str
    qtype: Type
    nmse: float
    worst_row: float
    bound: float

    @property
    def ok(self) -> bool:
        """Whether tensor and worst row are within the bound."""
        return self.nmse <= self.bound and self.worst_row <= ROW_FACTOR * self.bound


@dataclass(frozen=True)
class Report:
    """Every tensor compared, and keys that differ as (key, expected, found)."""

    tensors: list[TensorError]
    keys: list[tuple[str, Any, Any]]

    @property
    def failures(self) -> list[TensorError]:
        """Tensors beyond their bound."""
        return [t for t in self.tensors if not t.ok]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        tensors = [
            {"name": t.name, "type": type_name(t.qtype), "nmse": t.nmse, "worst_row": t.worst_row, "bound": t.bound}
            for t in self.tensors
        ]
        differ = [{"key": k, "expected": e, "found": f} for k, e, f in self.keys]
        return {"ok": not self.failures and not differ, "tensors": tensors, "keys": differ}

    def as_text(self) -> str:
        """One line per type, and one per failure."""
        lines = []
        for qtype in sorted({t.qtype for t in self.tensors}):
            same = [t for t in self.tensors if t.qtype is qtype]
            bound = NMSE.get(qtype, 0.0)
            rule = f"NMSE <= {bound:g}, rows <= {ROW_FACTOR * bound:g}" if bound else "bit-equal after one rounding"
            worst, row = max(t.nmse for t in same), max(t.worst_row for t in same)
            lines.append(f"{type_name(qtype):<5} {len(same):>5} tensors  worst {worst:.2e}, row {row:.2e}  ({rule})")
        lines += [f"FAILED {t.name}: NMSE {t.nmse:.3g}, worst row {t.worst_row:.3g}" for t in self.failures]
        lines += [f"FAILED key {key}: expected {want!r}, found {found!r}" for key, want, found in self.keys]
        return "\n".join(lines)

    def raise_on_failure(self) -> None:
        """VerifyError naming the worst tensor or the first key."""
        if self.failures:
            worst = max(self.failures, key=lambda t: t.nmse / (t.bound or 1e-30))
            measured = f"NMSE {worst.nmse:.3g}, worst row {worst.worst_row:.3g}, allowed {worst.bound:.3g}"
            raise VerifyError(
                f"{len(self.failures)} of {len(self.tensors)} tensors differ from the source, most of all {worst.name} "
                f"({type_name(worst.qtype)}): {measured}",
                failures=[t.name for t in self.failures],
            )
        if self.keys:
            key, expected, found = self.keys[0]
            raise VerifyError(
                f"{len(self.keys)} keys differ from the source; {key} should be {expected!r}, found {found!r}",
                failures=[k for k, _, _ in self.keys],
            )


def verify(
    path: Path, src: str | Path, *, predictors: Path | None = None, allow_pickle: bool = False,
    threads: int | None = None, progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Compare `path` with the checkpoint `src` (and its predictor directory, if it was made with one)."""
    with GGUFFile(path) as file:
        contract = check_contract(file)
        options = Options(
            "f32", predictors=predictors, no_predictors=not any(contract.ranks), allow_pickle=allow_pickle,
            fc2_by_unit=contract.fc2_by_unit,
        )  # fmt: skip
        with open_job(src, options) as job, ThreadPoolExecutor(threads or default_threads()) as pool:
            planned = _planned_as_stored(job, file, contract)
            _same_tensors(planned, file)
            total, done, out = sum(file.tensors[t.name].n_bytes for t in planned), 0, []
            for t in planned:
                info = file.tensors[t.name]
                out.append(_compare(t, file, info, pool))
                done += info.n_bytes
                if progress:
                    progress(t.name, done, total)
            return Report(out, _different_keys(job, file, contract))


def _planned_as_stored(job: Job, file: GGUFFile, contract: Contract) -> list[Planned]:
    """The source's tensors with their rows in the order that the file states."""
    orders = []
    for il in range(contract.hp.n_layer):
        info = file.tensors.get(keys.FFN_NEURON_PERM.format(il))
        if info is None:
            return job.plan.tensors
        perm = small(file, info).reshape(max(contract.hp.n_expert, 1), contract.hp.n_ff)
        zero = np.zeros(perm.shape, np.float32)
        orders.append(LayerOrder(perm, zero, zero[:, 0]))
    stats = Stats(orders)
    plan = build_plan(job.checkpoint.tensors, job.family, job.hp, job.types, predictors=job.predictors, stats=stats)
    # Maps have no source: the contract has checked them, and a wrong permutation shows in the weights.
    return [t for t in plan.tensors if not t.name.endswith(MAPS)]


def _same_tensors(planned: list[Planned], file: GGUFFile) -> None:
    expected = {t.name: t.shape for t in planned}
    missing = sorted(set(expected) - set(file.tensors))
    surplus = sorted(n for n in set(file.tensors) - set(expected) if not n.endswith(MAPS))
    wrong = [n for n, shape in expected.items() if n in file.tensors and file.tensors[n].shape != shape]
    if missing or surplus or wrong:
        first = (missing or surplus or wrong)[0]
        raise VerifyError(
            f"the file is not of this source: {len(missing)} tensors missing, {len(surplus)} surplus, {len(wrong)} of "
            f"another shape, e.g. {first}",
            missing=missing,
            surplus=surplus,
            wrong=wrong,
        )


def _compare(t: Planned, file: GGUFFile, info: Info, pool: ThreadPoolExecutor) -> TensorError:
    err2 = ref2 = worst = 0.0
    for e, r, row in ahead(pool, _tasks(t, file, info)):
        err2, ref2, worst = err2 + e, ref2 + r, max(worst, row)
    return TensorError(t.name, info.qtype, err2 / (ref2 or 1.0), worst, NMSE.get(info.qtype, 0.0))


def _tasks(t: Planned, file: GGUFFile, info: Info) -> Iterator[Callable[[], tuple[float, float, float]]]:
    """One comparison per row block of the source."""
    start = 0
    for n, read in t.source.blocks(block_rows(t.shape[0])):
        yield partial(_difference, read, partial(file.rows, info, start, start + n), info.qtype)
        start += n


def _difference(
    read: Callable[[], NDArray[Any]], stored: Callable[[], NDArray[np.uint8]], qtype: Type
) -> tuple[float, float, float]:
    """(sum of squared errors, sum of squares, worst row's NMSE)."""
    raw, data = read(), stored()
    if qtype is T.I32:
        return float((raw != data.view(np.int32)).sum()), 1.0, 0.0
    x = to_f32(raw)
    if qtype in FLOATS:
        x = decode(encode(x, qtype), qtype)
    y = decode(data, qtype)
    with np.errstate(over="ignore", invalid="ignore"):
        err = np.square(y - x, dtype=np.float64).sum(axis=1)
    ref = np.square(x, dtype=np.float64).sum(axis=1)
    err[~np.isfinite(err)] = np.inf
    return float(err.sum()), float(ref.sum()), float((err / np.where(ref > 0, ref, 1.0)).max())


def _different_keys(job: Job, file: GGUFFile, contract: Contract) -> list[tuple[str, Any, Any]]:
    expected = hparam_kv(job.hp) | {k: v for k, v in job.kv.items() if k.startswith("tokenizer.")}
    expected[keys.FFN_ACTIVATION] = job.kv[keys.FFN_ACTIVATION]
    out = []
    for key, (_, want) in expected.items():
        found = file.get(key)
        if not _equal(want, found):
            out.append((key, _short(want), _short(found)))
    if list(contract.ranks) != list(job.plan.ranks):
        out.append((keys.PREDICTOR_RANK, job.plan.ranks, contract.ranks))
    return out


def _equal(want: Any, found: Any) -> bool:
    if isinstance(want, list):
        return isinstance(found, list) and len(want) == len(found) and all(map(_equal, want, found))
    if isinstance(want, bytes):
        return bool(want.decode("utf-8", "surrogateescape") == found)
    if isinstance(want, float):
        return isinstance(found, float) and np.float32(want) == np.float32(found)
    return bool(want == found)


def _short(value: Any) -> Any:
    return f"an array of {len(value)}" if isinstance(value, list) and len(value) > 8 else value
