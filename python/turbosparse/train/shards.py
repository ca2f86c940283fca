"""Token shards on disk: flat little-endian arrays that are mapped into memory, and a meta.json that describes them.

meta.json          {"tokenizer", "n_vocab", "dtype", "separator", "streams": {NAME: {"file", "tokens", "sha256",
                   "licence", "package", "weight", "heldout": {"file", "tokens", "sha256"}}}}
NAME.bin           documents joined by the separator token
heldout-NAME.bin   never trained on
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

META = "meta.json"
DTYPES = {"uint16": "<u2", "uint32": "<u4"}
Tokens = npt.NDArray[np.unsignedinteger[Any]]


class ShardError(Exception):
    """Shards that are broken or belong to another model. `data` holds what the message says; exit code 4."""

    exit_code = 4

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = data


def vocabulary_sha256(tokens: Iterable[str | bytes]) -> str:
    """Identity of a vocabulary: sha256 over its tokens in order of id, UTF-8, each followed by a zero byte."""
    digest = hashlib.sha256()
    for token in tokens:
        digest.update(token.encode("utf-8", "surrogateescape") if isinstance(token, str) else token)
        digest.update(b"\0")
    return digest.hexdigest()


def dtype_name(n_vocab: int) -> str:
    """The smallest type that holds every id."""
    return "uint16" if n_vocab <= 1 << 16 else "uint32"


class Shards:
    """An opened directory. Raises ShardError when a file is missing, has another size, or holds an id >= n_vocab."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.meta = _read_meta(self.path)
        self.n_vocab = int(self.meta["n_vocab"])
        self.tokenizer: str = self.meta["tokenizer"]
        streams: dict[str, dict[str, Any]] = self.meta["streams"]
        self._streams = {name: self._open(entry) for name, entry in streams.items()}
        self._heldout = {name: self._open(entry["heldout"]) for name, entry in streams.items() if "heldout" in entry}

    @property
    def streams(self) -> dict[str, Tokens]:
        """Name -> training tokens, memory-mapped [n]."""
        return dict(self._streams)

    @property
    def heldout_names(self) -> list[str]:
        """Streams that have a held-out part."""
        return sorted(self._heldout)

    @property
    def weights(self) -> dict[str, float]:
        """The mixture's weights, of streams that have tokens."""
        streams = self.meta["streams"]
        return {name: float(streams[name].get("weight", 1.0)) for name, t in self._streams.items() if len(t)}

    def heldout(self, name: str) -> Tokens:
        """Held-out tokens of a stream, memory-mapped [n]; ShardError names those there are."""
        if name not in self._heldout:
            raise ShardError(
                f"{self.path} holds no held-out stream {name!r}; there are {', '.join(self.heldout_names) or 'none'}",
                stream=name,
                found=self.heldout_names,
            )
        return self._heldout[name]

    def sample(
        self, rng: np.random.Generator, batch: int, seq: int, weights: Mapping[str, float] | None = None
    ) -> npt.NDArray[np.int64]:
        """Windows [batch, seq + 1] at random places of streams drawn by `weights` (default: the mixture's)."""
        names, shares = self._choice(seq, self.weights if weights is None else weights)
        rows = np.empty((batch, seq + 1), dtype=np.int64)
        for row, k in zip(rows, rng.choice(len(names), size=batch, p=shares), strict=True):
            stream = self._streams[names[k]]
            at = int(rng.integers(0, len(stream) - seq))
            row[:] = stream[at : at + seq + 1]
        return rows

    def check(self, n_vocab: int, tokenizer_sha256: str | None = None) -> None:
        """Raises ShardError unless the shards were made with this vocabulary (see `vocabulary_sha256`)."""
        if n_vocab != self.n_vocab:
            raise ShardError(
                f"{self.path / META}: n_vocab is {self.n_vocab}, the model has {n_vocab}; "
                "make the shards again from this model",
                key="n_vocab",
                expected=n_vocab,
                found=self.n_vocab,
            )
        if tokenizer_sha256 is not None and tokenizer_sha256 != self.tokenizer:
            raise ShardError(
                f"{self.path / META}: tokenizer is {self.tokenizer[:12]}..., the model's vocabulary is "
                f"{tokenizer_sha256[:12]}...; make the shards again from this model",
                key="tokenizer",
                expected=tokenizer_sha256,
                found=self.tokenizer,
            )

    def verify(self) -> None:
        """Reads every file and compares its sha256 and its largest id; ShardError names the first that differs."""
        for entry in self.meta["streams"].values():
            for part in (entry, entry.get("heldout")):
                if part is not None:
                    self._verify(part)

    def _verify(self, entry: dict[str, Any]) -> None:
        path = self.path / entry["file"]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != entry["sha256"]:
            raise ShardError(f"{path}: sha256 is {found}, {META} says {entry['sha256']}; copy it again", path=str(path))
        tokens = self._open(entry)
        if len(tokens) and int(tokens.max()) >= self.n_vocab:
            raise ShardError(f"{path}: token {int(tokens.max())} is not below n_vocab {self.n_vocab}", path=str(path))

    def _open(self, entry: dict[str, Any]) -> Tokens:
        path = self.path / entry["file"]
        dtype = np.dtype(DTYPES[self.meta["dtype"]])
        expected = int(entry["tokens"]) * dtype.itemsize
        found = path.stat().st_size if path.is_file() else None
        if found != expected:
            size = "missing" if found is None else f"{found} bytes"
            raise ShardError(
                f"{path}: expected {expected} bytes, found {size}; prepare the shards again",
                path=str(path),
                expected=expected,
                found=found,
            )
        return np.memmap(path, dtype=dtype, mode="r") if expected else np.empty(0, dtype)

    def _choice(self, seq: int, weights: Mapping[str, float]) -> tuple[list[str], npt.NDArray[np.float64]]:
        names = sorted(name for name, weight in weights.items() if weight > 0)
        unknown = [name for name in names if name not in self._streams]
        if unknown:
            raise ShardError(f"{self.path} has no stream {unknown[0]!r}; there are {', '.join(sorted(self._streams))}")
        names = [name for name in names if len(self._streams[name]) > seq]
        if not names:
            longest = max((len(self._streams[n]) for n in self._streams), default=0)
            raise ShardError(
                f"{self.path}: no weighted stream is longer than {seq} tokens (the longest has {longest}); "
                "lower the sequence length or prepare more text",
                expected=seq + 1,
                found=longest,
            )
        shares = np.array([weights[name] for name in names], dtype=np.float64)
        return names, shares / shares.sum()


def _read_meta(path: Path) -> dict[str, Any]:
    file = path / META
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ShardError(f"{file} is missing; make it: python -m turbosparse.train.data", path=str(file)) from error
    except ValueError as error:
        raise ShardError(f"{file} is not JSON: {error}", path=str(file)) from error
    missing = {"tokenizer", "n_vocab", "dtype", "streams"} - set(meta if isinstance(meta, dict) else ())
    if missing:
        raise ShardError(f"{file}: the key {sorted(missing)[0]!r} is missing", path=str(file), key=sorted(missing)[0])
    if meta["dtype"] not in DTYPES:
        raise ShardError(f"{file}: dtype is {meta['dtype']!r}, expected uint16 or uint32", key="dtype")
    for entry in meta["streams"].values():
        for part in (entry, entry.get("heldout", entry)):
            if Path(part["file"]).name != part["file"]:  # a name, never a way out of the directory
                raise ShardError(f"{file}: {part['file']!r} is not a plain file name", key="file")
    return dict(meta)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


class ShardWriter:
    """Writes a directory; `close` writes meta.json last, so that a directory with one is complete."""

    def __init__(self, path: Path, tokenizer: str, n_vocab: int, separator: int) -> None:
        self.path = path
        self.meta: dict[str, Any] = {
            "tokenizer": tokenizer,
            "n_vocab": n_vocab,
            "dtype": dtype_name(n_vocab),
            "separator": separator,
            "streams": {},
        }
        path.mkdir(parents=True, exist_ok=True)
        (path / META).unlink(missing_ok=True)

    def add(self, name: str, tokens: Tokens, heldout: Tokens | None = None, **about: Any) -> None:
        """One stream; `about` goes into its entry (licence, package, weight)."""
        entry = {**self._write(f"{name}.bin", tokens), **about}
        if heldout is not None and len(heldout):
            entry["heldout"] = self._write(f"heldout-{name}.bin", heldout)
        self.meta["streams"][name] = entry

    def take(self, shards: Shards) -> None:
        """All streams of another directory, as links where the file system has them."""
        for name, entry in shards.meta["streams"].items():
            for part in (entry, entry.get("heldout")):
                if part is not None:
                    _link(shards.path / part["file"], self.path / part["file"])
            self.meta["streams"][name] = entry

    def close(self) -> None:
        """Writes meta.json."""
        (self.path / META).write_text(json.dumps(self.meta, indent=1) + "\n", encoding="utf-8")

    def _write(self, file: str, tokens: Tokens) -> dict[str, Any]:
        data = np.ascontiguousarray(tokens, dtype=DTYPES[self.meta["dtype"]]).tobytes()
        (self.path / file).write_bytes(data)
        return {"file": file, "tokens": len(tokens), "sha256": hashlib.sha256(data).hexdigest()}
