"""A loaded model with one sequence: tokens in, logits and counters out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from . import _native as native
from . import ops
from .cancel import Canceller, on_interrupt
from .choices import ACTIVATIONS, FLASH_ATTN, ISAS, LAYOUTS, choose, require, word_of
from .choices import MODES as MODES
from .errors import ArgumentError
from .model_info import LayerInfo as LayerInfo
from .model_info import LayerProfile as LayerProfile
from .model_info import ModelInfo as ModelInfo
from .options import KvType, Memory
from .sampling import Sampler, SamplingParams
from .stats import BatchStats, LayerDiagnosis, LayerStats
from .threads import default_threads

if TYPE_CHECKING:
    from typing_extensions import Self

ffi, lib = native.ffi, native.lib

_TYPES = {info.name: info for info in ops.types()}
_TYPE_IDS = {name: info.id for name, info in _TYPES.items()}
KV_TYPES = {name: _TYPE_IDS[name] for name in get_args(KvType)}
KV_BYTES = {name: _TYPES[name].bytes_per_value for name in KV_TYPES}  # per value of the cache
DEFAULT_CTX = 4096  # tokens; a training context may be 32768, whose KV cache few want unasked


def silence_host() -> None:
    """Drop what libllama and ggml log from now on, for programs that own their process."""
    lib.ggml_sparse_silence_host()


def _load(path: str | os.PathLike[str], check_tensors: bool) -> Any:
    error, out = native.new_error(), ffi.new("struct ggml_sparse_model **")
    native.check(lib.ggml_sparse_model_load(os.fsencode(path), check_tensors, out, error), error)
    return native.own(out[0], lib.ggml_sparse_model_free)


def _settle(handle: Any, memory: str, mode: int) -> bool:
    """Whether the weights lie in memory of their own, as `mode` reads them best, or are read through a mapping."""
    if memory == "mapped":
        return False
    error, resident = native.new_error(), ffi.new("bool *")
    native.check(lib.ggml_sparse_model_make_resident(handle, mode, memory == "resident", resident, error), error)
    return bool(resident[0])


def _info(handle: Any) -> ModelInfo:
    info = ffi.new("struct ggml_sparse_model_info *")
    lib.ggml_sparse_model_get_info(handle, info)
    values = native.read_struct(info)
    values["activation"] = word_of(values["activation"], ACTIVATIONS)
    values["default_mode"] = word_of(values["default_mode"], MODES)
    return ModelInfo(**values)


def _layers(handle: Any, n_layer: int) -> tuple[LayerInfo, ...]:
    layers = []
    for il in range(n_layer):
        info, error = ffi.new("struct ggml_sparse_layer_info *"), native.new_error()
        native.check(lib.ggml_sparse_model_get_layer(handle, il, info, error), error)
        values = native.read_struct(info)
        for key in ("layout_up", "layout_down"):
            values[key] = word_of(values[key], LAYOUTS)
        values["first_branch"] = "up" if values["first_branch"] else "gate"
        for key in ("type_gate", "type_up", "type_down", "type_predictor"):
            values[key] = None if values[key] < 0 else word_of(values[key], _TYPE_IDS)
        layers.append(LayerInfo(**values))
    return tuple(layers)


class Model:
    """A TurboSparse GGUF file, loaded, with one sequence and its KV cache.

    A model belongs to one thread at a time; cancel() alone may be called from any. Close it, or
    use it in a `with` statement; several models may live side by side.

    Args:
        path: of the GGUF file.
        mode: of the FFN: "dense", "exact", "predicted" or "reference"; None = the file's default. It may be changed
            later; weights in memory of their own stay in the order that is best for this one.
        n_ctx: tokens of the context; 0 = the training context; None = that, but at most 4096 and
            at most the sliding window.
        n_threads: None = physical cores available to the process.
        kv_type: "f16", "f32" or "q8_0".
        flash_attn: "on": attention is one operator of ours, which sums in float32 and gives the same bits for any
            n_threads and any cut of a prompt. "off": libllama's, slower in long contexts. "auto": off with kv_type
            "f32", which the operator would see rounded to f16, else on.
        n_batch, n_ubatch: tokens per llama_decode and per graph; None = 2048 and 512.
        isa: "auto", or an instruction set to force: "generic", "avx2", "avxvnni", "avx512", "neon".
        ignore_swa: allow n_ctx above the checkpoint's sliding window.
        check_tensors: also look for NaN and Inf in scales, which reads the whole file.
        memory: where the weights lie. "mapped": in the file's mapping, shared between processes, may be larger than
            memory. "resident": copied into memory of huge pages, which is read up to half again as fast. "auto":
            resident when the file takes at most two thirds of the available memory.

    Raises:
        FileError, ModelFormatError, UnsupportedModelError, HostError, OutOfMemoryError, BackendError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        mode: str | None = None,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        kv_type: str = "f16",
        flash_attn: str = "auto",
        n_batch: int | None = None,
        n_ubatch: int | None = None,
        isa: str = "auto",
        ignore_swa: bool = False,
        check_tensors: bool = False,
        memory: str = "auto",
    ) -> None:
        require("memory", memory, get_args(Memory))
        params = ffi.new("struct ggml_sparse_context_params *", lib.ggml_sparse_context_default_params())
        params.mode = lib.GGML_SPARSE_MODE_DEFAULT if mode is None else choose("mode", mode, MODES)
        params.type_k = params.type_v = choose("kv_type", kv_type, KV_TYPES)
        params.flash_attn = choose("flash_attn", flash_attn, FLASH_ATTN)
        params.isa = choose("isa", isa, ISAS)
        params.ignore_swa = ignore_swa
        params.n_threads = n_threads or default_threads()
        params.n_batch = params.n_batch if n_batch is None else n_batch
        params.n_ubatch = params.n_ubatch if n_ubatch is None else n_ubatch

        self.path = Path(path)
        self._open = True
        self._tokens: list[int] = []
        self._turn = 0  # of generations
        self._model_handle = self._load(path, check_tensors)
        self.resident = _settle(self._model_handle, memory, params.mode)
        self.info = _info(self._model_handle)
        self.layers = self._read_layers()
        params.n_ctx = self._default_ctx(ignore_swa) if n_ctx is None else n_ctx
        self._context_handle = context = self._create_context(params)
        self.canceller = Canceller(lambda: lib.ggml_sparse_context_cancel(context))  # not self: no cycle

    def _load(self, path: str | os.PathLike[str], check_tensors: bool) -> Any:
        return _load(path, check_tensors)

    def _read_layers(self) -> tuple[LayerInfo, ...]:
        return _layers(self._model_handle, self.info.n_layer)

    def _default_ctx(self, ignore_swa: bool) -> int:
        limits = [DEFAULT_CTX, self.info.n_ctx_train, 0 if ignore_swa else self.info.sliding_window]
        return min(limit for limit in limits if limit > 0)

    def _create_context(self, params: Any) -> Any:
        error, out = native.new_error(), ffi.new("struct ggml_sparse_context **")
        status = lib.ggml_sparse_context_create(self._model_handle, params, out, error)
        if status != lib.GGML_SPARSE_OK:
            self._open = False
            native.release(self._model_handle)
        native.check(status, error)
        return native.own(out[0], lib.ggml_sparse_context_free, self._model_handle)

    # --- life ---------------------------------------------------------------

    def close(self) -> None:
        """Free context and model; a second call does nothing, any other call raises ArgumentError."""
        if self._open:
            self._open = False
            native.release(self._context_handle)
            native.release(self._model_handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _model(self) -> Any:
        return self._checked(self._model_handle)

    @property
    def _context(self) -> Any:
        return self._checked(self._context_handle)

    def _checked(self, handle: Any) -> Any:
        if not self._open:
            raise ArgumentError(f"the model {self.path} is closed", where=str(self.path), expected="open")
        return handle

    # --- the file -----------------------------------------------------------

    def meta(self, key: str) -> str | None:
        """A scalar or string key of the file as text; None when there is none."""
        value = lib.ggml_sparse_model_meta(self._model, key.encode())
        return native.text(value) if value else None

    # --- text ---------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`.

        Args:
            add_special: add BOS (and EOS) where the file says so.
            parse_special: read `<|im_start|>` and its like as the control tokens that they name.
        """
        data = text.encode("utf-8", "surrogateescape")
        room, count, error = len(data) + 8, ffi.new("int32_t *"), native.new_error()
        while True:
            tokens = ffi.new("int32_t[]", room)
            status = lib.ggml_sparse_tokenize(
                self._model, data, len(data), add_special, parse_special, tokens, room, count, error
            )
            native.check(status, error)
            if count[0] <= room:
                return list(tokens[0 : count[0]])
            room = count[0]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Bytes of one token, perhaps part of a UTF-8 character; b"" for control tokens unless `special`."""
        room, count, error = 64, ffi.new("int32_t *"), native.new_error()
        while True:
            piece = ffi.new("char[]", room)
            native.check(lib.ggml_sparse_token_to_piece(self._model, token, special, piece, room, count, error), error)
            if count[0] <= room:
                return bytes(ffi.buffer(piece, count[0]))
            room = count[0]

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of a whole sequence; the space that SentencePiece puts in front is taken off again."""
        data = b"".join(self.piece(token, special=special) for token in tokens)
        adds_space = self.meta("tokenizer.ggml.model") == "llama" and (
            self.meta("tokenizer.ggml.add_space_prefix") != "false"
        )
        return (data.removeprefix(b" ") if adds_space else data).decode("utf-8", "replace")

    @cached_property
    def control_tokens(self) -> Mapping[str, int]:
        """Text of every control token -> its id: what tokenize reads as such with parse_special only."""
        piece, count, error, model = ffi.new("char[]", 64), ffi.new("int32_t *"), native.new_error(), self._model

        def is_control(token: int) -> bool:  # as piece, without its garbage: a vocabulary may have 200,000 tokens
            native.check(lib.ggml_sparse_token_to_piece(model, token, False, piece, 64, count, error), error)
            return int(count[0]) == 0

        found = filter(is_control, range(self.info.n_vocab))
        return {text: token for token in found if (text := self.piece(token, special=True).decode("utf-8", "replace"))}

    def is_end(self, token: int) -> bool:
        """Whether `token` ends a generation (eos, eot and their like)."""
        return bool(lib.ggml_sparse_token_is_eog(self._model, token))

    # --- the sequence -------------------------------------------------------

    @property
    def mode(self) -> str:
        """Of the FFN; may be set between evaluations."""
        return word_of(lib.ggml_sparse_context_get_mode(self._context), MODES)

    @mode.setter
    def mode(self, mode: str) -> None:
        error = native.new_error()
        native.check(lib.ggml_sparse_context_set_mode(self._context, choose("mode", mode, MODES), error), error)

    def shift_threshold(self, shift: float) -> None:
        """Add `shift` to the predictor's threshold of every layer, from the next evaluation on; 0 at first.

        Below 0 more neurons pass: fewer active ones are missed, more rows are computed.
        """
        error = native.new_error()
        native.check(lib.ggml_sparse_context_shift_threshold(self._context, shift, error), error)

    def set_threads(self, n_threads: int) -> None:
        """Threads of the evaluations to come; 0 = physical cores available to the process."""
        error = native.new_error()
        status = lib.ggml_sparse_context_set_threads(self._context, n_threads or default_threads(), error)
        native.check(status, error)

    @property
    def n_ctx(self) -> int:
        """Tokens that the context holds."""
        return int(lib.ggml_sparse_context_n_ctx(self._context))

    @property
    def n_past(self) -> int:
        """Tokens of the sequence so far."""
        return int(lib.ggml_sparse_context_n_past(self._context))

    @property
    def tokens(self) -> list[int]:
        """The sequence so far, [n_past]."""
        return self._tokens[: self.n_past]

    def eval(self, tokens: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Append `tokens` to the sequence; returns the logits of the last, float32 [n_vocab].

        Raises:
            ContextOverflowError: they do not fit; nothing was evaluated.
            CancelledError, BackendError: n_past tells how many tokens were.
        """
        self.append(tokens)
        return self.last_logits()

    def append(self, tokens: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        """As eval, for those who sample: the logits stay where sample() finds them."""
        self._eval(self._ids(tokens), ffi.NULL)

    def logits(
        self, tokens: Sequence[int] | npt.NDArray[np.integer[Any]], mode: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits after each of `tokens`, as a fresh sequence: float32 [n_tokens, n_vocab].

        Args:
            mode: for this call only; None = the current mode.
        """
        ids, before = self._ids(tokens), self.mode
        self.reset()
        out = np.empty((len(ids), self.info.n_vocab), dtype=np.float32)
        try:
            self.mode = mode or before
            self._eval(ids, ffi.from_buffer("float[]", out, require_writable=True))
        finally:
            self.mode = before
        return out

    def last_logits(self) -> npt.NDArray[np.float32]:
        """A copy of the logits after the last token, float32 [n_vocab]. ArgumentError before the first."""
        pointer = lib.ggml_sparse_context_last_logits(self._context)
        if not pointer:
            raise ArgumentError("there are no logits before the first evaluation", where="last_logits")
        buffer = ffi.buffer(pointer, 4 * self.info.n_vocab)
        logits = np.empty(self.info.n_vocab, dtype=np.float32)
        logits[:] = np.frombuffer(buffer, dtype=np.float32)
        return logits

    def truncate(self, n_past: int) -> None:
        """Keep the first `n_past` tokens of the sequence, forget the rest."""
        self.canceller.check_idle()
        error = native.new_error()
        native.check(lib.ggml_sparse_context_truncate(self._context, n_past, error), error)

    def reset(self) -> None:
        """Forget the sequence."""
        self.truncate(0)

    def take_turn(self) -> int:
        """The sequence's number for the generation that begins now; see check_turn."""
        self._turn += 1
        return self._turn

    def check_turn(self, turn: int) -> None:
        """ArgumentError when another generation has begun since: the sequence is no longer the caller's."""
        if turn != self._turn:
            raise ArgumentError(
                "another generation has begun on this model, which has one sequence; finish a stream before the "
                "next, or open a second Model",
                where="stream",
                expected="one generation at a time",
                found="two",
            )

    def hidden_states(self, tokens: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Hidden states after the last norm, of `tokens` as a fresh sequence: float32 [n_tokens, n_embd].

        The sequence so far is forgotten. ContextOverflowError when they do not fit the context.
        """
        ids, error = self._ids(tokens), native.new_error()
        out = np.empty((len(ids), self.info.n_embd), dtype=np.float32)
        context, states = self._context, ffi.from_buffer("float[]", out, require_writable=True)
        pointer = ffi.from_buffer("int32_t[]", ids)

        def evaluate() -> int:
            return int(lib.ggml_sparse_context_embed(context, pointer, len(ids), states, error))

        self._tokens = []
        self._turn += 1
        with on_interrupt(self.cancel):
            status = self.canceller.run(evaluate, lib.GGML_SPARSE_ERR_CANCELLED)
        native.check(status, error)
        return out

    def cancel(self) -> None:
        """Stop the evaluation or generation under way; without effect when there is none. Any thread."""
        self.canceller.cancel()

    def _ids(self, tokens: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
        ids = np.asarray(tokens)
        if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
            found = f"{ids.dtype} {list(ids.shape)}"
            raise ArgumentError(
                f"tokens must be at least one integer in a row, not {found}",
                where="tokens",
                expected="integers [n_tokens]",
                found=found,
            )
        low, high = (ids[0], ids[0]) if ids.size == 1 else (ids.min(), ids.max())
        if low < 0 or high >= self.info.n_vocab:
            found = f"{low} .. {high}"
            raise ArgumentError(
                f"tokens must lie in 0 .. {self.info.n_vocab - 1}, not {found}",
                where="tokens",
                expected=f"0 .. {self.info.n_vocab - 1}",
                found=found,
            )
        return np.ascontiguousarray(ids, dtype=np.int32)

    def _eval(self, ids: npt.NDArray[np.int32], logits: Any) -> None:
        context, error = self._context, native.new_error()
        pointer = ffi.from_buffer("int32_t[]", ids)
        self._tokens = self.tokens + ids.tolist()  # read back as far as n_past only

        def evaluate() -> int:
            return int(lib.ggml_sparse_context_eval(context, pointer, len(ids), logits, error))

        # One token is over soon enough for Python's own signal handling.
        guard: AbstractContextManager[None] = on_interrupt(self.cancel) if len(ids) > 1 else nullcontext()
        with guard:
            status = self.canceller.run(evaluate, lib.GGML_SPARSE_ERR_CANCELLED)
        native.check(status, error)

    # --- sampling -----------------------------------------------------------

    def sampler(self, params: SamplingParams) -> Sampler:
        """A sampler chain for this model; GrammarError when its grammar does not parse."""
        return Sampler(self._model, params.with_seed())

    def sample(self, sampler: Sampler) -> int:
        """Draw the next token from the last logits."""
        return sampler.sample(self._context)

    # --- counters -----------------------------------------------------------

    def stats(self) -> list[BatchStats]:
        """Records of the batches since the last call, oldest first; at most 4096 are kept."""
        records, found = ffi.new("struct ggml_sparse_stats[]", 64), []
        while count := lib.ggml_sparse_context_read_stats(self._context, records, 64):
            found += [self._batch(records[i]) for i in range(count)]
        return found

    @staticmethod
    def _batch(record: Any) -> BatchStats:
        values = native.read_struct(record)
        return BatchStats(**{**values, "mode": word_of(values["mode"], MODES), "total": LayerStats(**values["total"])})

    def layer_stats(self) -> list[LayerStats]:
        """Counters of the last batch, one per layer."""
        layers = ffi.new("struct ggml_sparse_layer_stats[]", self.info.n_layer)
        lib.ggml_sparse_context_layer_stats(self._context, layers)
        return [LayerStats(**native.read_struct(layer)) for layer in layers]

    def set_profiling(self, enable: bool) -> None:
        """Start or stop counting how often every neuron is not zero."""
        error = native.new_error()
        native.check(lib.ggml_sparse_context_profile(self._context, enable, error), error)

    def read_profile(self) -> list[LayerProfile]:
        """The counts so far, one per layer."""
        return [self._layer_profile(il) for il in range(self.info.n_layer)]

    def _layer_profile(self, il: int) -> LayerProfile:
        n_expert = max(self.info.n_expert, 1)
        counts = np.zeros((n_expert, self.info.n_ff), dtype=np.uint64)
        columns = np.zeros(n_expert, dtype=np.uint64)
        error = native.new_error()
        status = lib.ggml_sparse_context_profile_read(
            self._context,
            il,
            ffi.from_buffer("uint64_t[]", counts, require_writable=True),
            ffi.from_buffer("uint64_t[]", columns, require_writable=True),
            error,
        )
        native.check(status, error)
        return LayerProfile(counts.astype(np.int64), columns.astype(np.int64))

    def set_diagnosis(self, every: int) -> None:
        """Compute every `every`-th FFN column also in full, from now on; 0 stops. Counters start at zero."""
        error = native.new_error()
        native.check(lib.ggml_sparse_context_diagnose(self._context, every, error), error)

    def read_diagnosis(self) -> list[LayerDiagnosis]:
        """What those columns showed since, one per layer: recall of the selection, shares of the branches."""
        layers = ffi.new("struct ggml_sparse_layer_diagnosis[]", self.info.n_layer)
        lib.ggml_sparse_context_diagnosis(self._context, layers)
        return [LayerDiagnosis(**native.read_struct(layer)) for layer in layers]

    def profile(self, tokens: Sequence[int] | npt.NDArray[np.integer[Any]]) -> list[LayerProfile]:
        """How often each neuron is not zero over `tokens`, read in fresh sequences of at most n_ctx."""
        ids, room = self._ids(tokens), self.n_ctx
        self.set_profiling(True)
        try:
            for start in range(0, len(ids), room):
                self.reset()
                self._eval(ids[start : start + room], ffi.NULL)
            return self.read_profile()
        finally:
            self.set_profiling(False)
