"""Conversations as JSON (everything, every branch) and as Markdown (what is shown)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from .records import Conversation, Message
from .store import Store

FORMAT = "turbosparse-chat"
VERSION = 1


def as_json(store: Store, keys: list[int] | None = None) -> dict[str, Any]:
    """The conversations `keys` (None = all outside the bin); read_json takes it back without loss."""
    chosen = store.conversations() if keys is None else [store.conversation(key) for key in keys]
    return {"format": FORMAT, "version": VERSION, "conversations": [_whole(store, each) for each in chosen]}


def _whole(store: Store, conversation: Conversation) -> dict[str, Any]:
    messages = []
    for message in store.all_messages(conversation.id):
        item = {name: getattr(message, name) for name in ("id", "parent_id", "role", "content", "status", "stats")}
        item["created_at"] = message.created_at
        for name, value in (("trace", store.trace(message.id)), ("comparison", store.comparison(message.id))):
            if value is not None:
                item[name] = value
        messages.append(item)
    names = ("title", "folder", "pinned", "system_prompt", "settings", "head_id", "created_at", "updated_at")
    return {**{name: getattr(conversation, name) for name in names}, "messages": messages}


def as_markdown(conversation: Conversation, path: list[Message]) -> str:
    """The shown branch as a document."""
    when = datetime.fromtimestamp(conversation.created_at).strftime("%Y-%m-%d %H:%M")
    parts = [f"# {conversation.title or 'Conversation'}", f"*{when}*"]
    if conversation.system_prompt:
        parts += ["## System", conversation.system_prompt]
    for message in path:
        parts += ["## " + ("You" if message.role == "user" else _author(message)), message.content]
        if message.status not in ("complete", "streaming"):
            parts.append(f"*({message.status})*")
    return "\n\n".join(parts) + "\n"


def _author(message: Message) -> str:
    model = message.stats.get("model")
    return f"Assistant ({model})" if model else "Assistant"


def file_name(conversation: Conversation, suffix: str) -> str:
    """A name that every file system takes."""
    stem = re.sub(r"[^\w -]+", "", conversation.title, flags=re.ASCII).strip()[:60]
    return f"{stem or 'conversation'}.{suffix}"
