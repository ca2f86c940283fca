"""Stock libllama, as much of it as a benchmark needs, through llama_cpp's ctypes API."""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as C  # noqa: N812
from llama_cpp._ggml import libggml

from ..kv import SEED_TOKENS, deepen
from ..plan import Settings, Work, tokens

PLAIN = "CPU"
LOG_WARN, LOG_ERROR = 3, 4  # enum ggml_log_level
DEVICE_CPU = 0  # enum ggml_backend_dev_type
FLASH_ATTN = {
    "auto": C.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "off": C.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    "on": C.LLAMA_FLASH_ATTN_TYPE_ENABLED,
}

_EXTRA_BUFTS = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)


def _pointer(name: str, *arguments: Any) -> int | None:
    """Call a libggml function that returns a pointer."""
    function = getattr(libggml, name)
    function.restype = ctypes.c_void_p
    value = function(*(ctypes.c_void_p(a) if isinstance(a, int) and a > 0xFFFF else a for a in arguments))
    return None if value is None else int(value)


def _type(name: str) -> int:
    """ "q8_0" -> enum ggml_type"""
    return int(getattr(C, f"GGML_TYPE_{name.upper()}"))


def _name(buft: int) -> str:
    function = libggml.ggml_backend_buft_name
    function.restype = ctypes.c_char_p
    return str(function(ctypes.c_void_p(buft)).decode())


def _extra() -> Any:
    """The NULL-terminated list of extra buffer types that libllama asks ggml's CPU device for."""
    device = _pointer("ggml_backend_dev_by_type", DEVICE_CPU)
    registry = _pointer("ggml_backend_dev_backend_reg", device)
    address = _pointer("ggml_backend_reg_get_proc_address", registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return None
    return _EXTRA_BUFTS(address)(device)


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _log_errors(level: int, text: bytes, _user: object) -> None:
    """What matters when the process is gone goes to standard error."""
    if LOG_WARN <= level <= LOG_ERROR:
        print(text.decode("utf-8", "replace"), end="", file=sys.stderr, flush=True)


def buffer_types() -> list[str]:
    """Names of the buffer types that weights may lie in: plain CPU, then the extra ones, best first for ggml."""
    C.llama_log_set(_log_errors, None)
    C.llama_backend_init()
    listed, names = _extra(), [PLAIN]
    i = 0
    while listed and listed[i]:
        names.append(_name(listed[i]))
        i += 1
    return names


def offer(buffers: str) -> bool:
    """Let libllama choose among plain buffers and `buffers` only; returns whether extra ones are to be used.

    libllama takes, tensor by tensor, the first extra buffer type whose operation ggml supports. The
    first of the list is what stock llama.cpp does here; for a later one those before it are taken off
    the list, which is ours alone in this process.
    """
    names = buffer_types()
    if buffers not in names:
        raise ValueError(f"this build of ggml has no buffer type {buffers}; it has {', '.join(names)}")
    if buffers == PLAIN:
        return False
    listed, skip, i = _extra(), names.index(buffers) - 1, 0
    while listed[i + skip]:
        listed[i] = listed[i + skip]
        i += 1
    listed[i] = None
    return True


class Llama:
    """A model with one context.

    Args:
        path: of an ordinary GGUF file.
        buffers: a name of buffer_types().
    """

    def __init__(self, path: Path, buffers: str) -> None:
        params = C.llama_model_default_params()
        params.use_extra_bufts = offer(buffers)
        self.model = C.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise ValueError(f"libllama cannot load {path}")
        self.n_vocab = C.llama_vocab_n_tokens(C.llama_model_get_vocab(self.model))
        self.context: Any = None
        self.batch: Any = None

    def open(self, settings: Settings, n_ctx: int, n_seq: int) -> None:
        """A fresh context with room for n_ctx tokens in each of n_seq sequences."""
        self.close_context()
        params = C.llama_context_default_params()
        params.n_ctx, params.n_seq_max = n_ctx * n_seq, n_seq
        params.n_batch, params.n_ubatch = settings.n_batch, settings.n_ubatch
        params.n_threads = params.n_threads_batch = settings.n_threads
        params.flash_attn_type = FLASH_ATTN[settings.flash_attn]
        params.type_k, params.type_v = _type(settings.type_k), _type(settings.type_v)
        params.no_perf = True
        self.context = C.llama_init_from_model(self.model, params)
        if not self.context:
            raise ValueError(f"libllama cannot make a context of {n_ctx} tokens")
        self.batch = C.llama_batch_init(max(settings.n_batch, n_seq), 0, 1)
        self.n_batch = settings.n_batch

    def seat(self, depth: int, n_seq: int) -> None:
        """Every sequence at `depth` tokens, made of a few evaluated ones."""
        C.llama_memory_clear(C.llama_get_memory(self.context), True)
        if depth == 0:
            return
        for token, at in zip(tokens(SEED_TOKENS, self.n_vocab, 0), range(SEED_TOKENS), strict=True):
            self._decode([(token, at, 0)])
        size = C.llama_state_seq_get_size(self.context, 0)
        state = (ctypes.c_uint8 * size)()
        C.llama_state_seq_get_data(self.context, state, size, 0)
        deep = deepen(bytes(state), depth)
        source = (ctypes.c_uint8 * len(deep)).from_buffer_copy(deep)
        for sequence in range(n_seq):
            if C.llama_state_seq_set_data(self.context, source, len(deep), sequence) != len(deep):
                raise ValueError(f"libllama does not take a KV cache of {depth} tokens")

    def run(self, work: Work, n_seq: int) -> int:
        """Nanoseconds of a turn."""
        memory, at = C.llama_get_memory(self.context), work.at
        for sequence in range(n_seq):
            C.llama_memory_seq_rm(memory, sequence, at, -1)
        if work.warm:
            self._step(at, n_seq)
            at += 1
        prompts = [tokens(work.n_prompt, self.n_vocab, at, sequence) for sequence in range(n_seq)]
        start = time.perf_counter_ns()
        for sequence, ids in enumerate(prompts):
            self._prompt(ids, at, sequence)
        for position in range(at + work.n_prompt, at + work.n_tokens):
            self._step(position, n_seq)
        return time.perf_counter_ns() - start

    def _prompt(self, ids: list[int], at: int, sequence: int) -> None:
        for i in range(0, len(ids), self.n_batch):
            part = ids[i : i + self.n_batch]
            self._decode([(token, at + i + k, sequence) for k, token in enumerate(part)])

    def _step(self, position: int, n_seq: int) -> None:
        """One token of every sequence."""
        self._decode([(tokens(1, self.n_vocab, position, s)[0], position, s) for s in range(n_seq)])

    def _decode(self, entries: list[tuple[int, int, int]]) -> None:
        """One llama_decode of (token, position, sequence); logits of the last token of each sequence."""
        batch, last = self.batch, {sequence: i for i, (_, _, sequence) in enumerate(entries)}
        batch.n_tokens = len(entries)
        for i, (token, position, sequence) in enumerate(entries):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = last[sequence] == i
        code = C.llama_decode(self.context, batch)
        if code:
            raise ValueError(f"llama_decode returned {code}")
        C.llama_synchronize(self.context)

    def close_context(self) -> None:
        """Free the context, if there is one."""
        if self.context:
            C.llama_batch_free(self.batch)
            C.llama_free(self.context)
            self.context = None

    def close(self) -> None:
        """Free context and model."""
        self.close_context()
        C.llama_model_free(self.model)


def load_seconds(path: Path, settings: Settings) -> int:
    """Nanoseconds from nothing to the first token's logits, plain buffers."""
    start = time.perf_counter_ns()
    llama = Llama(path, PLAIN)
    llama.open(settings, 512, 1)
    llama.run(Work(0, 1), 1)
    spent = time.perf_counter_ns() - start
    llama.close()
    return spent
