"""The token that clients must show: made once, kept where only its owner can read it."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from ..errors import FileError

SHORTEST = 16  # characters


def data_directory() -> Path:
    """$XDG_DATA_HOME/turbosparse, made with mode 0700 when it is missing."""
    root = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    directory = Path(root) / "turbosparse"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def token_path() -> Path:
    """Where stored_token keeps it unless told otherwise."""
    return data_directory() / "token"


def stored_token(path: Path | None = None) -> str:
    """The token in `path` (default: token_path()), made when the file is missing.

    Raises:
        FileError: it cannot be read or written, others can read it, or it holds no token.
    """
    path = path or token_path()
    try:
        _create(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise _unusable(path, "others can read it", f"chmod 600 {path}")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileError):
            raise
        raise _unusable(path, str(error), "check its permissions") from error
    if len(token) < SHORTEST:
        raise _unusable(path, f"it holds fewer than {SHORTEST} characters", "delete it")
    return token


def _create(path: Path) -> None:
    """A new token in `path` unless there is one; whole or not at all, also when two processes start at once."""
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        os.link(draft, path)  # fails where another process was faster, whose token then counts
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _unusable(path: Path, reason: str, remedy: str) -> FileError:
    return FileError(
        f"the token file {path} cannot be used: {reason}. To mend it: {remedy}.",
        where=str(path),
        expected="a file with mode 0600",
        found=reason,
    )
