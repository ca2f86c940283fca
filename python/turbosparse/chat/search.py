"""Full-text search over titles and messages."""

from __future__ import annotations

import re

from .records import Hit
from .store import Store

OPEN, CLOSE = "\ue000", "\ue001"  # around a match in an excerpt; private characters that text does not hold
MATCHES = 400  # newest messages looked at; conversations are what is listed, so more changes nothing for a reader


def search(store: Store, text: str, limit: int = 50) -> list[Hit]:
    """Conversations with all words of `text` in a title or in one message, newest match first.

    The last word matches as a beginning, so that results follow the typing.
    """
    query = match_expression(text)
    if not query:
        return []
    hits = {hit.conversation_id: hit for hit in _messages(store, query, limit)}
    for hit in _titles(store, query, limit):
        hits.setdefault(hit.conversation_id, hit)
    return sorted(hits.values(), key=lambda hit: -hit.time)[:limit]


def match_expression(text: str) -> str:
    """`text` as an FTS5 expression: every word quoted, so that no character of it is an operator."""
    words = re.findall(r"\w+", text)
    return " ".join(f'"{word}"' for word in words) + "*" if words else ""


def _messages(store: Store, query: str, limit: int) -> list[Hit]:
    """The newest match of each conversation. Ids grow with time, and FTS5 walks them backwards without sorting."""
    found = store.db.rows(
        "SELECT max(m.id) AS id, c.id AS conversation_id FROM "
        "(SELECT rowid FROM message_text WHERE message_text MATCH ? ORDER BY rowid DESC LIMIT ?) t "
        "JOIN message m ON m.id = t.rowid JOIN conversation c ON c.id = m.conversation_id "
        "WHERE m.deleted_at IS NULL AND c.deleted_at IS NULL GROUP BY c.id ORDER BY id DESC LIMIT ?",
        (query, MATCHES, limit),
    )
    return [hit for row in found for hit in _excerpt(store, query, row["id"])]


def _excerpt(store: Store, query: str, message: int) -> list[Hit]:
    rows = store.db.rows(
        f"SELECT m.conversation_id, c.title, m.id AS message_id, m.role, m.created_at AS time, "
        f"snippet(message_text, 0, '{OPEN}', '{CLOSE}', '...', 12) AS excerpt FROM message_text t "
        "JOIN message m ON m.id = t.rowid JOIN conversation c ON c.id = m.conversation_id "
        "WHERE message_text MATCH ? AND t.rowid = ?",
        (query, message),
    )
    return [Hit(**dict(row)) for row in rows]


def _titles(store: Store, query: str, limit: int) -> list[Hit]:
    rows = store.db.rows(
        "SELECT c.id AS conversation_id, c.title, NULL AS message_id, NULL AS role, c.updated_at AS time, "
        f"highlight(title_text, 0, '{OPEN}', '{CLOSE}') AS excerpt FROM title_text t "
        "JOIN conversation c ON c.id = t.rowid WHERE title_text MATCH ? AND c.deleted_at IS NULL "
        "ORDER BY c.updated_at DESC LIMIT ?",
        (query, limit),
    )
    return [Hit(**dict(row)) for row in rows]
