"""The streaming GGUF writer: infos first, then one tensor after another, row block by row block.

The file grows as NAME.part and takes its final name only when it is complete and on disk; whatever
stops the writer in between, nothing wrong ever lies under the final name. A thread pool reads
and quantises blocks; they are written in order.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGUFValueType
from numpy.typing import NDArray

from . import keys
from .errors import CheckpointError, NoSpaceError, UsageError
from .plan import Planned
from .quantize import T, encode, to_f32, type_name

MAX_THREADS = 16
BLOCK = 1 << 20  # elements per row block: 4 MiB as float32, about one core's L2

R = TypeVar("R")
KV = dict[str, tuple[GGUFValueType, Any]]
Progress = Callable[[str, int, int], None]  # (tensor, bytes written, bytes in all)


@dataclass(frozen=True)
class Written:
    """What the writer did."""

    path: Path
    n_bytes: int
    seconds: float
    removed_part: bool  # a stale .part of an earlier run was removed


def write_gguf(
    out: Path,
    kv: KV,
    tensors: Sequence[Planned],
    *,
    architecture: str = keys.ARCHITECTURE,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write `tensors` to `out`.

    Raises UsageError when `out` exists without `force`, NoSpaceError before writing when the disk is
    too small and while writing when it fills up, CheckpointError for NaN or infinity in a weight.
    """
    begin = time.monotonic()
    removed = prepare_output(out, sum(_padded(t.n_bytes) for t in tensors) + (1 << 20), force=force)
    part = part_path(out)
    try:
        with ThreadPoolExecutor(threads or default_threads()) as pool:
            try:
                _write(part, kv, tensors, architecture, pool, progress)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        n_bytes = part.stat().st_size
        os.replace(part, out)
        _sync_directory(out.parent)
    except BaseException as err:
        part.unlink(missing_ok=True)
        if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(out.parent).free
            raise NoSpaceError(
                f"the disk of {out} filled up while writing; the unfinished file was removed", needed=0, available=free
            ) from err
        raise
    return Written(out, n_bytes, time.monotonic() - begin, removed)


def part_path(out: Path) -> Path:
    """Where `out` grows until it is complete."""
    return out.with_name(out.name + ".part")


def default_threads() -> int:
    """Cores this process may use; no more than 16, which fill any disk and keep memory bounded."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_THREADS)


def prepare_output(out: Path, needed: int, *, force: bool) -> bool:
    """Check name and space; remove a stale .part and say whether there was one."""
    if out.is_dir():
        raise UsageError(f"{out} is a directory; name the file, e.g. {out / 'model.gguf'}", path=str(out))
    if not out.parent.is_dir():
        raise UsageError(f"directory {out.parent} does not exist", path=str(out.parent))
    if out.exists() and not force:
        raise UsageError(f"{out} exists; pass --force to replace it", path=str(out))
    part, removed = part_path(out), False
    if part.exists():
        _refuse_if_in_use(part)
        part.unlink()
        removed = True
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise NoSpaceError(
            f"{out} needs {needed / 1e9:.2f} GB, its disk has {free / 1e9:.2f} GB free", needed=needed, available=free
        )
    return removed


def _refuse_if_in_use(part: Path) -> None:
    with open(part, "rb") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another run is writing {part}", path=str(part)) from None


def _write(
    part: Path,
    kv: KV,
    tensors: Sequence[Planned],
    architecture: str,
    pool: ThreadPoolExecutor,
    progress: Progress | None,
) -> None:
    writer = GGUFWriter(None, architecture)
    writer.data_alignment = keys.ALIGNMENT
    for key, (vtype, value) in kv.items():
        if key != keys.GENERAL_ARCHITECTURE and value != []:  # the format has no empty arrays
            writer.add_key_value(key, value, vtype, getattr(value, "sub_type", None))
    writer.add_key_value(keys.GENERAL_ALIGNMENT, keys.ALIGNMENT, GGUFValueType.UINT32)
    for t in tensors:
        writer.add_tensor_info(t.name, t.shape[::-1], np.dtype(np.float32), t.n_bytes, t.qtype)
    try:
        writer.write_header_to_file(part)
        assert writer.fout is not None
        fcntl.flock(writer.fout[0], fcntl.LOCK_EX)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_tensors(writer.fout[0], tensors, pool, progress)
    finally:
        for f in writer.fout or ():
            _close(f)


def _close(f: IO[bytes]) -> None:
    """Close without a second error: a full disk fails again when the buffer is flushed."""
    with contextlib.suppress(OSError):
        f.close()


def _write_tensors(
    f: IO[bytes], tensors: Sequence[Planned], pool: ThreadPoolExecutor, progress: Progress | None
) -> None:
    _pad(f)
    done, total = 0, sum(t.n_bytes for t in tensors)
    for t in tensors:
        begin = done
        for block in encoded_blocks(t, pool):
            f.write(block.data)
            done += block.nbytes
            if progress:
                progress(t.name, done, total)
        if done - begin != t.n_bytes:
            raise RuntimeError(f"{t.name}: wrote {done - begin} bytes, planned {t.n_bytes}")
        _pad(f)
    f.flush()
    os.fsync(f.fileno())


def encoded_blocks(t: Planned, pool: ThreadPoolExecutor) -> Iterator[NDArray[np.uint8]]:
    """The tensor's row blocks in order, read and quantised ahead by the pool."""
    return ahead(pool, (partial(_encode, t, read) for _, read in t.source.blocks(block_rows(t.shape[0]))))


def block_rows(n_cols: int) -> int:
    """Rows per block for rows of `n_cols` elements."""
    return max(BLOCK // n_cols, 1)


def ahead(pool: ThreadPoolExecutor, tasks: Iterable[Callable[[], R]]) -> Iterator[R]:
    """Results of `tasks` in order; a few run ahead in the pool, so memory stays bounded."""
    window = 2 * pool._max_workers + 1
    pending: deque[Future[R]] = deque()
    for task in tasks:
        pending.append(pool.submit(task))
        if len(pending) >= window:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _encode(t: Planned, read: Callable[[], NDArray[Any]]) -> NDArray[np.uint8]:
    raw = read()
    if raw.dtype == np.uint8:  # rows that are in the type already
        return raw
    if t.qtype is T.I32:
        return encode(raw, t.qtype)
    x = to_f32(raw)
    check_finite(x, t)
    out = encode(raw if t.qtype in (T.F16, T.BF16) else x, t.qtype)
    if t.qtype is T.F16 and raw.dtype != np.float16:
        _check_f16(out, t)
    return out


def check_finite(x: NDArray[np.float32], t: Planned) -> None:
    """A NaN or infinity in a weight poisons every token: refuse it by name."""
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(x.sum())
    if suspicious and not np.isfinite(x).all():
        raise CheckpointError(f"{_origin(t)} holds NaN or infinity", tensor=t.name)


def _check_f16(out: NDArray[np.uint8], t: Planned) -> None:
    if not np.isfinite(out.view(np.float16)).all():
        raise CheckpointError(
            f"{_origin(t)} has values beyond 65504, the largest of {type_name(t.qtype)}: use bf16 or f32", tensor=t.name
        )


def _origin(t: Planned) -> str:
    if not t.origin:
        return t.name
    return f"tensor {t.origin[0]}" if len(t.origin) == 1 else f"one of {t.origin[0]} ... {t.origin[-1]}"


def _padded(n: int) -> int:
    return -(-n // keys.ALIGNMENT) * keys.ALIGNMENT


def _pad(f: IO[bytes]) -> None:
    f.write(bytes(-f.tell() % keys.ALIGNMENT))


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
