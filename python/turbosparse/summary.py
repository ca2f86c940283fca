"""Figures of a generation in one line, for terminals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .generate import Result

BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"  # one eighth to a full block


def show_bytes(count: float) -> str:
    """1.23e9 -> "1.23 GB"; decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def summary(result: Result) -> str:
    """Speed, share of rows computed, bytes per token against dense, seed and end."""
    timings, sparsity = result.timings, result.sparsity
    parts = [f"{timings.predicted_n} tokens, {timings.predicted_per_second:.1f} tok/s, mode {result.mode}"]
    if sparsity:
        share = sparsity.rows / max(sparsity.rows_dense, 1)
        parts.append(f"{100 * share:.1f} % of FFN rows computed")
        parts.append(
            f"{show_bytes(sparsity.bytes_read / sparsity.tokens)} per token, "
            f"dense {show_bytes(sparsity.bytes_dense / sparsity.tokens)}"
        )
    return "; ".join([*parts, f"seed {result.seed}, {result.finish_reason}"])


def strip(shares: Sequence[float]) -> str:
    """One bar per share in 0 .. 1, the largest one full."""
    most = max(shares, default=0.0) or 1.0
    return "".join(BARS[min(int(8 * share / most), 7)] for share in shares)
