"""A synthetic checkpoint straight into GGUF: the extended file and, for comparison, its dense twin.

The twin has architecture `llama` and the same matrices in the same types, `down` as llama.cpp stores it and no
predictors: stock llama.cpp runs it, with SiLU, at the speed of a dense model of exactly this shape.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import keys
from .checkpoint import Checkpoint
from .errors import NoSpaceError
from .export import KV, Progress, Written, prepare_output, write_gguf
from .job import Job, Options, plan_job
from .metadata import general_kv, hparam_kv
from .plan import Planned, Types, build_plan
from .quantize import fitting_type, parse_type
from .sources import Rows, Stack
from .synth import open_synthetic
from .synth_files import STATS
from .synth_model import SynthModel
from .tokenizer import load_tokenizer


@dataclass(frozen=True)
class Twins:
    """What was written; `dense` is None where no twin was asked for."""

    sparse: Written
    dense: Written | None


def write_ggufs(
    model: SynthModel,
    out: Path,
    *,
    outtype: str = "q4_0",
    predictor_type: str | None = None,
    fc2_by_unit: bool | None = None,
    hot_first: bool = True,
    dense: Path | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Twins:
    """Write `out` and, where `dense` names it, the twin. `progress` runs over the bytes of both.

    The result is what `convert` makes of `write_checkpoint`'s directory. Raises ConvertError as `convert` does, and
    NoSpaceError at once when the two files do not fit together.
    """
    types = Types(parse_type(outtype), parse_type(predictor_type) if predictor_type else None, by_unit=fc2_by_unit)
    with open_synthetic(model) as checkpoint:
        stats = checkpoint.path / STATS if hot_first else None
        options = Options(outtype=outtype, predictor_type=predictor_type, stats=stats)
        job = plan_job(checkpoint, types, options)
        twin = dense_tensors(job) if dense else []
        sizes = [_size(job.plan.tensors), _size(twin)]
        if dense:
            prepare_output(dense, 0, force=force)  # a name that cannot be had is said now, not an hour later
        _check_space(out, sum(sizes))
        sparse = job.write(out, force=force, threads=threads, progress=_part(progress, 0, sum(sizes)))
        if dense is None:
            return Twins(sparse, None)
        watch = _part(progress, sizes[0], sum(sizes))
        kv = dense_kv(job)
        return Twins(
            sparse, write_gguf(dense, kv, twin, architecture="llama", force=force, threads=threads, progress=watch)
        )


def dense_tensors(job: Job) -> list[Planned]:
    """The tensors of the dense twin, neurons in the checkpoint's order, in the types of `job`."""
    weights = {name: t for name, t in job.checkpoint.tensors.items() if ".predictor." not in name}
    plan = build_plan(weights, job.family, job.hp, job.types)
    return [_down(job, t) if ".ffn_down_t" in t.name else t for t in plan.tensors]


def _down(job: Job, t: Planned) -> Planned:
    """`down` with its rows along n_ff again, as the checkpoint has it."""
    source = Stack([Rows(job.checkpoint.tensors[name]) for name in t.origin])
    shape = (job.hp.n_ff, job.hp.n_embd, *t.shape[2:])
    name = t.name.replace("ffn_down_t", "ffn_down")
    qtype = fitting_type(job.types.out, job.hp.n_ff)
    return replace(t, name=name, shape=shape, source=source, qtype=qtype, wanted=None)


def dense_kv(job: Job) -> KV:
    """Keys of the dense twin: those that llama.cpp knows."""
    source: Checkpoint = job.checkpoint
    out = general_kv(source.path, job.types.out)
    out[keys.GENERAL_NAME] = (out[keys.GENERAL_NAME][0], f"{out[keys.GENERAL_NAME][1]}, dense twin")
    hparams = hparam_kv(job.hp)
    hparams.pop(keys.SLIDING_WINDOW, None)  # llama.cpp's llama graph has no window
    prefix = keys.ARCHITECTURE + "."
    out |= {"llama." + key.removeprefix(prefix): value for key, value in hparams.items()}
    return out | load_tokenizer(source.path, source.config, job.hp.n_vocab).kv()


def _size(tensors: Sequence[Planned]) -> int:
    return sum(t.n_bytes for t in tensors)


def _check_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.absolute().parent).free
    if free < needed:
        raise NoSpaceError(
            f"{out} and its twin need {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free. Use --layers for a "
            "shorter model, or --no-dense",
            needed=needed,
            available=free,
        )


def _part(progress: Progress | None, before: int, total: int) -> Progress | None:
    """`progress` for one of several files."""
    if progress is None:
        return None
    return lambda name, done, _: progress(name, before + done, total)
