"""What the store hands out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import ArgumentError

Role = Literal["user", "assistant"]
Status = Literal["complete", "streaming", "stopped", "interrupted", "failed"]


class NotFoundError(ArgumentError):
    """No such conversation, message or preset (or it is in the bin)."""

    def __init__(self, what: str, key: object) -> None:
        super().__init__(f"there is no {what} {key}", where=what, expected=f"an existing {what}", found=str(key))


@dataclass(frozen=True)
class Conversation:
    """One conversation, without its messages.

    Attributes:
        folder: "" = none.
        settings: sampling parameters, mode and model, as the page sends them.
        head_id: the last message of the branch that is shown; None = no message yet.
        created_at, updated_at, deleted_at: seconds since 1970; deleted_at None = not in the bin.
    """

    id: int
    title: str
    folder: str
    pinned: bool
    system_prompt: str
    settings: dict[str, Any]
    head_id: int | None
    created_at: float
    updated_at: float
    deleted_at: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Message:
    """One message of the tree.

    Attributes:
        parent_id: None for a first message.
        siblings: ids of the messages with the same parent, this one included, oldest first.
        status: complete; streaming now; stopped by the user; interrupted (the program ended);
            failed (stats["error"] says why).
        stats: of a reply: model, mode, seed, finish_reason, timings, sparsity.
    """

    id: int
    conversation_id: int
    parent_id: int | None
    role: Role
    content: str
    status: Status
    stats: dict[str, Any]
    created_at: float
    siblings: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "siblings": list(self.siblings)}


@dataclass(frozen=True)
class Hit:
    """A conversation found by a search.

    Attributes:
        message_id: of the newest message that matches; None when only the title does.
        excerpt: words around the match; matches lie between U+E000 and U+E001.
    """

    conversation_id: int
    title: str
    message_id: int | None
    role: str | None
    excerpt: str
    time: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
