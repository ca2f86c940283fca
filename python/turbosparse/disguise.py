"""Keeps control tokens that people write apart from those that a chat template writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

PRIVATE_USE = range(0xF0000, 0xFFFFE)  # a plane of Unicode without characters


class Disguise:
    """Strings in which the text of a control token cannot be recognised, length and all else kept.

    The first character of every occurrence becomes a stand-in from Unicode's private use area. So
    does the first character of an occurrence that the text behind the string might complete.

    Args:
        control: texts of the control tokens.
        known: everything in which no stand-in may appear by itself.
    """

    def __init__(self, control: Iterable[str], known: Any) -> None:
        texts = sorted(filter(None, control), key=len, reverse=True)
        taken = set(json.dumps(known, ensure_ascii=False, default=str))
        free = (char for char in map(chr, PRIVATE_USE) if char not in taken)
        self._stand_in = {first: next(free) for first in sorted({text[0] for text in texts})}
        self._first = {stand_in: first for first, stand_in in self._stand_in.items()}
        whole = "|".join(map(re.escape, texts))
        begun = "|".join(_begun(text) for text in texts)
        self._whole = re.compile(f"({whole})") if texts else None
        self._occurrence = re.compile(f"(?={whole}|(?:{begun})$)", re.DOTALL) if texts else None
        self.used = False

    def put_on(self, value: Any) -> Any:
        """`value` (JSON data) with all its strings, keys included, in disguise."""
        if isinstance(value, str):
            return self._disguised(value)
        if isinstance(value, Mapping):
            return {self.put_on(key): self.put_on(item) for key, item in value.items()}
        return [self.put_on(item) for item in value] if isinstance(value, (list, tuple)) else value

    def _disguised(self, text: str) -> str:
        if self._occurrence is None:
            return text
        starts = [match.start() for match in self._occurrence.finditer(text) if match.start() < len(text)]
        if not starts:
            return text
        self.used = True
        chars = list(text)
        for start in starts:
            chars[start] = self._stand_in[chars[start]]
        return "".join(chars)

    def split(self, text: str) -> list[str]:
        """`text` cut before and behind every control token that is not in disguise; no piece is empty."""
        return [piece for piece in (self._whole.split(text) if self._whole else [text]) if piece]

    def take_off(self, text: str) -> str:
        """The characters that were there before."""
        return "".join(self._first.get(char, char) for char in text)


def _begun(text: str) -> str:
    """A pattern for the proper beginnings of `text`, the longest first: "abc" -> a(?:b)?"""
    pattern = ""
    for char in reversed(text[1:-1]):
        pattern = f"(?:{re.escape(char)}{pattern})?"
    return re.escape(text[0]) + pattern if len(text) > 1 else "(?!)"
