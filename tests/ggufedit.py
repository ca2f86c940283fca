"""A GGUF v3 file as an editable list of keys and tensors, for tests that break one thing at a time.

Nothing is checked on writing: names may repeat, offsets may point anywhere, values may be nonsense.
Independent of the `gguf` package and of the engine's parser. Little endian.
"""

from __future__ import annotations

import copy
import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
_FORMAT = {
    U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?",
    U64: "<Q", I64: "<q", F64: "<d",
}  # fmt: skip
TYPE_F32, TYPE_F16, TYPE_Q4_0, TYPE_Q8_0, TYPE_I32 = 0, 1, 2, 8, 26


@dataclasses.dataclass
class Key:
    """`kind` is a GGUF value type; for an array `element` is its elements' type and `value` a list."""

    name: str | bytes
    kind: int
    value: Any
    element: int = -1


@dataclasses.dataclass
class Tensor:
    """`shape` is in ggml's order; `offset` overrides the one that packing would give; `nbytes` of data may lie."""

    name: str | bytes
    shape: list[int]
    type: int
    data: bytes
    offset: int | None = None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def scalar(self, kind: int) -> Any:
        value = struct.unpack_from(_FORMAT[kind], self.data, self.at)[0]
        self.at += struct.calcsize(_FORMAT[kind])
        return value

    def text(self) -> str:
        n = self.scalar(U64)
        self.at += n
        return self.data[self.at - n : self.at].decode()

    def value(self, kind: int) -> tuple[Any, int]:
        if kind == STR:
            return self.text(), -1
        if kind != ARR:
            return self.scalar(kind), -1
        element, n = self.scalar(U32), self.scalar(U64)
        return [self.value(element)[0] for _ in range(n)], element


def _text(s: str | bytes) -> bytes:
    raw = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: int, value: Any, element: int) -> bytes:
    if isinstance(value, bytes):  # raw, for what cannot be expressed
        return value
    if kind == STR:
        return _text(value)
    if kind == ARR:
        return struct.pack("<IQ", element, len(value)) + b"".join(_value(element, v, -1) for v in value)
    return struct.pack(_FORMAT[kind], value)


class GgufEdit:
    """Read with `GgufEdit(path)`, change `.keys` and `.tensors`, then `.write(path)`."""

    def __init__(self, path: str | Path) -> None:
        r = _Reader(Path(path).read_bytes())
        assert r.data[:4] == b"GGUF"
        r.at = 4
        self.magic, self.version = b"GGUF", r.scalar(U32)
        n_tensors, n_keys = r.scalar(U64), r.scalar(U64)
        self.n_tensors: int | None = None  # what the header says, None = the truth
        self.n_keys: int | None = None
        self.keys: list[Key] = []
        for _ in range(n_keys):
            name, kind = r.text(), r.scalar(U32)
            value, element = r.value(kind)
            self.keys.append(Key(name, kind, value, element))
        infos = []
        for _ in range(n_tensors):
            name = r.text()
            shape = [r.scalar(U64) for _ in range(r.scalar(U32))]
            infos.append((name, shape, r.scalar(U32), r.scalar(U64)))
        self.header_size = r.at
        base = r.at + -r.at % self.alignment
        ends = sorted({offset for *_, offset in infos} | {len(r.data) - base})
        self.tensors: list[Tensor] = []
        for name, shape, kind, offset in infos:
            size = ends[ends.index(offset) + 1] - offset
            self.tensors.append(Tensor(name, shape, kind, r.data[base + offset : base + offset + size]))

    @property
    def alignment(self) -> int:
        found = [k.value for k in self.keys if k.name == "general.alignment"]
        return int(found[0]) if found and isinstance(found[0], int) and found[0] > 0 else 32

    def copy(self) -> GgufEdit:
        return copy.deepcopy(self)

    def key(self, name: str) -> Key:
        return next(k for k in self.keys if k.name == name)

    def tensor(self, name: str) -> Tensor:
        return next(t for t in self.tensors if t.name == name)

    def set(self, name: str, value: Any, kind: int | None = None, element: int = -1) -> None:
        """Change a key's value (and type), or append a new key."""
        for key in self.keys:
            if key.name == name:
                key.value = value
                key.kind = key.kind if kind is None else kind
                key.element = key.element if element < 0 else element
                return
        assert kind is not None, f"new key {name} needs a type"
        self.keys.append(Key(name, kind, value, element))

    def drop_key(self, name: str) -> None:
        self.keys.remove(self.key(name))

    def drop_tensor(self, name: str) -> None:
        self.tensors.remove(self.tensor(name))

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Writable float32 or int32 view [rows, ne0] of an F32 or I32 tensor's data; write it back by `set_array`."""
        t = self.tensor(name)
        n = int(np.prod(t.shape))
        kind = {TYPE_F32: np.float32, TYPE_I32: np.int32}[t.type]
        return np.frombuffer(t.data, kind, n).reshape(t.shape[::-1]).copy()

    def set_array(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self.tensor(name).data = array.tobytes()

    def add_array(self, name: str, array: np.ndarray[Any, Any]) -> None:
        kind = {"float32": TYPE_F32, "int32": TYPE_I32}[array.dtype.name]
        self.tensors.append(Tensor(name, list(array.shape[::-1]), kind, array.tobytes()))

    def write(self, path: str | Path) -> Path:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        out = [self.magic, struct.pack("<IQQ", self.version, n_tensors, n_keys)]
        out += [_text(k.name) + struct.pack("<I", k.kind) + _value(k.kind, k.value, k.element) for k in self.keys]
        offset, blobs = 0, []
        for t in self.tensors:
            out.append(_text(t.name) + struct.pack("<I", len(t.shape)) + struct.pack(f"<{len(t.shape)}Q", *t.shape))
            out.append(struct.pack("<IQ", t.type, offset if t.offset is None else t.offset))
            blobs.append(t.data + bytes(-len(t.data) % self.alignment))
            offset += len(blobs[-1])
        header = b"".join(out)
        Path(path).write_bytes(header + bytes(-len(header) % self.alignment) + b"".join(blobs))
        return Path(path)
