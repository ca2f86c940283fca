"""Token bytes to text, piece by piece: no split character, no leaked stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextAssembler:
    """Turns the bytes of tokens into text that is safe to show at once.

    A character whose bytes are still coming is held back, and so is the longest tail that may
    be the start of a stop string. Bytes that are no UTF-8 become U+FFFD.

    Args:
        stop: strings that end the text; the first to appear cuts it off, itself left out.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(string for string in stop if string)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False
        self.stop_text = ""  # the stop string that came

    def push(self, piece: bytes) -> str:
        """Text that `piece` releases; "" after a stop string."""
        return self._release(self._decoder.decode(piece))

    def finish(self) -> str:
        """What was held back, when no more pieces come."""
        text = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        cut = self._first_stop()
        if cut >= 0:
            shown, self.stop_text = self._held[:cut], next(s for s in self._stop if self._held.startswith(s, cut))
            self._held, self.stopped = "", True
            return shown
        keep = len(self._held) - self._pending()
        shown, self._held = self._held[:keep], self._held[keep:]
        return shown

    def _first_stop(self) -> int:
        """Where the earliest stop string begins, -1 without one."""
        return min((at for at in map(self._held.find, self._stop) if at >= 0), default=-1)

    def _pending(self) -> int:
        """Length of the longest tail that some stop string begins with."""
        return max((_overlap(self._held, string) for string in self._stop), default=0)


def _overlap(text: str, string: str) -> int:
    """Length of the longest proper prefix of `string` that `text` ends with."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
