"""Out of memory, said as the setting to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from turbosparse.train.faults import OutOfMemoryError

_TEXTS = ("allocate memory", "not enough memory", "out of memory")


def is_memory_error(error: BaseException) -> bool:
    """Whether Python, torch on the CPU or a GPU's driver says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(t in text for t in _TEXTS)


@contextmanager
def lower_instead(message: str, **data: Any) -> Iterator[None]:
    """Turns lack of memory inside into OutOfMemoryError with `message`; other errors pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise OutOfMemoryError(message, **data) from error
