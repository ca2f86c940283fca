"""Conversations from files: our own JSON, ChatGPT's conversations.json, llama.cpp's web page.

Files come from elsewhere: every shape is checked before anything is written, and one file is
imported whole or not at all.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ..errors import ModelFormatError
from .export import FORMAT, VERSION
from .records import Role, Status
from .store import Store

MAX_BYTES = 1 << 30  # of the JSON, also when it comes out of a zip


class ImportFileError(ModelFormatError):
    """A file that holds no conversations that we can read."""


@dataclass
class Draft:
    """One message to be; `key` and `parent` are the file's own names."""

    key: str
    parent: str | None
    role: Role
    content: str
    status: Status = "complete"
    stats: dict[str, Any] = field(default_factory=dict)
    created_at: float | None = None
    trace: Any = None
    comparison: Mapping[str, Any] | None = None


@dataclass
class Source:
    """One conversation to be; drafts in any order, parents that are not there count as none."""

    title: str
    drafts: list[Draft]
    head: str | None = None
    folder: str = ""
    pinned: bool = False
    system_prompt: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    created_at: float | None = None
    updated_at: float | None = None


def import_bytes(store: Store, data: bytes) -> list[int]:
    """Read a .json file, or a .zip with conversations.json; returns the ids of the new conversations.

    Raises:
        ImportFileError: nothing was imported.
    """
    try:
        sources = list(_recognise(json.loads(_unzipped(data))))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        if isinstance(error, ImportFileError):
            raise
        raise _broken(f"{type(error).__name__}: {error}") from error
    with store.db.transaction():
        return [_write(store, source) for source in sources]


def _broken(found: str) -> ImportFileError:
    expected = "conversations as exported by turbosparse, ChatGPT or llama.cpp's web page"
    return ImportFileError(f"the file cannot be imported: {found}; expected {expected}", expected=expected, found=found)


def _unzipped(data: bytes) -> bytes:
    if not data.startswith(b"PK\x03\x04"):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next((n for n in archive.namelist() if n.rsplit("/", 1)[-1] == "conversations.json"), None)
        if name is None:
            raise _broken("a zip without conversations.json")
        if archive.getinfo(name).file_size > MAX_BYTES:
            raise _broken(f"conversations.json of more than {MAX_BYTES} bytes")
        return archive.read(name)


def _recognise(value: Any) -> Iterable[Source]:
    if isinstance(value, dict) and value.get("format") == FORMAT:
        if value.get("version") != VERSION:
            raise _broken(f"version {value.get('version')} of {FORMAT}, this program reads {VERSION}")
        return [_own(item) for item in value["conversations"]]
    items = value if isinstance(value, list) else [value]
    if items and all(isinstance(item, dict) and "mapping" in item for item in items):
        return [_chatgpt(item) for item in items]
    if items and all(isinstance(item, dict) and "conv" in item for item in items):
        return [_llama_ui(item) for item in items]
    raise _broken("other JSON")


def _own(item: dict[str, Any]) -> Source:
    drafts = [
        Draft(
            key=str(m["id"]),
            parent=None if m["parent_id"] is None else str(m["parent_id"]),
            role=_role(m["role"]),
            content=_text(m["content"]),
            status=_status(m.get("status")),
            stats=dict(m.get("stats") or {}),
            created_at=_number(m.get("created_at")),
            trace=m.get("trace"),
            comparison=m.get("comparison"),
        )
        for m in item["messages"]
    ]
    return Source(
        title=_text(item.get("title", "")),
        drafts=drafts,
        head=None if item.get("head_id") is None else str(item["head_id"]),
        folder=_text(item.get("folder", "")),
        pinned=bool(item.get("pinned")),
        system_prompt=_text(item.get("system_prompt", "")),
        settings=dict(item.get("settings") or {}),
        created_at=_number(item.get("created_at")),
        updated_at=_number(item.get("updated_at")),
    )


def _chatgpt(item: dict[str, Any]) -> Source:
    """`mapping` is a tree of nodes; system, tool and empty ones are skipped and their children move up."""
    nodes = {str(key): dict(node) for key, node in item["mapping"].items()}
    drafts, system = [], ""
    for key, node in nodes.items():
        message = node.get("message") or {}
        role = (message.get("author") or {}).get("role")
        content = _parts(message.get("content") or {})
        if role == "system":
            system = system or content
        elif role in ("user", "assistant") and content:
            drafts.append(Draft(key, None, _role(role), content, created_at=_number(message.get("create_time"))))
    kept = {draft.key for draft in drafts}
    for draft in drafts:
        draft.parent = _ancestor(nodes, draft.key, kept)
    current = str(item.get("current_node"))
    head = current if current in kept else _ancestor(nodes, current, kept)
    times = (_number(item.get("create_time")), _number(item.get("update_time")))
    title = _text(item.get("title") or "")
    return Source(title, drafts, head, system_prompt=system, created_at=times[0], updated_at=times[1])


def _ancestor(nodes: dict[str, dict[str, Any]], key: str, kept: set[str]) -> str | None:
    seen = {key}
    while key in nodes:
        parent = nodes[key].get("parent")
        if parent is None or str(parent) in seen:
            return None
        key = str(parent)
        seen.add(key)
        if key in kept:
            return key
    return None


def _parts(content: dict[str, Any]) -> str:
    if content.get("content_type") == "code":
        return f"```\n{content.get('text', '')}\n```"
    return "\n\n".join(part for part in content.get("parts") or [] if isinstance(part, str)).strip()


def _llama_ui(item: dict[str, Any]) -> Source:
    conversation, drafts, system = item["conv"], [], ""
    for m in item["messages"]:
        if m.get("role") == "system":
            system = system or _text(m.get("content") or "")
        elif m.get("role") in ("user", "assistant"):
            time = _number(m.get("timestamp"))
            parent = None if m.get("parent") is None else str(m["parent"])
            created = None if time is None else time / 1e3
            drafts.append(Draft(str(m["id"]), parent, _role(m["role"]), _text(m["content"]), created_at=created))
    head = conversation.get("currNode")
    return Source(
        _text(conversation.get("name", "")), drafts, None if head is None else str(head), system_prompt=system
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {type(value).__name__}")
    return value.encode("utf-8", "replace").decode()


def _role(value: Any) -> Role:
    if value not in ("user", "assistant"):
        raise ValueError(f"role {value!r}, expected user or assistant")
    return cast("Role", value)


def _status(value: Any) -> Status:
    if value == "streaming":
        return "interrupted"
    return cast("Status", value) if value in ("complete", "stopped", "interrupted", "failed") else "complete"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _write(store: Store, source: Source) -> int:
    conversation = store.create(
        source.title, folder=source.folder, system_prompt=source.system_prompt, settings=source.settings
    )
    ids: dict[str, int] = {}
    for draft in _parents_first(source.drafts):
        parent = ids.get(draft.parent) if draft.parent is not None else None
        message = store.add(
            conversation.id,
            draft.role,
            draft.content,
            parent=parent,
            status=draft.status,
            stats=draft.stats,
            created_at=draft.created_at,
        )
        ids[draft.key] = message.id
        if draft.trace is not None:
            store.set_trace(message.id, draft.trace)
        if draft.comparison is not None:
            store.set_comparison(message.id, _text(draft.comparison["content"]), dict(draft.comparison["stats"]))
    if source.head in ids:
        store.set_head(conversation.id, ids[source.head])
    _stamp(store, conversation.id, source)
    return conversation.id


def _parents_first(drafts: list[Draft]) -> list[Draft]:
    """Drafts in the file's order, except that none stands before its parent. A cycle is an error."""
    by_key = {draft.key: draft for draft in drafts}
    ordered: list[Draft] = []
    done: set[str] = set()
    if len(by_key) < len(drafts):
        raise _broken("two messages with one id")
    for draft in drafts:
        chain = []
        while draft.key not in done:
            chain.append(draft)
            done.add(draft.key)
            if draft.parent is None or draft.parent not in by_key:
                break
            draft = by_key[draft.parent]
            if draft in chain:
                raise _broken(f"message {draft.key} is its own ancestor")
        ordered += reversed(chain)
    return ordered


def _stamp(store: Store, key: int, source: Source) -> None:
    now = store.conversation(key)
    store.update(key, pinned=source.pinned)
    store.db.run(
        "UPDATE conversation SET created_at = ?, updated_at = ? WHERE id = ?",
        (source.created_at or now.created_at, source.updated_at or source.created_at or now.updated_at, key),
    )
