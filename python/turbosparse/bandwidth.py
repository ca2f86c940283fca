"""Memory bandwidth of this machine: what n threads read from one end of a buffer to the other."""

from __future__ import annotations

import statistics
from types import TracebackType
from typing import TYPE_CHECKING

from . import _native as native

if TYPE_CHECKING:
    from typing_extensions import Self

ffi, lib = native.ffi, native.lib

DEFAULT_BYTES = 1 << 30  # beyond every cache


class BandwidthProbe:
    """A buffer to read. A context manager; it holds `n_bytes` of memory until closed.

    Raises:
        OutOfMemoryError, ArgumentError.
    """

    def __init__(self, n_bytes: int = DEFAULT_BYTES) -> None:
        error, out = native.new_error(), ffi.new("struct ggml_sparse_bandwidth **")
        native.check(lib.ggml_sparse_bandwidth_create(n_bytes, out, error), error)
        self._probe = native.own(out[0], lib.ggml_sparse_bandwidth_free)

    def measure(self, n_threads: int) -> float:
        """Bytes per second of one pass over the buffer, of its faster half: one is read with software prefetches."""
        error, out = native.new_error(), ffi.new("double *")
        native.check(lib.ggml_sparse_bandwidth_measure(self._probe, n_threads, out, error), error)
        return float(out[0])

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        native.release(self._probe)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_bandwidth(n_threads: int, *, n_bytes: int = DEFAULT_BYTES, passes: int = 5) -> float:
    """Bytes per second, the median of some passes over n_bytes. Takes about a second with the defaults."""
    with BandwidthProbe(n_bytes) as probe:
        probe.measure(n_threads)
        return statistics.median(probe.measure(n_threads) for _ in range(passes))
