"""A GGUF file from an unknown hand: parsed with every bound checked, read row by row.

gguf.GGUFReader trusts counts, lengths and offsets; a crafted file makes it allocate or read at will.
This reader believes nothing before it has compared it with the size of the file. It reads version
2 and 3, little endian, and turns every defect into a GGUFError.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGUFValueType
from numpy.typing import NDArray

from .errors import GGUFError
from .quantize import Type

V = GGUFValueType
FORMATS = {
    V.UINT8: "B", V.INT8: "b", V.UINT16: "H", V.INT16: "h", V.UINT32: "I", V.INT32: "i",
    V.FLOAT32: "f", V.UINT64: "Q", V.INT64: "q", V.FLOAT64: "d", V.BOOL: "?",
}  # fmt: skip
MAX_NAME = 64 * 1024  # bytes of a key
MAX_HEADER = 128 << 20  # bytes of keys and infos together; real ones have 2 to 15 MB


@dataclass(frozen=True)
class Value:
    """A key's value; `sub_type` is the element type of an array."""

    vtype: GGUFValueType
    value: Any
    sub_type: GGUFValueType | None = None


@dataclass(frozen=True)
class Info:
    """A tensor of the file; `shape` in ggml order, `offset` absolute, in bytes."""

    name: str
    shape: tuple[int, ...]
    qtype: Type
    offset: int

    @property
    def n_rows(self) -> int:
        """Rows of shape[0] elements."""
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        block, size = GGML_QUANT_SIZES[self.qtype]
        return self.shape[0] // block * size

    @property
    def n_bytes(self) -> int:
        """Bytes without padding."""
        return self.row_bytes * self.n_rows


class GGUFFile:
    """An open GGUF file; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY)
        except OSError as err:
            raise GGUFError(f"{path} cannot be opened: {err.strerror}", path=str(path)) from err
        try:
            status = os.fstat(self.fd)
            if not stat.S_ISREG(status.st_mode):
                raise GGUFError(f"{path} is not a regular file", path=str(path))
            self.size = status.st_size
            parser = _Parser(path, self.fd, self.size)
            self.values, self.tensors, self.alignment = parser.parse()
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; rows cannot be read afterwards."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default`."""
        return self.values[key].value if key in self.values else default

    def rows(self, info: Info, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows [start, stop) of a tensor as stored, [stop - start, row_bytes]. Safe in several threads."""
        data = os.pread(self.fd, (stop - start) * info.row_bytes, info.offset + start * info.row_bytes)
        if len(data) != (stop - start) * info.row_bytes:
            raise GGUFError(f"{self.path} became shorter while {info.name} was read", tensor=info.name)
        return np.frombuffer(data, np.uint8).reshape(stop - start, info.row_bytes)


class _Parser:
    """Header, keys and infos, through a window that can never pass the end of the file."""

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self.path, self.fd, self.size = path, fd, size
        self.at = 0
        self.buffer = b""
        self.begin = 0

    def bad(self, what: str, **data: Any) -> GGUFError:
        return GGUFError(f"{self.path.name}: {what}", path=str(self.path), **data)

    def take(self, n: int, what: str) -> bytes:
        if self.at + n > MAX_HEADER:
            raise self.bad(f"{what} reaches beyond {MAX_HEADER >> 20} MB of keys, more than any sound file has")
        if n > self.size - self.at:
            raise self.bad(f"{what} needs {n} bytes at {self.at}, the file has {self.size}. It is truncated or damaged")
        offset = self.at - self.begin
        if offset + n > len(self.buffer):
            self.buffer, self.begin, offset = os.pread(self.fd, max(n, 1 << 20), self.at), self.at, 0
        self.at += n
        return self.buffer[offset : offset + n]

    def number(self, fmt: str, what: str) -> Any:
        return struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt), what))[0]

    def text(self, what: str, limit: int = MAX_HEADER) -> str:
        n = self.number("Q", what)
        if n > min(limit, self.size - self.at):
            raise self.bad(f"{what} states a length of {n} bytes, {self.size - self.at} are left in the file")
        # Tokens may be any bytes; surrogateescape brings them back unchanged.
        return self.take(n, what).decode("utf-8", "surrogateescape")

    def parse(self) -> tuple[dict[str, Value], dict[str, Info], int]:
        if self.size < 24 or self.take(4, "the magic") != b"GGUF":
            raise self.bad("is not a GGUF file (its first bytes are not 'GGUF')")
        version = self.number("I", "the version")
        if version not in (2, 3):
            raise self.bad(f"has GGUF version {version}; known are 2 and 3", expected=3, found=version)
        n_tensors, n_kv = self.number("Q", "the tensor count"), self.number("Q", "the key count")
        if n_tensors > self.size // 24 or n_kv > self.size // 13:
            raise self.bad(f"states {n_tensors} tensors and {n_kv} keys, more than {self.size} bytes can hold")
        values: dict[str, Value] = {}
        for _ in range(n_kv):
            key, value = self.key_value()
            if key in values:
                raise self.bad(f"key {key} occurs twice", key=key)
            values[key] = value
        alignment = self.alignment(values)
        return values, self.infos(n_tensors, alignment), alignment

    def alignment(self, values: dict[str, Value]) -> int:
        value = values.get("general.alignment", Value(V.UINT32, 32))
        if value.vtype is not V.UINT32 or not 8 <= value.value <= 1 << 20 or value.value & (value.value - 1):
            raise self.bad(f"general.alignment is {value.value!r}, expected a power of two", key="general.alignment")
        return int(value.value)

    def key_value(self) -> tuple[str, Value]:
        key = self.text("a key", MAX_NAME)
        vtype = self.value_type(key)
        if vtype is not V.ARRAY:
            return key, Value(vtype, self.scalar(vtype, key))
        sub = self.value_type(key)
        n = self.number("Q", key)
        if sub is V.ARRAY:
            raise self.bad(f"key {key} is an array of arrays", key=key)
        width = 8 if sub is V.STRING else struct.calcsize("<" + FORMATS[sub])
        if n > (self.size - self.at) // width:
            raise self.bad(f"key {key} states {n} elements, {self.size - self.at} bytes are left in the file", key=key)
        if sub is V.STRING:
            return key, Value(V.ARRAY, [self.text(key) for _ in range(n)], sub)
        return key, Value(V.ARRAY, np.frombuffer(self.take(n * width, key), "<" + FORMATS[sub]).tolist(), sub)

    def value_type(self, key: str) -> GGUFValueType:
        number = self.number("I", key)
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self.bad(f"key {key} has unknown type {number}", key=key) from None

    def scalar(self, vtype: GGUFValueType, key: str) -> Any:
        return self.text(key) if vtype is V.STRING else self.number(FORMATS[vtype], key)

    def infos(self, n_tensors: int, alignment: int) -> dict[str, Info]:
        raw = [self.info() for _ in range(n_tensors)]
        data = -(-self.at // alignment) * alignment
        infos: dict[str, Info] = {}
        for name, shape, qtype, offset in raw:
            if name in infos:
                raise self.bad(f"tensor {name} occurs twice", tensor=name)
            infos[name] = self.checked(Info(name, shape, qtype, data + offset), alignment, offset)
        end, before = data, ""
        for info in sorted(infos.values(), key=lambda i: i.offset):
            if info.offset < end:
                raise self.bad(f"tensor {info.name} overlaps {before or 'the header'}", tensor=info.name)
            end, before = info.offset + info.n_bytes, info.name
        return infos

    def info(self) -> tuple[str, tuple[int, ...], Type, int]:
        name = self.text("a tensor name", MAX_NAME)
        n_dims = self.number("I", name)
        if not 1 <= n_dims <= 4:
            raise self.bad(f"tensor {name} has {n_dims} dimensions", tensor=name)
        shape = tuple(self.number("Q", name) for _ in range(n_dims))
        number = self.number("I", name)
        if not all(0 < n < 2**62 for n in shape) or math.prod(shape) >= 2**62:
            raise self.bad(f"tensor {name} has shape {list(shape)}", tensor=name)
        try:
            qtype = Type(number)
        except ValueError:
            raise self.bad(f"tensor {name} has unknown type {number}", tensor=name) from None
        return name, shape, qtype, self.number("Q", name)

    def checked(self, info: Info, alignment: int, offset: int) -> Info:
        block = GGML_QUANT_SIZES[info.qtype][0]
        if info.shape[0] % block:
            raise self.bad(
                f"tensor {info.name}: rows of {info.shape[0]} do not fill {info.qtype.name} blocks of {block}",
                tensor=info.name,
            )
        if offset % alignment:
            raise self.bad(f"tensor {info.name} lies at {offset}, not aligned to {alignment}", tensor=info.name)
        if info.offset + info.n_bytes > self.size:
            raise self.bad(
                f"tensor {info.name} ends at byte {info.offset + info.n_bytes}, the file has {self.size}. "
                "It is truncated: copy or convert it again",
                tensor=info.name,
                expected=info.offset + info.n_bytes,
                found=self.size,
            )
        return info
