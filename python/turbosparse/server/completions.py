"""Routes that generate: chat, text, llama-server's own, and embeddings."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from ..errors import ContextOverflowError
from .asks import Ask, chat_ask, prompt_tokens, text_ask
from .engine import Done, Engine, Event, Job, Request, Token
from .fields import Fields, read_json
from .guard import App
from .problem import from_exception, invalid
from .replies import NativeReply, Reply, TextReply, usage
from .sse import EventStream, data, unless_gone

log = logging.getLogger("turbosparse.server")

MAX_INPUTS = 64  # texts per embedding request


async def chat_completions(request: HttpRequest) -> App:
    """POST /v1/chat/completions."""
    return await _complete(request, chat_ask, Reply)


async def completions(request: HttpRequest) -> App:
    """POST /v1/completions."""
    return await _complete(request, text_ask, TextReply)


async def native_completion(request: HttpRequest) -> App:
    """POST /completion."""
    return await _complete(request, lambda engine, body: text_ask(engine, body, native=True), NativeReply)


async def _complete(
    request: HttpRequest, read: Callable[[Engine, Mapping[str, Any]], Ask], dialect: type[Reply]
) -> App:
    engine: Engine = request.app.state.engine
    ask = read(engine, await read_json(request))
    first = dialect(ask, engine.card)
    replies = [first, *(dialect(ask, engine.card, i, first) for i in range(1, ask.n))]
    jobs = _submitted(engine, ask.requests())

    def cancel() -> None:
        for job in jobs:
            job.cancel()

    if ask.stream:
        return EventStream(_encoded(jobs, replies, cancel), cancel)
    try:
        answers = asyncio.gather(*map(_collected, jobs, replies))
        return JSONResponse(_merged(await unless_gone(answers, request.receive, cancel)))
    except BaseException:
        cancel()
        raise


def _submitted(engine: Engine, requests: Sequence[Request]) -> list[Job]:
    """All of them, or none."""
    jobs: list[Job] = []
    try:
        for request in requests:
            jobs.append(engine.submit(request))
    except BaseException:
        for job in jobs:
            job.cancel()
        raise
    return jobs


async def _collected(job: Job, reply: Reply) -> tuple[dict[str, Any], Done]:
    done: Done | None = None
    async for event in job:  # to its end, where the engine tidies up
        if isinstance(event, Token):
            reply.token(event)
        elif isinstance(event, Done):
            done = event
    if done is None:
        raise RuntimeError("the engine's events ended without Done")
    return reply.whole(done), done


def _merged(answers: Sequence[tuple[dict[str, Any], Done]]) -> dict[str, Any]:
    """One object with every choice."""
    whole = answers[0][0]
    if len(answers) > 1:
        whole["choices"] = [answer["choices"][0] for answer, _ in answers]
        whole["usage"] = usage([done for _, done in answers])
    return whole


async def _encoded(jobs: Sequence[Job], replies: Sequence[Reply], cancel: Callable[[], None]) -> AsyncIterator[bytes]:
    """The stream of the replies; an error after its beginning is its last event, and ends them all."""
    ends: dict[int, Done] = {}
    try:
        for reply in replies:
            for chunk in reply.opening():
                yield data(chunk)
        async with aclosing(interleaved(jobs)) as events:
            async for i, event in events:
                if isinstance(event, Done):
                    ends[i] = event
                for chunk in _chunks(replies[i], event):
                    yield data(chunk)
    except Exception as error:
        cancel()
        problem = from_exception(error)
        if problem.status == 500:
            log.exception("a request failed")
        yield data(problem.body())
        return
    for chunk in replies[0].counted([ends[i] for i in sorted(ends)]):
        yield data(chunk)
    if replies[0].end_mark:
        yield data("[DONE]")


async def interleaved(jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, Event], None]:
    """(number of the job, event) as they come; the first error ends it."""
    queue: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue()

    async def read(i: int, job: Job) -> None:
        try:
            async for event in job:
                queue.put_nowait((i, event))
            queue.put_nowait((i, None))
        except Exception as error:
            queue.put_nowait((i, error))

    readers = [asyncio.ensure_future(read(i, job)) for i, job in enumerate(jobs)]
    try:
        left = len(jobs)
        while left:
            i, found = await queue.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                left -= 1
            else:
                yield i, found
    finally:
        for reader in readers:
            reader.cancel()


def _chunks(reply: Reply, event: Event) -> list[dict[str, Any]]:
    if isinstance(event, Token):
        return reply.token(event)
    return reply.closing(event) if isinstance(event, Done) else reply.progress(event)


# --- embeddings -----------------------------------------------------------------------


async def embeddings(request: HttpRequest) -> App:
    """POST /v1/embeddings: the mean of the final hidden states, of length 1."""
    engine: Engine = request.app.state.engine
    fields = Fields(await read_json(request))
    base64_wanted = fields.choice("encoding_format", ("float", "base64")) == "base64"
    fields.refuse("dimensions", (engine.card.n_embd,), f"they are always {engine.card.n_embd}")
    inputs = _inputs(engine, fields.raw("input"))
    rows = [await engine.embed(tokens) for tokens in inputs]
    items = [
        {"object": "embedding", "index": i, "embedding": _packed(row) if base64_wanted else row}
        for i, row in enumerate(rows)
    ]
    count = sum(map(len, inputs))
    used = {"prompt_tokens": count, "total_tokens": count}
    return JSONResponse({"object": "list", "data": items, "model": engine.card.id, "usage": used})


def _inputs(engine: Engine, given: Any) -> list[list[int]]:
    several = isinstance(given, list) and bool(given) and isinstance(given[0], (str, list))
    texts = given if several else [given]
    if len(texts) > MAX_INPUTS:
        raise invalid(f"input may have at most {MAX_INPUTS} texts, not {len(texts)}", "input")
    found = [prompt_tokens(engine, text, "input") for text in texts]
    for tokens in found:
        if not tokens:
            raise invalid("input must not be empty", "input")
        if len(tokens) > engine.card.n_ctx:
            raise ContextOverflowError(
                f"the input has {len(tokens)} tokens, the context holds {engine.card.n_ctx}",
                needed=len(tokens),
                available=engine.card.n_ctx,
                where="input",
            )
    return found


def _packed(row: list[float]) -> str:
    return base64.b64encode(np.asarray(row, dtype="<f4").tobytes()).decode()
