"""A Hugging Face checkpoint directory as lazy tensors.

Safetensors headers are checked here before a byte of a tensor is believed: header size, JSON,
shape x dtype against the byte range, ranges inside the file, without overlap or holes. Tensors
are read with pread, row block by row block, so that resident memory stays small and reading
from several threads is safe. Nothing here imports torch or safetensors.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError, MissingPackageError

MAX_HEADER = 100 * 1024 * 1024  # bytes; the limit of the reference implementation

# bfloat16 has no numpy type: its bits travel as uint16, which no weight uses otherwise.
STORAGE: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}


class Tensor(Protocol):
    """What the converter needs of a tensor, wherever it is stored."""

    @property
    def name(self) -> str:
        """Name in the checkpoint."""
        ...

    @property
    def dtype(self) -> str:
        """A key of STORAGE."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Slowest dimension first."""
        ...

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) along the first dimension, in the storage type (BF16 as uint16)."""
        ...


@dataclass(frozen=True)
class FileTensor:
    """A tensor in a safetensors file; `offset` is absolute, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    fd: int
    offset: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop), as Tensor.read."""
        storage = STORAGE[self.dtype]
        row = math.prod(self.shape[1:]) * storage.itemsize
        out = np.empty((stop - start, *self.shape[1:]), storage)
        view, at = out.reshape(-1).view(np.uint8).data, self.offset + start * row
        while len(view):
            n = os.preadv(self.fd, [view], at)
            if n == 0:
                raise CheckpointError(f"{self.path.name} shrank while {self.name} was read", path=str(self.path))
            view, at = view[n:], at + n
        return out


@dataclass
class Checkpoint:
    """An open checkpoint. Close it, or use it as a context manager."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    fds: list[int] = field(default_factory=list)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every shard. Tensors cannot be read afterwards."""
        while self.fds:
            os.close(self.fds.pop())


def open_checkpoint(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open the directory `path`: config.json, every shard and the index, cross-checked.

    Raises CheckpointError naming the file at fault; no tensor data is read.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory with a Hugging Face checkpoint", path=str(path))
    config = read_json(path / "config.json")
    checkpoint = Checkpoint(path, config, {})
    try:
        _open_shards(checkpoint, allow_pickle)
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`; CheckpointError when it is missing or not one."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing from {path.parent}", path=str(path)) from None
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{path.name} is not valid JSON: {err}", path=str(path)) from err
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} should hold a JSON object", path=str(path))
    return value


def _open_shards(checkpoint: Checkpoint, allow_pickle: bool) -> None:
    index = checkpoint.path / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _weight_map(index)
        shards = sorted(set(weight_map.values()))
        missing = [name for name in shards if not (checkpoint.path / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{len(missing)} of {len(shards)} shards named in {index.name} are missing: {', '.join(missing)}. "
                "Download them and run again",
                missing=missing,
            )
    else:
        weight_map = {}
        shards = sorted(p.name for p in checkpoint.path.glob("*.safetensors"))
    if not shards:
        _no_safetensors(checkpoint, allow_pickle)
        return
    home: dict[str, str] = {}
    for name in shards:
        for tensor in open_safetensors(checkpoint.path / name, checkpoint.fds):
            if tensor.name in checkpoint.tensors:
                raise CheckpointError(f"tensor {tensor.name} is in both {home[tensor.name]} and {name}")
            checkpoint.tensors[tensor.name], home[tensor.name] = tensor, name
    _check_index(index.name, weight_map, home)


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index.name} has no weight_map", path=str(index))
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{index.name} places {tensor} in {shard!r}, which is not a file name here")
    return weight_map


def _check_index(index: str, weight_map: dict[str, str], home: dict[str, str]) -> None:
    if not weight_map:
        return
    wrong = [name for name, shard in weight_map.items() if home.get(name) != shard]
    if wrong:
        first = wrong[0]
        raise CheckpointError(
            f"{index} places {first} in {weight_map[first]}, found in {home.get(first, 'no shard')}"
            f" ({len(wrong)} such tensors). The shards belong to another download, or one is incomplete",
            tensors=wrong,
        )
    surplus = sorted(set(home) - set(weight_map))
    if surplus:
        raise CheckpointError(f"{surplus[0]} is in {home[surplus[0]]} but not in {index}", tensors=surplus)


def _no_safetensors(checkpoint: Checkpoint, allow_pickle: bool) -> None:
    pickles = sorted(p for pattern in ("pytorch_model*.bin", "*.pt") for p in checkpoint.path.glob(pattern))
    if not pickles:
        raise CheckpointError(f"no *.safetensors in {checkpoint.path}", path=str(checkpoint.path))
    if not allow_pickle:
        raise CheckpointError(
            f"{checkpoint.path} holds pickles only ({pickles[0].name}, ...). Unpickling runs code of whoever made the "
            "file: prefer a safetensors version, or pass --allow-pickle to read them with torch's weights_only loader",
            files=[p.name for p in pickles],
        )
    for path in pickles:
        for tensor in open_pickle(path):
            checkpoint.tensors[tensor.name] = tensor


# --- safetensors -------------------------------------------------------------


def open_safetensors(path: Path, fds: list[int]) -> list[FileTensor]:
    """The tensors of one safetensors file. Its descriptor is appended to `fds`, which owns it."""
    fd = os.open(path, os.O_RDONLY)
    fds.append(fd)
    size = os.fstat(fd).st_size
    header, start = _header(path, fd, size)
    tensors = [_tensor(path, fd, name, entry, start, size) for name, entry in header.items() if name != "__metadata__"]
    _check_ranges(path, tensors, start, size)
    return tensors


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The `__metadata__` strings of a safetensors file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        metadata = _header(path, fd, os.fstat(fd).st_size)[0].get("__metadata__", {})
    finally:
        os.close(fd)
    return {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}


def _header(path: Path, fd: int, size: int) -> tuple[dict[str, Any], int]:
    """(parsed header, offset of the data)."""
    if size < 8:
        raise CheckpointError(f"{path.name} is truncated: {size} bytes are no safetensors file", path=str(path))
    length = int.from_bytes(os.pread(fd, 8, 0), "little")
    if length > min(MAX_HEADER, size - 8):
        raise CheckpointError(
            f"{path.name} states a header of {length} bytes, the file has {size}. It is truncated or not safetensors",
            path=str(path),
            expected=length,
            found=size,
        )
    try:
        header = json.loads(os.pread(fd, length, 8), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{path.name} has a header that is not valid JSON: {err}", path=str(path)) from err
    if not isinstance(header, dict):
        raise CheckpointError(f"{path.name} has a header that is not a JSON object", path=str(path))
    return header, 8 + length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name occurs twice")
    return out


def _tensor(path: Path, fd: int, name: str, entry: Any, start: int, size: int) -> FileTensor:
    def bad(what: str) -> CheckpointError:
        return CheckpointError(f"{path.name}: tensor {name} {what}", path=str(path), tensor=name)

    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise bad("has no dtype, shape and data_offsets") from None
    if not isinstance(dtype, str) or dtype not in STORAGE:
        raise bad(f"has dtype {dtype!r}; known are {', '.join(STORAGE)}")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**48 for n in shape) or len(shape) > 8:
        raise bad(f"has shape {shape!r}")
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
        raise bad(f"has data_offsets {begin!r}, {end!r}")
    n_bytes = math.prod(shape) * STORAGE[dtype].itemsize
    if end - begin != n_bytes:
        raise bad(f"is {shape} {dtype} = {n_bytes} bytes, its data_offsets span {end - begin}")
    if start + end > size:
        raise bad(f"ends at byte {start + end}, the file has {size}. It is truncated: download it again")
    return FileTensor(name, dtype, tuple(shape), path, fd, start + begin)


def _check_ranges(path: Path, tensors: list[FileTensor], start: int, size: int) -> None:
    at, before = start, "the header"
    for t in sorted(tensors, key=lambda t: (t.offset, math.prod(t.shape))):
        if t.offset != at:
            what = "overlaps" if t.offset < at else "leaves a hole after"
            raise CheckpointError(f"{path.name}: tensor {t.name} {what} {before}", path=str(path), tensor=t.name)
        at, before = t.offset + math.prod(t.shape) * STORAGE[t.dtype].itemsize, t.name
    if at != size:
        raise CheckpointError(f"{path.name} has {size - at} bytes after its last tensor", path=str(path))


# --- pickles, only when asked for ---------------------------------------------


@dataclass(frozen=True)
class TorchTensor:
    """A tensor of a torch file that was loaded with mmap and weights_only."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Any

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop), as Tensor.read."""
        rows = self.data[start:stop]
        rows = rows.view(_torch().uint16) if self.dtype == "BF16" else rows
        out: NDArray[Any] = rows.contiguous().numpy()
        return out


def open_pickle(path: Path) -> list[TorchTensor]:
    """The tensors of a torch state dict. The caller has checked that the user allows pickles."""
    torch = _torch()
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as err:  # torch raises a dozen types here, all of them "this file is bad"
        raise CheckpointError(f"{path.name} is not a plain torch state dict: {err}", path=str(path)) from err
    tensors = []
    for name, data in state.items():
        if not isinstance(data, torch.Tensor) or data.dtype not in names:
            raise CheckpointError(f"{path.name}: {name} is not a float tensor", path=str(path), tensor=name)
        tensors.append(TorchTensor(name, names[data.dtype], tuple(data.shape), data))
    return tensors


def _torch() -> Any:
    """torch, imported only for pickles."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise MissingPackageError(
            "reading pickles needs torch: pip install torch, or convert the files to safetensors", package="torch"
        ) from None
