"""One finding of the doctor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "note", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        section: under which it is shown.
        name: what was looked at.
        status: ok; note = worth knowing; warn = something will be slower or missing; fail = it does not work.
        value: what was found.
        fix: the command, or the advice, that mends it; "" when nothing is to be mended.
    """

    section: str
    name: str
    status: Status
    value: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
