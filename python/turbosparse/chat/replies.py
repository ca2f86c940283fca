"""Replies that are being written: into the store, four times a second, whoever is watching."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import ArgumentError, UnsupportedModelError
from ..server.engine import Done, Engine, Job, Request
from .live import Live
from .prompts import request_for, same_again, sampling
from .records import Conversation, Message, Status
from .store import Store

T = TypeVar("T")

FLUSH = 0.25  # seconds between two writes to the store
TITLE = 60  # characters of a title made of the first message
RECALL_TOKENS = 256  # of a conversation, at most, and every which of them is looked at in full
RECALL_EVERY = 4

RECORDED = (
    *("max_tokens", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty"),
    *("presence_penalty", "penalty_last_n", "ignore_eos"),
)

Save = Callable[[str, Status, dict[str, Any] | None], None]  # text, status, stats at the end


class Replies:
    """Starts generations and keeps them going when pages come and go.

    Belongs to the event loop; the store is used in threads. Messages are named by their ids, a
    comparison by its message's id with a minus.
    """

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._live: dict[int, Live] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    # --- starting -----------------------------------------------------------

    async def send(self, conversation: int, content: str, parent: int | None) -> tuple[Message, Message]:
        """Add the user's message below `parent` and answer it; returns both messages."""
        if not content.strip():
            raise ArgumentError("the message is empty", where="content", expected="text", found="none")
        chosen = await _thread(self._store.conversation, conversation)
        if parent is not None:
            await _thread(self._store.message, parent)
        history = [] if parent is None else await _thread(self._store.path, conversation, parent)
        if history and history[-1].role == "user":
            raise ArgumentError("a user message answers a reply, not another user message", where="parent_id")
        draft = _draft(conversation, parent, content)
        request = request_for(self._store, self._engine, chosen, [*history, draft])
        live = Live(self._engine.submit(request))  # first: what is refused is not kept
        async with _cancelling(live.job):
            user = await _thread(self._store.add, conversation, "user", content, parent=parent)
            if not chosen.title:
                await _thread(self._store.update, conversation, title=title_of(content))
            return user, await self._begin(user, live, request)

    async def regenerate(self, message: int) -> Message:
        """Another answer beside reply `message` (or below the user's message, if it has none)."""
        given = await _thread(self._store.message, message)
        asked = given if given.role == "user" else await self._parent(given)
        conversation, history = await self._history(asked)
        request = request_for(self._store, self._engine, conversation, history)
        live = Live(self._engine.submit(request))
        async with _cancelling(live.job):
            return await self._begin(asked, live, request)

    async def proceed(self, message: int) -> Message:
        """Go on with reply `message` where it ended."""
        given = await _thread(self._store.message, message)
        if message in self._live:
            raise ArgumentError("the reply is still being written", where="message", found=str(message))
        asked = await self._parent(given)
        conversation, history = await self._history(asked)
        request = request_for(self._store, self._engine, conversation, history, begun=given)
        live = Live(self._engine.submit(request), prefix=given.content)
        async with _cancelling(live.job):
            old = await _thread(self._store.trace, message) or []
            kept = old if "".join(row[1] for row in old) == given.content else []
            await _thread(self._store.write, message, given.content)
        self._run(message, live, request, self._keep(given, kept))
        return await _thread(self._store.message, message)

    async def compare(self, message: int, mode: str) -> None:
        """Answer the same prompt with the same seed in `mode`; the result is kept beside the reply."""
        given = await _thread(self._store.message, message)
        if "seed" not in given.stats:
            raise ArgumentError("this reply was not generated here, so its seed is not known", where="message")
        asked = await self._parent(given)
        conversation, history = await self._history(asked)
        request = request_for(self._store, self._engine, conversation, history)
        params = sampling(given.stats.get("params", {}), request.params)
        request = same_again(request, mode, given.stats["seed"], params)
        await self.cancel(-message)

        def save(text: str, status: Status, stats: dict[str, Any] | None) -> None:
            if stats is not None:
                self._store.set_comparison(message, text, {**stats, "status": status})

        self._run(-message, Live(self._engine.submit(request)), request, save)

    async def recall(self, conversation: int, shifts: Sequence[float]) -> dict[str, Any]:
        """Which share of the active neurons the predictor lets pass, for each shift of its threshold.

        Reads the beginning of the shown branch once per shift, in mode predicted; every RECALL_EVERY-th
        token's FFN is also computed in full. {tokens, found: [LayerDiagnosis.as_dict() and threshold_shift]}.
        """
        chosen = await _thread(self._store.conversation, conversation)
        history = await _thread(self._store.path, conversation)
        request = request_for(self._store, self._engine, chosen, history)
        prompt = request.prompt[:RECALL_TOKENS]
        once = replace(request, prompt=prompt, params=replace(request.params, max_tokens=0), cache_prompt=False)
        found = [await self._diagnosed(replace(once, mode="predicted", threshold_shift=shift)) for shift in shifts]
        return {"tokens": len(prompt), "found": found}

    async def _diagnosed(self, request: Request) -> dict[str, Any]:
        job = self._engine.submit(replace(request, n_probs=None, diagnose_every=RECALL_EVERY))
        async with _cancelling(job):
            async for event in job:
                if isinstance(event, Done) and event.diagnosis is not None:
                    return {"threshold_shift": request.threshold_shift, **event.diagnosis.as_dict()}
        raise UnsupportedModelError("this model has no predictor to look at", where="mode", found="predicted")

    async def _begin(self, asked: Message, live: Live, request: Request) -> Message:
        store, parent = self._store, asked.id
        reply = await _thread(store.add, asked.conversation_id, "assistant", "", parent=parent, status="streaming")
        self._run(reply.id, live, request, self._keep(reply, []))
        return reply

    async def _parent(self, message: Message) -> Message:
        if message.role != "assistant" or message.parent_id is None:
            raise ArgumentError("this is not a reply", where="message", found=str(message.id))
        return await _thread(self._store.message, message.parent_id)

    async def _history(self, last: Message) -> tuple[Conversation, list[Message]]:
        conversation = await _thread(self._store.conversation, last.conversation_id)
        return conversation, await _thread(self._store.path, last.conversation_id, last.id)

    def _keep(self, message: Message, rows_before: list[Any]) -> Save:
        def save(text: str, status: Status, stats: dict[str, Any] | None) -> None:
            live = self._live[message.id]
            self._store.write(message.id, text, status=status, stats=stats)
            if stats is not None:
                self._store.set_trace(message.id, [*rows_before, *live.rows])

        return save

    # --- under way ----------------------------------------------------------

    def _run(self, key: int, live: Live, request: Request, save: Save) -> None:
        self._live[key] = live
        task = asyncio.get_running_loop().create_task(self._write(key, live, request, save))
        self._tasks[key] = task

    async def _write(self, key: int, live: Live, request: Request, save: Save) -> None:
        reading = asyncio.ensure_future(live.collect())
        try:
            while not (await asyncio.wait({reading}, timeout=FLUSH))[0]:
                await _thread(save, live.text, "streaming", None)
            await reading
        except asyncio.CancelledError:  # the program ends
            reading.cancel()
            save(live.text, "interrupted", self._stats(live, request))
            raise
        else:
            await _thread(save, live.text, _status(live), self._stats(live, request))
        finally:
            live.close()
            self._live.pop(key, None)
            self._tasks.pop(key, None)

    def _stats(self, live: Live, request: Request) -> dict[str, Any]:
        card = self._engine.card if self._engine.state == "ready" else None
        done, last = live.done, live.last
        timings = done.timings if done else last.timings if last else None
        sparsity = done.sparsity if done else None
        return {
            "model": card.name if card else "",
            "n_ctx": card.n_ctx if card else 0,
            "mode": done.mode if done else request.mode,
            "threshold_shift": request.threshold_shift,
            "seed": request.params.seed,
            "params": _changed(request),
            "n_prompt": len(request.prompt),
            "finish_reason": done.finish_reason if done else None,
            "ttft_ms": live.ttft_ms,
            "timings": timings.as_dict() if timings else None,
            "sparsity": sparsity.as_dict() if sparsity else None,
            **({"error": live.error} if live.error else {}),
        }

    def keys(self) -> list[int]:
        """Messages that are being written."""
        return [key for key in self._live if key > 0]

    async def follow(self, key: int, cursor: int = 0) -> AsyncIterator[dict[str, Any]]:
        """The events of a reply (see live.Live.follow); ends at once when it is not being written."""
        live = self._live.get(key)
        if live is not None:
            async for event in live.follow(cursor):
                yield event

    async def cancel(self, key: int) -> None:
        """Stop a reply, keep what it said; returns when that is in the store."""
        live, task = self._live.get(key), self._tasks.get(key)
        if live is not None and task is not None:
            live.job.cancel()
            await asyncio.wait({task})

    async def cancel_conversation(self, conversation: int) -> None:
        """Stop every reply of a conversation."""
        for key in self.keys():
            message = await _thread(self._store.message, key)
            if message.conversation_id == conversation:
                await self.cancel(key)

    async def close(self) -> None:
        """End all replies as interrupted."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _cancelling(job: Job) -> AsyncIterator[None]:
    """A job that nobody will read must not run on."""
    try:
        yield
    except BaseException:
        job.cancel()
        raise


def title_of(content: str) -> str:
    """The beginning of the first message, cut at a word."""
    line = next((line.strip() for line in content.splitlines() if line.strip()), "")
    if len(line) <= TITLE:
        return line
    return line[:TITLE].rsplit(" ", 1)[0] + "..."


def _draft(conversation: int, parent: int | None, content: str) -> Message:
    return Message(0, conversation, parent, "user", content, "complete", {}, 0.0)


def _status(live: Live) -> Status:
    if live.error or live.done is None:
        return "failed"
    return "stopped" if live.done.finish_reason == "cancelled" else "complete"


def _changed(request: Request) -> dict[str, Any]:
    """Sampling parameters for the record."""
    return {**{name: getattr(request.params, name) for name in RECORDED}, "stop": list(request.params.stop)}


async def _thread(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    return await asyncio.to_thread(function, *arguments, **named)
