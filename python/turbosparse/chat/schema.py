"""Tables of the conversation store, and how an older file becomes a newer one."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timezone
from pathlib import Path

from ..errors import FileError

_V1 = """
CREATE TABLE conversation (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    title         TEXT NOT NULL DEFAULT '',
    folder        TEXT NOT NULL DEFAULT '',
    pinned        INTEGER NOT NULL DEFAULT 0,
    system_prompt TEXT NOT NULL DEFAULT '',
    settings      TEXT NOT NULL DEFAULT '{}',   -- JSON: sampling, mode, model
    head_id       INTEGER REFERENCES message(id) ON DELETE SET NULL,
    created_at    REAL NOT NULL,                -- seconds since 1970, as everywhere below
    updated_at    REAL NOT NULL,
    deleted_at    REAL
);
CREATE INDEX conversation_by_time ON conversation(deleted_at, updated_at DESC);

CREATE TABLE message (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation_id INTEGER NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
    parent_id       INTEGER REFERENCES message(id) ON DELETE CASCADE,
    role            TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    content         TEXT NOT NULL DEFAULT '',
    status          TEXT NOT NULL CHECK (status IN ('complete', 'streaming', 'stopped', 'interrupted', 'failed')),
    stats           TEXT NOT NULL DEFAULT '{}', -- JSON: model, mode, seed, timings, sparsity, error
    created_at      REAL NOT NULL,
    deleted_at      REAL
);
CREATE INDEX message_by_conversation ON message(conversation_id, parent_id);
CREATE INDEX message_by_parent ON message(parent_id);
CREATE INDEX message_by_status ON message(status) WHERE status = 'streaming';

CREATE TABLE trace (                            -- what each token of a reply was like: zlib of JSON
    message_id INTEGER PRIMARY KEY REFERENCES message(id) ON DELETE CASCADE,
    data       BLOB NOT NULL
);
CREATE TABLE comparison (                       -- the same prompt and seed in another mode
    message_id INTEGER PRIMARY KEY REFERENCES message(id) ON DELETE CASCADE,
    content    TEXT NOT NULL,
    stats      TEXT NOT NULL
);
CREATE TABLE preset (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT NOT NULL UNIQUE,
    system_prompt TEXT NOT NULL DEFAULT '',
    settings      TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE VIRTUAL TABLE message_text USING fts5(
    content, content='message', content_rowid='id', tokenize='unicode61 remove_diacritics 2', prefix='1 2 3'
);
CREATE VIRTUAL TABLE title_text USING fts5(
    title, content='conversation', content_rowid='id', tokenize='unicode61 remove_diacritics 2', prefix='1 2 3'
);
-- A reply is indexed once it has ended, not at every flush.
CREATE TRIGGER message_insert AFTER INSERT ON message WHEN new.status <> 'streaming' BEGIN
    INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER message_delete AFTER DELETE ON message WHEN old.status <> 'streaming' BEGIN
    INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
END;
CREATE TRIGGER message_leave AFTER UPDATE OF content, status ON message WHEN old.status <> 'streaming' BEGIN
    INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
END;
CREATE TRIGGER message_enter AFTER UPDATE OF content, status ON message WHEN new.status <> 'streaming' BEGIN
    INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER title_insert AFTER INSERT ON conversation BEGIN
    INSERT INTO title_text(rowid, title) VALUES (new.id, new.title);
END;
CREATE TRIGGER title_delete AFTER DELETE ON conversation BEGIN
    INSERT INTO title_text(title_text, rowid, title) VALUES ('delete', old.id, old.title);
END;
CREATE TRIGGER title_update AFTER UPDATE OF title ON conversation BEGIN
    INSERT INTO title_text(title_text, rowid, title) VALUES ('delete', old.id, old.title);
    INSERT INTO title_text(rowid, title) VALUES (new.id, new.title);
END;
"""

MIGRATIONS = (_V1,)  # MIGRATIONS[i] makes version i + 1 of version i
VERSION = len(MIGRATIONS)


def migrate(db: sqlite3.Connection, path: Path, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Bring `db` to the newest version; a file with content is copied aside first.

    Raises:
        FileError: the file was written by a newer turbosparse, or is no conversation store.
    """
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > len(migrations):
        raise FileError(
            f"{path} was written by a newer turbosparse (schema {found}, this one knows {len(migrations)}); "
            "update turbosparse, or name another --data-dir",
            where=str(path),
            expected=f"schema <= {len(migrations)}",
            found=str(found),
        )
    if 0 < found < len(migrations):
        _backup(db, path, found)
    for version in range(found, len(migrations)):
        script = f"BEGIN IMMEDIATE;\n{migrations[version]}\nPRAGMA user_version = {version + 1};\nCOMMIT;"
        try:
            db.executescript(script)
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise FileError(
                f"{path} cannot be brought to schema {version + 1}: {error}; it was left as it was",
                where=str(path),
                expected=f"schema {version + 1}",
                found=str(version),
            ) from error


def _backup(db: sqlite3.Connection, path: Path, version: int) -> None:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
    target = path.with_name(f"{path.name}.v{version}-{stamp}.bak")
    with sqlite3.connect(target) as copy:
        db.backup(copy)
    copy.close()
    target.chmod(0o600)
