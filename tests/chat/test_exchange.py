"""Conversations out to files and back."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import pytest
from turbosparse.chat.export import as_json, as_markdown, file_name
from turbosparse.chat.importing import ImportFileError, import_bytes
from turbosparse.chat.store import Store

from tests.chat.conftest import Page
from tests.chat.test_store import contents, talk

CHATGPT: list[dict[str, Any]] = [
    {
        "title": "Volcanoes",
        "create_time": 1700000000.5,
        "update_time": 1700000100.5,
        "current_node": "d",
        "mapping": {
            "root": {"id": "root", "message": None, "parent": None, "children": ["s"]},
            "s": {
                "message": {"author": {"role": "system"}, "content": {"content_type": "text", "parts": [""]}},
                "parent": "root",
            },
            "a": {
                "message": {
                    "author": {"role": "user"},
                    "create_time": 1700000001.0,
                    "content": {"content_type": "text", "parts": ["Which is highest?"]},
                },
                "parent": "s",
            },
            "t": {
                "message": {"author": {"role": "tool"}, "content": {"content_type": "text", "parts": ["search"]}},
                "parent": "a",
            },
            "b": {
                "message": {
                    "author": {"role": "assistant"},
                    "content": {"content_type": "text", "parts": ["Ojos del Salado.", {"asset": 1}]},
                },
                "parent": "t",
            },
            "c": {
                "message": {
                    "author": {"role": "assistant"},
                    "content": {"content_type": "text", "parts": ["Llullaillaco?"]},
                },
                "parent": "a",
            },
            "d": {
                "message": {
                    "author": {"role": "user"},
                    "content": {"content_type": "text", "parts": ["Thanks"]},
                },
                "parent": "b",
            },
        },
    }
]


def full(store: Store) -> int:
    """A conversation that uses everything."""
    key, ids = talk(store, "question", "answer", "more", "much more")
    other = store.add(key, "assistant", "another", parent=ids[0], stats={"seed": 3}, status="stopped")
    store.set_trace(other.id, [[1, "another", 0.5, 0.1, [], [1]]])
    store.set_comparison(other.id, "dense says", {"mode": "dense"})
    store.update(key, folder="work", pinned=True, system_prompt="Be.", settings={"seed": 1})
    store.select(ids[1])
    return key


def without_ids(data: dict[str, Any]) -> Any:
    """Ids are the file's own; what they point at must be the same."""
    for conversation in data["conversations"]:
        order = {m["id"]: i for i, m in enumerate(conversation["messages"])}
        conversation["head_id"] = order[conversation["head_id"]]
        for message in conversation["messages"]:
            message["parent_id"] = None if message["parent_id"] is None else order[message["parent_id"]]
            message["id"] = order[message["id"]]
    return data


def test_json_comes_back_without_loss(store: Store) -> None:
    before = as_json(store, [full(store)])
    [new] = import_bytes(store, json.dumps(before).encode())
    assert without_ids(as_json(store, [new])) == without_ids(before)


def test_markdown_shows_the_branch(store: Store) -> None:
    key = full(store)
    text = as_markdown(store.conversation(key), store.path(key))
    assert "# talk" in text
    assert "## System\n\nBe." in text
    assert "## You\n\nquestion\n\n## Assistant\n\nanswer" in text
    assert "another" not in text


def test_chatgpt_export(store: Store) -> None:
    [key] = import_bytes(store, json.dumps(CHATGPT).encode())
    conversation = store.conversation(key)
    assert (conversation.title, conversation.created_at, conversation.updated_at) == (
        "Volcanoes",
        1700000000.5,
        1700000100.5,
    )
    assert contents(store, key) == ["Which is highest?", "Ojos del Salado.", "Thanks"]
    assert len(store.path(key)[1].siblings) == 2


def test_chatgpt_zip(store: Store) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("user.json", "{}")
        archive.writestr("conversations.json", json.dumps(CHATGPT))
    assert len(import_bytes(store, buffer.getvalue())) == 1


def test_llama_cpp_web_page(store: Store) -> None:
    exported = {
        "conv": {"id": "x", "name": "Hi", "currNode": "3"},
        "messages": [
            {"id": "0", "role": "system", "content": "Be kind.", "parent": None, "timestamp": 1},
            {"id": "1", "role": "user", "content": "hello", "parent": "0", "timestamp": 1700000000000},
            {"id": "2", "role": "assistant", "content": "a", "parent": "1", "timestamp": 1700000001000},
            {"id": "3", "role": "assistant", "content": "b", "parent": "1", "timestamp": 1700000002000},
        ],
    }
    [key] = import_bytes(store, json.dumps(exported).encode())
    assert contents(store, key) == ["hello", "b"]
    assert store.conversation(key).system_prompt == "Be kind."
    assert store.path(key)[0].created_at == 1700000000.0


def own(**message: Any) -> bytes:
    whole = {"id": 1, "parent_id": None, "role": "user", "content": "x", **message}
    data = {"format": "turbosparse-chat", "version": 1, "conversations": [{"title": "t", "messages": [whole]}]}
    return json.dumps(data).encode()


CYCLE = {
    "format": "turbosparse-chat",
    "version": 1,
    "conversations": [
        {"title": "fine", "messages": []},
        {
            "title": "cycle",
            "messages": [
                {"id": 1, "parent_id": 2, "role": "user", "content": "x"},
                {"id": 2, "parent_id": 1, "role": "user", "content": "y"},
            ],
        },
    ],
}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b"{}",
        b"PK\x03\x04 broken",
        b'{"format": "turbosparse-chat", "version": 99, "conversations": []}',
        b"[" * 100_000,
        own(role="tool"),
        own(content=5),
        json.dumps(CYCLE).encode(),
        json.dumps([{"mapping": {"a": 5}}]).encode(),
    ],
)
def test_anything_else_is_refused_whole(store: Store, data: bytes) -> None:
    with pytest.raises(ImportFileError):
        import_bytes(store, data)
    assert store.conversations() == []


def test_parents_may_stand_after_their_children(store: Store) -> None:
    messages = [
        {"id": 2, "parent_id": 1, "role": "assistant", "content": "b"},
        {"id": 1, "parent_id": None, "role": "user", "content": "a"},
    ]
    data = {"format": "turbosparse-chat", "version": 1, "conversations": [{"messages": messages, "head_id": 2}]}
    [key] = import_bytes(store, json.dumps(data).encode())
    assert contents(store, key) == ["a", "b"]


def test_over_http(page: Page) -> None:
    key = page.conversation(title="Über / naïve?")
    page.send(key, "say: exported text")
    markdown = page.client.get(f"/api/chat/conversations/{key}/export/md")
    assert "exported text" in markdown.text
    assert markdown.headers["content-disposition"].startswith("attachment; filename*=UTF-8''")
    everything = page.client.get("/api/chat/export").content
    [new] = page.client.post("/api/chat/import", content=everything).json()["conversations"]
    assert page.texts(new) == ["say: exported text", "exported text"]
    assert page.client.post("/api/chat/import", content=b"nonsense").status_code == 400


def test_file_names(store: Store) -> None:
    assert file_name(store.create("a/b: c?").__class__(**{**store.create("a/b: c?").as_dict()}), "md") == "ab c.md"
    assert file_name(store.create(""), "json") == "conversation.json"
