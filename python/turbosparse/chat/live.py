"""One generation under way: what it has said so far, for as many readers as there are pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from math import exp
from time import perf_counter
from typing import Any

from ..errors import ContextOverflowError, OutOfMemoryError
from ..server.engine import Done, Job, PromptProgress, Token

FRAME = 1 / 30  # seconds between two events to a reader; tokens in between are sent together

# [token id, text, probability, share of active neurons, alternatives [[text, probability], ...],
#  active share of each layer in thousandths]; None where the engine does not say
Row = list[Any]


@dataclass
class Live:
    """Collects the events of a job.

    Attributes:
        prefix: text that stands before what this job says (a continued reply).
        rows: one per token.
        tail: text held back until the end.
        done: the last event; None before it, and after a failure.
        error: why it failed, for JSON.
        ttft_ms: from submission to the first token.
        ended: whether nothing more will come.
    """

    job: Job
    prefix: str = ""
    rows: list[Row] = field(default_factory=list)
    tail: str = ""
    done: Done | None = None
    error: dict[str, Any] | None = None
    ttft_ms: float | None = None
    progress: PromptProgress | None = None
    last: Token | None = None
    ended: bool = False

    def __post_init__(self) -> None:
        self._started = perf_counter()
        self._changed = asyncio.Event()
        self._text = [self.prefix]

    @property
    def text(self) -> str:
        """Everything said so far."""
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] + self.tail

    async def collect(self) -> None:
        """Read the job to its end; failures end up in `error`."""
        try:
            async for event in self.job:
                self._take(event)
                self._wake()
        except asyncio.CancelledError:
            self.job.cancel()
            raise
        except Exception as error:
            self.error = describe(error)

    def close(self) -> None:
        """Nothing more will come; readers are told."""
        self.ended = True
        self._wake()

    def _take(self, event: Token | Done | PromptProgress) -> None:
        if isinstance(event, Token):
            if self.ttft_ms is None:
                self.ttft_ms = 1e3 * (perf_counter() - self._started)
            self.last = event
            self._text.append(event.text)
            self.rows.append(_row(event))
        elif isinstance(event, Done):
            self.tail, self.done = event.text, event
        else:
            self.progress = event

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self, cursor: int = 0) -> AsyncIterator[dict[str, Any]]:
        """What came after row `cursor`, then what comes, at most 30 times a second, until the end.

        Events: {type: "start", prefix}, {type: "progress", total, cached, processed}, {type: "delta",
        from, rows, timings, sparsity}. Rows are sent once each and in order, so the prefix and
        their texts joined are the reply.
        """
        shown: PromptProgress | None = None
        yield {"type": "start", "prefix": self.prefix}
        while True:
            changed = self._changed
            if self.progress is not shown and not self.rows:
                shown = self.progress
                yield _progress(shown)
            if len(self.rows) > cursor:
                begin, cursor = cursor, len(self.rows)
                yield self._delta(begin, cursor)
            if self.ended:
                return
            await changed.wait()
            await asyncio.sleep(0 if self.ended else FRAME)

    def _delta(self, begin: int, end: int) -> dict[str, Any]:
        assert self.last is not None
        sparsity = self.last.sparsity
        return {
            "type": "delta",
            "from": begin,
            "rows": self.rows[begin:end],
            "ttft_ms": self.ttft_ms,
            "timings": self.last.timings.as_dict(),
            "sparsity": sparsity.as_dict() if sparsity else None,
        }


def _progress(progress: PromptProgress | None) -> dict[str, Any]:
    assert progress is not None
    return {
        "type": "progress",
        "total": progress.total,
        "cached": progress.cached,
        "processed": progress.processed,
    }


def _row(token: Token) -> Row:
    layers = [round(1e3 * share) for share in token.sparsity.layers] if token.sparsity else None
    active = None if token.active is None else round(token.active, 4)
    alternatives = [[a.piece.decode("utf-8", "replace"), _probability(a.logprob)] for a in token.alternatives]
    return [token.id, token.text, _probability(token.logprob), active, alternatives, layers]


def _probability(logprob: float | None) -> float | None:
    return None if logprob is None else round(exp(min(logprob, 0.0)), 4)


def describe(error: BaseException) -> dict[str, Any]:
    """An exception for people and for JSON: {type, message, where, expected, found} and memory's numbers."""
    found: dict[str, Any] = {"type": type(error).__name__, "message": str(error) or type(error).__name__}
    for name in ("where", "expected", "found"):
        if getattr(error, name, ""):
            found[name] = str(getattr(error, name))
    if isinstance(error, (ContextOverflowError, OutOfMemoryError)):
        found |= {"needed": error.needed, "available": error.available}
    return found
