"""Conversations: a list, a tree of messages in each, presets and settings."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .database import Database, Row
from .records import Conversation, Message, NotFoundError, Role, Status

if TYPE_CHECKING:
    from typing_extensions import Self

FILE = "chats.db"
KEEP_DELETED = 30 * 86400.0  # seconds in the bin before a purge
COLUMNS = "id, title, folder, pinned, system_prompt, settings, head_id, created_at, updated_at, deleted_at"
MESSAGE = "id, conversation_id, parent_id, role, content, status, stats, created_at"


class Store:
    """The conversations of one data directory. Methods may be called from any thread.

    Opening it marks replies that a dead process left unfinished as interrupted, and empties the
    bin of what is older than 30 days. Every method that names something raises NotFoundError when
    it is not there.

    Args:
        directory: that holds chats.db; see paths.open_data_dir.

    Raises:
        FileError: the file is no store, or of a newer version.
    """

    def __init__(self, directory: Path) -> None:
        self.db = Database(directory / FILE)
        if self.db.alone:
            self.db.run("UPDATE message SET status = 'interrupted' WHERE status = 'streaming'")
            self.purge(older_than=KEEP_DELETED)

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- conversations ------------------------------------------------------

    def create(
        self, title: str = "", *, folder: str = "", system_prompt: str = "", settings: Mapping[str, Any] | None = None
    ) -> Conversation:
        """A new, empty conversation."""
        now = time.time()
        new = self.db.insert(
            "INSERT INTO conversation(title, folder, system_prompt, settings, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (title, folder, system_prompt, _json(settings or {}), now, now),
        )
        return self.conversation(new)

    def conversation(self, key: int, *, deleted: bool = False) -> Conversation:
        """One conversation; those in the bin only if `deleted`."""
        row = self.db.row(f"SELECT {COLUMNS} FROM conversation WHERE id = ?", (key,))
        if row is None or (row["deleted_at"] is not None and not deleted):
            raise NotFoundError("conversation", key)
        return _conversation(row)

    def conversations(self, *, deleted: bool = False) -> list[Conversation]:
        """All that are not in the bin (or, if `deleted`, that are), pinned ones first, then by time."""
        rows = self.db.rows(
            f"SELECT {COLUMNS} FROM conversation WHERE (deleted_at IS NOT NULL) = ? "
            "ORDER BY pinned DESC, updated_at DESC, id DESC",
            (deleted,),
        )
        return [_conversation(row) for row in rows]

    def update(self, key: int, **changes: Any) -> Conversation:
        """Change title, folder, pinned, system_prompt or settings."""
        allowed = {"title", "folder", "pinned", "system_prompt", "settings"}
        assert changes.keys() <= allowed, changes.keys()
        if "settings" in changes:
            changes["settings"] = _json(changes["settings"])
        if changes:
            names = ", ".join(f"{name} = ?" for name in changes)
            self.conversation(key)
            self.db.run(f"UPDATE conversation SET {names} WHERE id = ?", (*changes.values(), key))
        return self.conversation(key)

    def delete(self, key: int) -> None:
        """Into the bin; restore() brings it back."""
        self.conversation(key)
        self.db.run("UPDATE conversation SET deleted_at = ? WHERE id = ?", (time.time(), key))

    def restore(self, key: int) -> Conversation:
        """Out of the bin again."""
        self.conversation(key, deleted=True)
        self.db.run("UPDATE conversation SET deleted_at = NULL WHERE id = ?", (key,))
        return self.conversation(key)

    def purge(self, *, older_than: float = 0.0) -> int:
        """Forget for good what has been in the bin for more than `older_than` seconds; returns how many."""
        before = time.time() - older_than
        with self.db.transaction():
            self.db.run("DELETE FROM message WHERE deleted_at <= ?", (before,))
            return self.db.run("DELETE FROM conversation WHERE deleted_at <= ?", (before,))

    # --- messages -----------------------------------------------------------

    def add(
        self,
        conversation: int,
        role: Role,
        content: str,
        *,
        parent: int | None,
        status: Status = "complete",
        stats: Mapping[str, Any] | None = None,
        created_at: float | None = None,
    ) -> Message:
        """Append a message below `parent` (None = at the root) and make it the head."""
        now = time.time()
        with self.db.transaction():
            self.conversation(conversation)
            if parent is not None and self.message(parent).conversation_id != conversation:
                raise NotFoundError("message", parent)
            new = self.db.insert(
                "INSERT INTO message(conversation_id, parent_id, role, content, status, stats, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (conversation, parent, role, content, status, _json(stats or {}), created_at or now),
            )
            self.db.run("UPDATE conversation SET head_id = ?, updated_at = ? WHERE id = ?", (new, now, conversation))
        return self.message(new)

    def message(self, key: int) -> Message:
        """One message, with its siblings."""
        row = self.db.row(f"SELECT {MESSAGE} FROM message WHERE id = ? AND deleted_at IS NULL", (key,))
        if row is None:
            raise NotFoundError("message", key)
        return _message(row, self._siblings(row["conversation_id"], row["parent_id"]))

    def _siblings(self, conversation: int, parent: int | None) -> tuple[int, ...]:
        rows = self.db.rows(
            "SELECT id FROM message WHERE conversation_id = ? AND parent_id IS ? AND deleted_at IS NULL ORDER BY id",
            (conversation, parent),
        )
        return tuple(row["id"] for row in rows)

    def path(self, conversation: int, head: int | None = None) -> list[Message]:
        """The branch that ends at `head` (None = the one that is shown), first message first."""
        head = self.conversation(conversation).head_id if head is None else head
        rows = self.db.rows(
            f"WITH RECURSIVE up(id, parent_id, depth) AS ("
            "  SELECT id, parent_id, 0 FROM message WHERE id = ? AND conversation_id = ? UNION ALL"
            "  SELECT m.id, m.parent_id, depth + 1 FROM message m JOIN up ON m.id = up.parent_id) "
            f"SELECT {', '.join('m.' + c for c in MESSAGE.split(', '))}, "
            "(SELECT group_concat(s.id) FROM message s WHERE s.conversation_id = m.conversation_id "
            " AND s.parent_id IS m.parent_id AND s.deleted_at IS NULL) AS siblings "
            "FROM up JOIN message m ON m.id = up.id ORDER BY up.depth DESC",
            (head, conversation),
        )
        return [_message(row, _ids(row["siblings"])) for row in rows]

    def select(self, key: int) -> list[Message]:
        """Show the branch through message `key`, down to its newest end; returns that branch."""
        message = self.message(key)
        row = self.db.row(
            "WITH RECURSIVE down(id) AS (SELECT ? UNION ALL SELECT "
            "  (SELECT max(id) FROM message WHERE parent_id = down.id AND deleted_at IS NULL)"
            "  FROM down WHERE down.id IS NOT NULL) SELECT id FROM down WHERE id IS NOT NULL ORDER BY id DESC LIMIT 1",
            (key,),
        )
        assert row is not None
        self.set_head(message.conversation_id, row["id"])
        return self.path(message.conversation_id)

    def set_head(self, conversation: int, head: int | None) -> None:
        """Show the branch that ends at `head`."""
        self.db.run("UPDATE conversation SET head_id = ? WHERE id = ?", (head, conversation))

    def write(
        self, key: int, content: str, *, status: Status = "streaming", stats: Mapping[str, Any] | None = None
    ) -> None:
        """Replace the text and status of a message; `stats` None leaves them."""
        with self.db.transaction():
            self.db.run("UPDATE message SET content = ?, status = ? WHERE id = ?", (content, status, key))
            if stats is not None:
                self.db.run("UPDATE message SET stats = ? WHERE id = ?", (_json(stats), key))

    def delete_message(self, key: int) -> float:
        """Put a message and all below it into the bin; returns the stamp that restore_messages takes."""
        message, stamp = self.message(key), time.time()
        with self.db.transaction():
            self.db.run(
                "WITH RECURSIVE down(id) AS (SELECT ? UNION ALL SELECT m.id FROM message m JOIN down "
                "ON m.parent_id = down.id) UPDATE message SET deleted_at = ? WHERE id IN down AND deleted_at IS NULL",
                (key, stamp),
            )
            self._move_head(message)
        return stamp

    def _move_head(self, gone: Message) -> None:
        """The shown branch ends in `gone` or below: show the newest sibling's branch, else end at the parent."""
        others = [key for key in gone.siblings if key != gone.id]
        if others:
            self.select(others[-1])
        else:
            self.set_head(gone.conversation_id, gone.parent_id)

    def restore_messages(self, conversation: int, stamp: float) -> list[Message]:
        """Undo delete_message; returns the shown branch."""
        row = self.db.row(
            "SELECT min(id) AS id FROM message WHERE conversation_id = ? AND deleted_at = ?", (conversation, stamp)
        )
        if row is None or row["id"] is None:
            raise NotFoundError("deleted message", stamp)
        self.db.run(
            "UPDATE message SET deleted_at = NULL WHERE conversation_id = ? AND deleted_at = ?", (conversation, stamp)
        )
        return self.select(row["id"])

    def all_messages(self, conversation: int) -> list[Message]:
        """Every message of every branch, oldest first, without siblings."""
        rows = self.db.rows(
            f"SELECT {MESSAGE} FROM message WHERE conversation_id = ? AND deleted_at IS NULL ORDER BY id",
            (conversation,),
        )
        return [_message(row, ()) for row in rows]

    # --- what belongs to a reply --------------------------------------------

    def set_trace(self, message: int, trace: object) -> None:
        """Keep what each token of a reply was like (JSON)."""
        data = zlib.compress(_json(trace).encode(), 1)
        self.db.run("INSERT OR REPLACE INTO trace(message_id, data) VALUES (?, ?)", (message, data))

    def trace(self, message: int) -> Any:
        """What set_trace kept; None when there is nothing."""
        row = self.db.row("SELECT data FROM trace WHERE message_id = ?", (message,))
        return None if row is None else json.loads(zlib.decompress(row["data"]))

    def set_comparison(self, message: int, content: str, stats: Mapping[str, Any]) -> None:
        """Keep what another mode answered to the same prompt."""
        self.db.run(
            "INSERT OR REPLACE INTO comparison(message_id, content, stats) VALUES (?, ?, ?)",
            (message, content, _json(stats)),
        )

    def comparison(self, message: int) -> dict[str, Any] | None:
        """{content, stats} of the last comparison, if there was one."""
        row = self.db.row("SELECT content, stats FROM comparison WHERE message_id = ?", (message,))
        return None if row is None else {"content": row["content"], "stats": json.loads(row["stats"])}

    # --- presets and settings -----------------------------------------------

    def presets(self) -> list[dict[str, Any]]:
        """Named system prompts with settings, by name."""
        rows = self.db.rows("SELECT id, name, system_prompt, settings FROM preset ORDER BY name COLLATE NOCASE")
        return [{**dict(row), "settings": json.loads(row["settings"])} for row in rows]

    def save_preset(self, name: str, system_prompt: str, settings: Mapping[str, Any]) -> None:
        """Make a preset, or replace the one of that name."""
        self.db.run(
            "INSERT INTO preset(name, system_prompt, settings) VALUES (?, ?, ?) ON CONFLICT(name) DO UPDATE "
            "SET system_prompt = excluded.system_prompt, settings = excluded.settings",
            (name, system_prompt, _json(settings)),
        )

    def delete_preset(self, key: int) -> None:
        """Forget a preset."""
        if not self.db.run("DELETE FROM preset WHERE id = ?", (key,)):
            raise NotFoundError("preset", key)

    def settings(self) -> dict[str, Any]:
        """Of the application: theme, recent files, defaults of a new conversation."""
        return {row["key"]: json.loads(row["value"]) for row in self.db.rows("SELECT key, value FROM setting")}

    def set_setting(self, key: str, value: object) -> None:
        """Keep one of them."""
        self.db.run("INSERT OR REPLACE INTO setting(key, value) VALUES (?, ?)", (key, _json(value)))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _ids(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(item) for item in text.split(",")))


def _conversation(row: Row) -> Conversation:
    values = dict(row)
    return Conversation(**{**values, "pinned": bool(values["pinned"]), "settings": json.loads(values["settings"])})


def _message(row: Row, siblings: tuple[int, ...]) -> Message:
    values = {name: row[name] for name in MESSAGE.split(", ")}
    return Message(**{**values, "stats": json.loads(values["stats"]), "siblings": siblings})
