"""Synthetic checkpoints with planted activation sparsity, in the layouts of TurboSparse-Mistral and -Mixtral.

Where the real weights are not at hand, or too large, these have their shapes, names and statistics: the same bytes
to read and the same share of neurons to skip. `write_checkpoint` writes a Hugging Face directory;
`open_synthetic` gives the same checkpoint to the converter without writing it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from .checkpoint import Checkpoint, read_json
from .errors import CheckpointError, NoSpaceError, UsageError
from .export import Progress, default_threads
from .synth_files import config, write_files, write_json
from .synth_model import SynthModel, SynthTensor

MAX_SHARD = 4_950_000_000  # bytes of tensors, as transformers cuts them
BLOCK = 1 << 20  # elements made at a time
MARK = "synth.json"  # a directory with this file is ours to replace


@dataclass(frozen=True)
class Synthesised:
    """What was written."""

    path: Path
    n_bytes: int
    n_tensors: int
    n_shards: int
    seconds: float
    removed_part: bool  # a stale .part of an earlier run was removed


def n_bytes(tensors: Sequence[SynthTensor]) -> int:
    """Size of the tensors in bfloat16."""
    return sum(2 * math.prod(t.shape) for t in tensors)


def write_checkpoint(
    model: SynthModel,
    out: Path,
    *,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    max_shard: int = MAX_SHARD,
) -> Synthesised:
    """Write `model` as a Hugging Face directory `out`, by way of `out`.part.

    Raises UsageError when `out` exists without `force` or is not one of ours, NoSpaceError when it does not fit.
    """
    begin = time.monotonic()
    out = Path(os.path.abspath(out))  # "." and ".." have no name to put .part behind
    tensors = list(model.tensors())
    total = n_bytes(tensors)
    removed = _prepare(out, total + (64 << 20), force=force)
    part = _part(out)
    part.mkdir()
    try:
        write_files(part, model)
        shards = _shards(tensors, max_shard)
        _write_shards(part, shards, total, threads or default_threads(), progress)
        _replace(part, out)
    except BaseException as err:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(err, OSError) and err.errno == 28:  # ENOSPC
            raise _no_space(out, total) from err
        raise
    return Synthesised(out, total, len(tensors), len(shards), time.monotonic() - begin, removed)


@contextmanager
def open_synthetic(model: SynthModel) -> Iterator[Checkpoint]:
    """`model` as a checkpoint whose tensors are made when they are read; only its small files exist, for a while."""
    with tempfile.TemporaryDirectory(prefix="turbosparse-") as folder:
        path = Path(folder) / f"synth-{model.shape.name}"  # becomes general.name
        path.mkdir()
        write_files(path, model)
        yield Checkpoint(path, config(model.shape), {t.name: t for t in model.tensors()})


# --- the directory ------------------------------------------------------------


def _part(out: Path) -> Path:
    return out.with_name(out.name + ".part")


def _prepare(out: Path, needed: int, *, force: bool) -> bool:
    """Check names and space, remove a stale .part and say whether there was one."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not force:
            raise UsageError(f"{out} exists; pass --force to replace it", path=str(out))
        if not _is_ours(out):
            raise UsageError(f"{out} was not written by synth and is not replaced; remove it yourself", path=str(out))
    if not out.parent.is_dir():
        raise UsageError(f"directory {out.parent} does not exist", path=str(out.parent))
    stale = _part(out).is_dir()
    if stale:
        if not _is_ours(_part(out)) and any(_part(out).iterdir()):
            raise UsageError(f"{_part(out)} is in the way and was not written by synth", path=str(_part(out)))
        shutil.rmtree(_part(out))
    if shutil.disk_usage(out.parent).free < needed:
        raise _no_space(out, needed)
    return stale


def _is_ours(path: Path) -> bool:
    try:
        return "synthetic" in read_json(path / MARK)
    except (CheckpointError, OSError):
        return False


def _no_space(out: Path, needed: int) -> NoSpaceError:
    free = shutil.disk_usage(out.parent).free
    return NoSpaceError(
        f"{out} needs {needed / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB free. Use --layers for a shorter model, "
        "or --gguf to write a quantised file without the checkpoint",
        needed=needed,
        available=free,
    )


def _replace(part: Path, out: Path) -> None:
    """`part` becomes `out`; what was there, ours or empty, goes."""
    if not out.exists():
        part.rename(out)
        return
    old = out.with_name(out.name + ".old")
    out.rename(old)
    part.rename(out)
    shutil.rmtree(old)


# --- shards -------------------------------------------------------------------


def _shards(tensors: Sequence[SynthTensor], max_shard: int) -> list[list[SynthTensor]]:
    """Tensors in order, cut where a shard would become larger than `max_shard` bytes."""
    out: list[list[SynthTensor]] = [[]]
    size = 0
    for tensor in tensors:
        length = n_bytes([tensor])
        if out[-1] and size + length > max_shard:
            out.append([])
            size = 0
        out[-1].append(tensor)
        size += length
    return out


def _write_shards(
    out: Path, shards: Sequence[Sequence[SynthTensor]], total: int, threads: int, progress: Progress | None
) -> None:
    """All shards and their index."""
    home: dict[str, str] = {}
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        for i, tensors in enumerate(shards):
            name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
            with (out / name).open("wb") as f:
                f.write(header(tensors))
                for tensor in tensors:
                    home[tensor.name] = name
                    done = _write_tensor(f, tensor, pool, done, total, progress)
    index = {"metadata": {"total_size": total}, "weight_map": home}
    write_json(out / "model.safetensors.index.json", index)


def header(tensors: Sequence[SynthTensor]) -> bytes:
    """The head of a safetensors file with these tensors in this order."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for t in tensors:
        end = at + n_bytes([t])
        entries[t.name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_tensor(
    f: IO[bytes], tensor: SynthTensor, pool: ThreadPoolExecutor, done: int, total: int, progress: Progress | None
) -> int:
    """Append one tensor, its blocks made ahead by the pool; returns the bytes written so far in all."""
    for block in _blocks(tensor, pool):
        f.write(np.ascontiguousarray(block).data)
        done += block.nbytes
        if progress:
            progress(tensor.name, done, total)
    return done


def _blocks(tensor: SynthTensor, pool: ThreadPoolExecutor) -> Iterator[NDArray[np.uint16]]:
    step = max(BLOCK // math.prod(tensor.shape[1:]), 1)
    ahead = 2 * (os.cpu_count() or 1) + 1
    pending: deque[Future[NDArray[np.uint16]]] = deque()
    for start in range(0, tensor.shape[0], step):
        pending.append(pool.submit(tensor.read, start, min(start + step, tensor.shape[0])))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
