"""One SQLite file, shared by the threads of this process and by several processes."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import FileError
from .schema import migrate

if TYPE_CHECKING:
    from typing_extensions import Self

Row = sqlite3.Row


class Database:
    """A connection with a lock around it: statements are short, so threads take turns.

    WAL, synchronous=NORMAL: what was committed survives the death of the process, and a power cut
    loses at most the last moments, never the file.

    Args:
        path: of the file; made, readable by its owner alone, if it is not there.

    Raises:
        FileError: no SQLite file, or one of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        existed = path.exists()
        try:
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
            self._db.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "cache_size = -32000"):
                self._db.execute(f"PRAGMA {pragma}")
            migrate(self._db, path)
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(
                f"{path} cannot be opened as a conversation store: {error}; move it away or name another --data-dir",
                where=str(path),
                expected="a SQLite file" if existed else "a directory that can be written",
                found=str(error),
            ) from error
        self.alone = self._claim(path.with_name(path.name + ".lock"))

    def _claim(self, path: Path) -> bool:
        """Whether no other process has this store open; then everybody holds a shared lock until close."""
        self._claimed = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            import fcntl
        except ImportError:  # not POSIX: the window is the only one
            return True
        try:
            fcntl.flock(self._claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError:
            alone = False
        fcntl.flock(self._claimed, fcntl.LOCK_SH)
        return alone

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            self._db.close()
            if self._claimed >= 0:
                os.close(self._claimed)
                self._claimed = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row, if there is one."""
        with self._lock:
            row: Row | None = self._db.execute(sql, values).fetchone()
            return row

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Execute one statement; returns how many rows it changed."""
        with self._lock:
            return self._db.execute(sql, values).rowcount

    def insert(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Execute an INSERT; returns the new id."""
        with self._lock:
            new = self._db.execute(sql, values).lastrowid
            assert new is not None
            return new

    def many(self, sql: str, values: Iterator[Sequence[Any]]) -> None:
        """Execute one statement for each of `values`."""
        with self._lock:
            self._db.executemany(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; may be nested, the outermost one counts."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
