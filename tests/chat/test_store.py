from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest
from turbosparse.chat.records import NotFoundError
from turbosparse.chat.schema import VERSION, migrate
from turbosparse.chat.store import FILE, Store
from turbosparse.errors import FileError


def talk(store: Store, *texts: str) -> tuple[int, list[int]]:
    """A conversation of alternating messages: its id and theirs."""
    conversation, parent, ids = store.create("talk").id, None, []
    for i, text in enumerate(texts):
        parent = store.add(conversation, "assistant" if i % 2 else "user", text, parent=parent).id
        ids.append(parent)
    return conversation, ids


def contents(store: Store, conversation: int) -> list[str]:
    return [message.content for message in store.path(conversation)]


def test_a_branch_keeps_its_siblings(store: Store) -> None:
    key, (first, answer) = talk(store, "question", "answer")
    other = store.add(key, "assistant", "another answer", parent=first)
    assert contents(store, key) == ["question", "another answer"]
    assert store.path(key)[1].siblings == (answer, other.id)
    store.select(answer)
    assert contents(store, key) == ["question", "answer"]
    edited = store.add(key, "user", "edited question", parent=None)
    assert contents(store, key) == ["edited question"]
    assert edited.siblings == (first, edited.id)


def test_select_goes_down_to_the_newest_end(store: Store) -> None:
    key, ids = talk(store, "a", "b", "c", "d")
    store.add(key, "user", "C", parent=ids[1])
    store.select(ids[2])
    assert contents(store, key) == ["a", "b", "c", "d"]
    store.select(ids[0])
    assert contents(store, key) == ["a", "b", "C"]


def test_parent_of_another_conversation_is_refused(store: Store) -> None:
    _, ids = talk(store, "a")
    with pytest.raises(NotFoundError):
        store.add(store.create("other").id, "user", "b", parent=ids[0])


def test_delete_and_undo_of_a_conversation(store: Store) -> None:
    key, _ = talk(store, "a", "b")
    store.delete(key)
    assert store.conversations() == []
    assert [c.id for c in store.conversations(deleted=True)] == [key]
    with pytest.raises(NotFoundError):
        store.conversation(key)
    store.restore(key)
    assert contents(store, key) == ["a", "b"]
    store.delete(key)
    assert store.purge() == 1
    with pytest.raises(NotFoundError):
        store.restore(key)
    assert store.db.rows("SELECT id FROM message") == []


def test_the_bin_is_emptied_only_of_what_is_old(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        old, new = store.create("old").id, store.create("new").id
        store.delete(old)
        store.delete(new)
        store.db.run("UPDATE conversation SET deleted_at = deleted_at - 31 * 86400 WHERE id = ?", (old,))
    with Store(tmp_path) as store:
        assert [c.id for c in store.conversations(deleted=True)] == [new]


def test_delete_and_undo_of_a_message(store: Store) -> None:
    key, ids = talk(store, "a", "b", "c", "d")
    stamp = store.delete_message(ids[2])
    assert contents(store, key) == ["a", "b"]
    assert store.path(key)[-1].siblings == (ids[1],)
    store.restore_messages(key, stamp)
    assert contents(store, key) == ["a", "b", "c", "d"]
    with pytest.raises(NotFoundError):
        store.restore_messages(key, stamp)


def test_deleting_one_of_two_branches_shows_the_other(store: Store) -> None:
    key, ids = talk(store, "a", "b", "c")
    other = store.add(key, "assistant", "B", parent=ids[0])
    store.delete_message(other.id)
    assert contents(store, key) == ["a", "b", "c"]


def test_update_changes_only_what_is_named(store: Store) -> None:
    made = store.create("title", system_prompt="be kind", settings={"seed": 1})
    changed = store.update(made.id, pinned=True, folder="work")
    assert (changed.title, changed.system_prompt, changed.settings) == ("title", "be kind", {"seed": 1})
    assert (changed.pinned, changed.folder) == (True, "work")
    assert store.conversations()[0].id == made.id


def test_pinned_ones_come_first_then_the_newest(store: Store) -> None:
    keys = [store.create(str(i)).id for i in range(3)]
    store.update(keys[0], pinned=True)
    store.add(keys[1], "user", "hello", parent=None)
    assert [c.id for c in store.conversations()] == [keys[0], keys[1], keys[2]]


def test_unfinished_replies_are_marked_when_nobody_writes_them(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        key, (first,) = talk(store, "question")
        reply = store.add(key, "assistant", "", parent=first, status="streaming")
        store.write(reply.id, "half an ans")
        with Store(tmp_path) as second:  # a second window does not touch what the first one writes
            assert second.message(reply.id).status == "streaming"
    with Store(tmp_path) as store:
        message = store.message(reply.id)
        assert (message.content, message.status) == ("half an ans", "interrupted")


def test_traces_and_comparisons_and_presets(store: Store) -> None:
    _, (first, answer) = talk(store, "q", "a")
    assert store.trace(answer) is None
    store.set_trace(answer, [["a", 0.5]])
    store.set_comparison(answer, "b", {"mode": "dense"})
    assert store.trace(answer) == [["a", 0.5]]
    assert store.comparison(answer) == {"content": "b", "stats": {"mode": "dense"}}
    assert store.comparison(first) is None
    store.save_preset("terse", "Be terse.", {"temperature": 0.1})
    store.save_preset("terse", "Be very terse.", {})
    [preset] = store.presets()
    assert preset["system_prompt"] == "Be very terse."
    store.delete_preset(preset["id"])
    with pytest.raises(NotFoundError):
        store.delete_preset(preset["id"])
    store.set_setting("theme", "dark")
    assert store.settings() == {"theme": "dark"}


def test_file_is_private(tmp_path: Path) -> None:
    with Store(tmp_path):
        assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database at all, but long enough to be one" * 100)
    with pytest.raises(FileError, match="cannot be opened as a conversation store"):
        Store(tmp_path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.db.run(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(FileError, match="newer turbosparse"):
        Store(tmp_path)


def test_migration_copies_the_file_first_and_leaves_it_alone_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, path, ("CREATE TABLE t(a);",))
    db.execute("INSERT INTO t VALUES (7)")
    with pytest.raises(FileError, match="left as it was"):
        migrate(db, path, ("", "CREATE TABLE u(a); NONSENSE;"))
    assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]
    migrate(db, path, ("", "ALTER TABLE t ADD COLUMN b DEFAULT 8;"))
    assert db.execute("SELECT * FROM t").fetchall() == [(7, 8)]
    assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()
    copy = sqlite3.connect(sorted(tmp_path.glob("x.db.v1-*.bak"))[-1])
    assert copy.execute("SELECT * FROM t").fetchall() == [(7,)]
    copy.close()
