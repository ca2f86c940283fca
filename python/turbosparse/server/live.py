"""engine.Engine on a real model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

from .. import chat_template
from ..errors import ArgumentError, ContextOverflowError, UnsupportedModelError
from ..model import MODES
from ..sampling import SamplingParams
from ..sequences import SequenceModel
from ..threads import default_threads
from .engine import LoadOptions, MemoryPlan, Metrics, ModelCard, NotReadyError, Request, SlotView, State
from .plan import memory_plan
from .runs import CHUNK, LiveJob, Way
from .scheduler import Scheduler

DEFAULT_PARALLEL = 4
MAX_WAITING = 64
PASSED_ON = ("mode", "n_ctx", "n_threads", "kv_type", "memory", "flash_attn", "ignore_swa")  # to Model as they are
STOCK_NOTE = "The file's architecture is {}, not turbosparse: stock llama.cpp runs it and computes every neuron."


class LiveEngine:
    """See engine.Engine.

    Args:
        defaults: of load().
        max_waiting: requests that may wait for a slot.
    """

    def __init__(self, defaults: LoadOptions | None = None, *, max_waiting: int = MAX_WAITING) -> None:
        self._defaults = defaults or LoadOptions()
        self._max_waiting = max_waiting
        self._state: State = "empty"
        self._card: ModelCard | None = None
        self._model: SequenceModel | None = None
        self._scheduler: Scheduler | None = None
        self._loading = asyncio.Lock()
        self._jobs = 0

    # --- the model --------------------------------------------------------------

    @property
    def state(self) -> State:
        """See engine.Engine."""
        return self._state

    @property
    def card(self) -> ModelCard:
        """See engine.Engine."""
        if self._card is None:
            found = {"loading": "one is being loaded", "failed": "the last one could not be opened"}
            reason = found.get(self._state, "open one first")
            raise NotReadyError(f"no model is loaded: {reason}", where="model", found=self._state)
        return self._card

    @property
    def _loaded(self) -> tuple[SequenceModel, Scheduler]:
        _ = self.card
        assert self._model is not None
        assert self._scheduler is not None
        return self._model, self._scheduler

    async def load(
        self,
        path: str | Path,
        options: LoadOptions | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> ModelCard:
        """See engine.Engine."""
        options = options or self._defaults
        async with self._loading:
            await self._close("loading")
            if progress:
                progress(0.0)
            try:
                model, card = await asyncio.to_thread(_opened, Path(path), options)
            except BaseException:
                self._state = "failed"
                raise
            self._model, self._card = model, card
            self._scheduler = Scheduler(model, max_waiting=self._max_waiting, sparse=card.sparse)
            self._state = "ready"
        if progress:
            progress(1.0)
        return self.card

    async def unload(self) -> None:
        """See engine.Engine."""
        async with self._loading:
            await self._close("empty")

    async def close(self) -> None:
        """See engine.Engine."""
        await self.unload()

    async def _close(self, state: State) -> None:
        model, scheduler = self._model, self._scheduler
        self._model = self._scheduler = self._card = None
        self._state = state
        if scheduler is not None:
            await asyncio.to_thread(scheduler.stop)
        if model is not None:
            await asyncio.to_thread(model.close)

    async def plan(self, path: str | Path, options: LoadOptions | None = None) -> MemoryPlan:
        """See engine.Engine."""
        options = options or self._defaults
        parallel = options.n_parallel or DEFAULT_PARALLEL
        return await asyncio.to_thread(memory_plan, Path(path), replace(options, n_parallel=parallel))

    # --- text ---------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """See engine.Engine. ContextOverflowError for a text that cannot fit, before time is spent on it."""
        self._check_size(len(text.encode("utf-8", "surrogateescape")))
        return self._loaded[0].tokenize(text, add_special=add_special, parse_special=parse_special)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """See engine.Engine."""
        return self._loaded[0].piece(token, special=special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """See engine.Engine."""
        return self._loaded[0].detokenize(tokens, special=special)

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """See engine.Engine."""
        return chat_template.prompt_for_model(self._loaded[0], messages, **variables)

    def encode(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """See engine.Engine. ContextOverflowError as tokenize."""
        self._check_size(sum(len(str(message.get("content") or "").encode()) for message in messages))
        return chat_template.encode_messages(self._loaded[0], messages, **variables)

    def _check_size(self, count: int) -> None:
        """libllama's tokenizers may take minutes for megabytes of control tokens."""
        least, n_ctx = count // self._loaded[0].longest_piece, self.card.n_ctx
        if least >= n_ctx:
            raise ContextOverflowError(
                f"the text has at least {least} tokens, but the context holds {n_ctx}; send less of it "
                "(nothing is ever cut off silently)",
                needed=least,
                available=n_ctx,
                where="prompt",
            )

    # --- requests -------------------------------------------------------------------

    def submit(self, request: Request) -> LiveJob:
        """See engine.Engine."""
        model, scheduler = self._loaded
        card = self.card
        _check(request, card)
        request = replace(request, params=request.params.with_seed())
        sampler = model.sampler(request.params)
        self._jobs += 1
        job = LiveJob(self._jobs, request, scheduler.cancel)
        try:
            scheduler.submit(job, sampler, _way(request, card))
        except BaseException:
            sampler.close()
            raise
        return job

    async def embed(self, tokens: Sequence[int]) -> list[float]:
        """See engine.Engine."""
        return await asyncio.wrap_future(self._loaded[1].embed(tokens))

    # --- views ------------------------------------------------------------------------

    def slots(self) -> list[SlotView]:
        """See engine.Engine."""
        return self._loaded[1].slots()

    def metrics(self) -> Metrics:
        """See engine.Engine."""
        return Metrics() if self._scheduler is None else self._scheduler.metrics()


def _way(request: Request, card: ModelCard) -> Way:
    mode = (request.mode or card.default_mode) if card.sparse else ""
    return Way(mode, request.threshold_shift if mode == "predicted" else 0.0)


def _check(request: Request, card: ModelCard) -> None:
    n_prompt = len(request.prompt)
    if n_prompt == 0:
        raise ArgumentError("the prompt is empty", where="prompt", expected="at least one token", found="none")
    if n_prompt >= card.n_ctx:
        raise ContextOverflowError(
            f"the prompt has {n_prompt} tokens, but the context holds {card.n_ctx} and an answer needs room too; "
            "shorten the prompt or raise --n-ctx (nothing is ever cut off silently)",
            needed=n_prompt,
            available=card.n_ctx,
            where="prompt",
        )
    if request.mode is not None and request.mode not in card.modes:
        expected = ", ".join(card.modes) or "none: this model is not sparse"
        raise UnsupportedModelError(
            f"this model has no mode {request.mode}; it has {expected}",
            where="mode",
            expected=expected,
            found=request.mode,
        )
    if request.slot is not None and not 0 <= request.slot < card.n_parallel:
        raise ArgumentError(
            f"there is no slot {request.slot}; there are {card.n_parallel}",
            where="id_slot",
            expected=f"0 .. {card.n_parallel - 1}",
            found=str(request.slot),
        )


def _opened(path: Path, options: LoadOptions) -> tuple[SequenceModel, ModelCard]:
    model = open_model(path, options)
    try:
        return model, describe(model, options)
    except BaseException:
        model.close()
        raise


def open_model(path: Path, options: LoadOptions) -> SequenceModel:
    """The model with its sequences; a file of another architecture through stock llama.cpp. Raises as Model."""
    try:
        return _open(path, options, stock=False)
    except UnsupportedModelError as error:
        if error.where != "general.architecture" or error.found in ("", "turbosparse"):
            raise
    return _open(path, replace(options, mode=None), stock=True)


def _open(path: Path, options: LoadOptions, stock: bool) -> SequenceModel:
    return SequenceModel(
        path,
        n_seq=options.n_parallel or DEFAULT_PARALLEL,
        stock=stock,
        **{name: getattr(options, name) for name in PASSED_ON},
        n_batch=CHUNK,
        n_ubatch=CHUNK,
    )


def describe(model: SequenceModel, options: LoadOptions) -> ModelCard:
    """What clients may know of a model."""
    info, sparse = model.info, not model.stock
    _ = model.longest_piece  # now, not with the first request
    special = {name: model.piece(token, special=True) if token >= 0 else b"" for name, token in _tokens(model)}
    return ModelCard(
        id=model.path.stem,
        name=name_for_people(model.meta("general.name") or "", model.path.stem),
        path=str(model.path),
        created=int(time()),
        sparse=sparse,
        note="" if sparse else STOCK_NOTE.format(info.base_architecture),
        architecture="turbosparse" if sparse else info.base_architecture,
        activation=info.activation if sparse else "",
        modes=tuple(mode for mode in MODES if mode != "predicted" or info.has_predictor) if sparse else (),
        default_mode=model.mode if sparse else "",
        has_predictor=info.has_predictor,
        resident=model.resident,
        n_ctx=model.n_ctx,
        n_ctx_train=info.n_ctx_train,
        n_parallel=model.n_seq,
        n_threads=options.n_threads or default_threads(),
        n_vocab=info.n_vocab,
        n_embd=info.n_embd,
        n_layer=info.n_layer,
        n_ff=info.n_ff,
        n_expert=info.n_expert,
        bytes_file=info.bytes_file,
        bytes_dense_token=info.bytes_dense_token,
        chat_template=chat_template.for_model(model),
        bos_token=special["bos"].decode("utf-8", "replace"),
        eos_token=special["eos"].decode("utf-8", "replace"),
        defaults=SamplingParams.for_model(model),
    )


def name_for_people(given: str, stem: str) -> str:
    """`given` (general.name) where the file's name has a word of it, else the file's name.

    Converters take general.name from a directory's, and so it is often "Final", "Snapshots" or a hash.
    """
    words = re.findall(r"[a-z]{3,}", given.lower())
    return given if any(word in stem.lower() for word in words) else stem


def _tokens(model: SequenceModel) -> list[tuple[str, int]]:
    return [("bos", model.info.token_bos), ("eos", model.info.token_eos)]
