"""A model with several sequences: rows of any of them in one batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _native as native
from .errors import ArgumentError
from .model import LayerInfo, Model
from .sampling import Sampler

ffi, lib = native.ffi, native.lib


class Row(NamedTuple):
    """One token to append to a sequence.

    Attributes:
        logits: wanted after it.
    """

    token: int
    seq: int
    logits: bool = False


class SequenceModel(Model):
    """A Model whose context holds n_seq sequences; what Model offers works on sequence 0.

    Args:
        n_ctx: tokens of each sequence.
        n_seq: 1 .. 64.
        stock: open a GGUF file of another architecture, which stock llama.cpp evaluates: every
            neuron, no counters, mode "dense" only.
        options: as Model.
    """

    def __init__(self, path: str | os.PathLike[str], *, n_seq: int, stock: bool = False, **options: Any) -> None:
        self.n_seq = n_seq
        self.stock = stock
        # libllama maps a stock file by itself; a copy of our mapping would be read by nobody
        super().__init__(path, **{**options, **({"memory": "mapped"} if stock else {})})

    def _load(self, path: str | os.PathLike[str], check_tensors: bool) -> Any:
        if not self.stock:
            return super()._load(path, check_tensors)
        error, out = native.new_error(), ffi.new("struct ggml_sparse_model **")
        native.check(lib.ggml_sparse_model_load_stock(os.fsencode(path), out, error), error)
        return native.own(out[0], lib.ggml_sparse_model_free)

    def _read_layers(self) -> tuple[LayerInfo, ...]:
        return () if self.stock else super()._read_layers()

    def _create_context(self, params: Any) -> Any:
        params.n_seq_max = self.n_seq
        return super()._create_context(params)

    @cached_property
    def longest_piece(self) -> int:
        """Bytes of the longest token: n bytes of text have at least n / longest_piece tokens."""
        model, count, error = self._model, ffi.new("int32_t *"), native.new_error()
        longest = 1
        for token in range(self.info.n_vocab):
            lib.ggml_sparse_token_to_piece(model, token, True, ffi.NULL, 0, count, error)
            longest = max(longest, int(count[0]))
        return longest

    def decode(self, rows: Sequence[Row]) -> None:
        """Evaluate `rows`, at most n_batch, those of one sequence together and in order.

        Raises:
            ContextOverflowError, CancelledError, BackendError: every sequence is as it was before.
        """
        batch, error = ffi.new("struct ggml_sparse_row[]", [tuple(row) for row in rows]), native.new_error()
        native.check(lib.ggml_sparse_context_decode(self._context, batch, len(rows), error), error)

    def row_logits(self, row: int) -> npt.NDArray[np.float32]:
        """Logits of a row of the last decode, float32 [n_vocab]: a view, valid until the next one."""
        pointer = lib.ggml_sparse_context_row_logits(self._context, row)
        if not pointer:
            raise ArgumentError(f"row {row} of the last batch has no logits", where="row", found=str(row))
        return np.frombuffer(ffi.buffer(pointer, 4 * self.info.n_vocab), dtype=np.float32)

    def sample_row(self, sampler: Sampler, row: int) -> int:
        """Draw the next token from the logits of a row."""
        token, error = ffi.new("int32_t *"), native.new_error()
        native.check(lib.ggml_sparse_sampler_sample_row(sampler._handle, self._context, row, token, error), error)
        return int(token[0])

    def stop_decode(self) -> None:
        """Make the decode under way, or the next one, raise CancelledError. Any thread."""
        lib.ggml_sparse_context_cancel(self._context)

    def length(self, seq: int) -> int:
        """Tokens of a sequence."""
        return int(lib.ggml_sparse_context_seq_n_past(self._context, seq))

    def keep(self, seq: int, count: int) -> int:
        """Keep the first `count` tokens of a sequence; returns how many it has then: `count`, or 0."""
        kept, error = ffi.new("int32_t *"), native.new_error()
        native.check(lib.ggml_sparse_context_seq_keep(self._context, seq, count, kept, error), error)
        return int(kept[0])

    def copy(self, source: int, target: int) -> None:
        """Make sequence `target` equal to `source`."""
        error = native.new_error()
        native.check(lib.ggml_sparse_context_seq_copy(self._context, source, target, error), error)
