"""The asyncio twin of Model, as httpx and openai have theirs: the same names, awaited."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from .api import Model
from .cancel import CancelToken
from .errors import ArgumentError
from .generate import Chunk, Generation, Prompt, Result

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Self, Unpack

    from .api import Pooling
    from .options import ChatOptions, ModelOptions, StreamOptions
    from .sampling import SamplingParams

T = TypeVar("T")


class AsyncModel:
    """A Model for asyncio: it works in a thread of its own, and the event loop stays free.

        async with AsyncModel("model.gguf") as model:
            result = await model.generate("Once upon a time", max_tokens=64)
            async for chunk in model.stream("And then"):
                print(chunk.text, end="", flush=True)

    The file is loaded on entry, or with the first call. Requests of several tasks wait for each
    other, first come, first served. Cancelling the task (also by a timeout, or Ctrl-C in
    asyncio.run) stops the evaluation under way; so does leaving an `async for`.

    Args:
        path, options: as for Model.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, **options: Unpack[ModelOptions]) -> None:
        self._open: Callable[[], Model] = partial(Model, path, **options)
        self._loaded: Model | None = None
        self._closed = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="turbosparse")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not loaded" if self._loaded is None else repr(self._loaded)
        return f"<turbosparse.AsyncModel {state}>"

    async def __aenter__(self) -> Self:
        await self._run(lambda model, token: None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop what is under way and free the model; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._loaded is not None:
            self._loaded.cancel()
        await asyncio.get_running_loop().run_in_executor(self._worker, self._free)
        self._worker.shutdown(wait=False)

    def _free(self) -> None:
        if self._loaded is not None:
            self._loaded.close()

    @property
    def model(self) -> Model:
        """The Model itself, for `info`, `tokenize` and their like while nothing is under way.

        ArgumentError before it is loaded.
        """
        if self._loaded is None:
            raise ArgumentError(
                "the model is not loaded yet; use `async with`", where="model", expected="loaded", found="not loaded"
            )
        return self._loaded

    def cancel(self) -> None:
        """Stop what is under way. Any thread."""
        if self._loaded is not None:
            self._loaded.cancel()

    async def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Unpack[StreamOptions]
    ) -> Result:
        """As Model.generate."""
        return await self._run(lambda model, token: model.generate(prompt, params, cancel=token, **options))

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Unpack[StreamOptions]
    ) -> AsyncGeneration:
        """As Model.stream, for `async for`; `await result()` sums up."""
        return AsyncGeneration(
            lambda take: self._run(
                lambda model, token: _pump(model.stream(prompt, params, cancel=token, **options), take)
            )
        )

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        **options: Unpack[ChatOptions],
    ) -> Result:
        """As Model.chat."""
        return await self._run(lambda model, token: model.chat(messages, params, cancel=token, **options))

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncGeneration:
        """As Model.stream_chat, for `async for`."""
        return AsyncGeneration(
            lambda take: self._run(
                lambda model, token: _pump(model.stream_chat(messages, params, cancel=token, **options), take)
            )
        )

    async def embed(
        self, texts: str | Sequence[str], *, pooling: Pooling = "mean", normalize: bool = True
    ) -> npt.NDArray[np.float32]:
        """As Model.embed."""
        return await self._run(lambda model, token: model.embed(texts, pooling=pooling, normalize=normalize))

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """As Model.tokenize."""
        return await self._run(
            lambda model, token: model.tokenize(text, add_special=add_special, parse_special=parse_special)
        )

    async def _run(self, work: Callable[[Model, CancelToken], T]) -> T:
        """`work` in the model's thread; when the task is cancelled, so is the work."""
        if self._closed:
            raise ArgumentError("the model is closed", where="AsyncModel", expected="open", found="closed")
        token = CancelToken()
        future = asyncio.get_running_loop().run_in_executor(self._worker, lambda: work(self._model(), token))
        try:
            return await future
        except asyncio.CancelledError:
            token.cancel()
            raise

    def _model(self) -> Model:
        if self._loaded is None:
            self._loaded = self._open()
        return self._loaded


def _pump(generation: Generation, take: Callable[[Chunk], None]) -> Result:
    for chunk in generation:
        take(chunk)
    return generation.result()


class AsyncGeneration:
    """Chunks as they come, and the Result.

        generation = model.stream("Once")
        async for chunk in generation:
            print(chunk.text, end="")
        print((await generation.result()).finish_reason)

    It begins with the first `async for`, or with result(); aclose(), or forgetting it, stops it.
    """

    def __init__(self, start: Callable[[Callable[[Chunk], None]], Any]) -> None:
        self._start = start
        self._chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()
        self._task: asyncio.Task[Result] | None = None

    def _begun(self) -> asyncio.Task[Result]:
        if self._task is None:
            loop, chunks = asyncio.get_running_loop(), self._chunks
            self._task = loop.create_task(self._start(lambda chunk: _put(loop, chunks, chunk)))
            self._task.add_done_callback(lambda task: chunks.put_nowait(None))
        return self._task

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        task = self._begun()
        chunk = await self._chunks.get()
        if chunk is not None:
            return chunk
        self._chunks.put_nowait(None)  # for whoever asks again
        if not task.cancelled():
            task.result()  # raises what the generation raised
        raise StopAsyncIteration

    async def result(self) -> Result:
        """Of the finished generation; the chunks not asked for are dropped."""
        task = self._begun()
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    async def aclose(self) -> None:
        """Stop."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def __del__(self) -> None:
        task = self._task
        if task is not None and not task.done() and not task.get_loop().is_closed():
            task.get_loop().call_soon_threadsafe(task.cancel)


def _put(loop: asyncio.AbstractEventLoop, chunks: asyncio.Queue[Chunk | None], chunk: Chunk) -> None:
    loop.call_soon_threadsafe(chunks.put_nowait, chunk)
