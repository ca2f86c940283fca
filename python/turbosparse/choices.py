"""The words of turbosparse.options as the numbers of the C library."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, get_args

from ._native import lib
from .errors import ArgumentError
from .options import Activation, FlashAttn, Isa, Layout, Mode


def _enum(words: Any, prefix: str) -> Mapping[str, int]:
    """Word -> value of the C enum constant of that name."""
    return {word: int(getattr(lib, prefix + word.upper())) for word in get_args(words)}


MODES = _enum(Mode, "GGML_SPARSE_MODE_")
ACTIVATIONS = _enum(Activation, "GGML_SPARSE_")
ISAS = _enum(Isa, "GGML_SPARSE_ISA_")
LAYOUTS = _enum(Layout, "GGML_SPARSE_LAYOUT_")
FLASH_ATTN: Mapping[str, int] = dict(zip(get_args(FlashAttn), (-1, 1, 0), strict=True))


def choose(what: str, word: str, known: Mapping[str, int]) -> int:
    """known[word]; ArgumentError as require."""
    require(what, word, known)
    return known[word]


def require(what: str, word: str, known: Collection[str]) -> None:
    """ArgumentError that names the parameter and what it may be, unless it is that."""
    if word not in known:
        expected = ", ".join(known)
        raise ArgumentError(
            f"{what} must be one of {expected}, not {word!r}", where=what, expected=expected, found=str(word)
        )


def word_of(value: int, known: Mapping[str, int]) -> str:
    """The word of a number; the number itself where there is none."""
    return next((word for word, number in known.items() if number == value), str(value))
