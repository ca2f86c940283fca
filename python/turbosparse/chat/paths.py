"""Where the chat keeps its things."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import FileError


def default_data_dir() -> Path:
    """The platform's place for an application's data, as its conventions have it."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "turbosparse"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "turbosparse"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "turbosparse"


def open_data_dir(path: Path | None) -> Path:
    """`path`, else the default, made if it is not there and closed to other users (0700)."""
    chosen = path or default_data_dir()
    try:
        chosen.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise FileError(
            f"the data directory {chosen} cannot be made: {error.strerror}; name another with --data-dir",
            where=str(chosen),
            expected="a directory that can be written",
            found=str(error.strerror),
        ) from error
    return chosen
