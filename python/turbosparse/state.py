"""The KV cache of a model's sequence as bytes, in libllama's format."""

from __future__ import annotations

from . import _native as native
from .model import Model

ffi, lib = native.ffi, native.lib


def save(model: Model) -> bytes:
    """The sequence so far, for `load` into a context of the same model, KV type and flash attention."""
    context, error = model._context, native.new_error()
    data = bytearray(int(lib.ggml_sparse_context_state_size(context)))
    target = ffi.from_buffer("uint8_t[]", data, require_writable=True)
    native.check(lib.ggml_sparse_context_state_get(context, target, len(data), error), error)
    return bytes(data)


def load(model: Model, data: bytes | bytearray) -> None:
    """Replace the sequence by a saved one; there are no last logits afterwards.

    Tokens are not part of a state: Model.tokens is of no use until the next reset. Do not load bytes
    of strangers, libllama checks little.

    Raises:
        ArgumentError: it was saved from another kind of context; the sequence is empty then.
    """
    error = native.new_error()
    source = ffi.from_buffer("uint8_t[]", data)
    native.check(lib.ggml_sparse_context_state_set(model._context, source, len(data), error), error)
    model._tokens = [0] * model.n_past
