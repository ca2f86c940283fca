"""500 requests that are left at random moments: nothing leaks, and the next request is answered as ever."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from turbosparse.server.engine import LoadOptions
from turbosparse.server.live import LiveEngine

from tests.server.conftest import TOKEN, Server, running
from tests.server.test_stream import until

COUNT = 500
AT_ONCE = 6
WORDS = ["the", "little", "dog", "swims", "in", "a", "big", "lake", "and", "then", "goes", "home"]


def resident() -> int:
    """kB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def http(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    return f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content


async def leave_early(port: int, draw: random.Random) -> None:
    """One request: it is left while it is sent, waits, is read, or is answered; a few are read to their end."""
    text = " ".join(draw.choices(WORDS, k=draw.choice([3, 10, 60])))
    body = {
        "prompt": text,
        "stream": draw.random() < 0.7,
        "max_tokens": draw.choice([1, 10, 100]),
        "ignore_eos": True,
        "mode": draw.choice(["predicted", "exact"]),
        "seed": 1,
        "grammar": draw.choice([None, None, "root ::= [a-z ]+"]),
    }
    request = http("/v1/completions", body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if draw.random() < 0.1:
            writer.write(request[: draw.randrange(len(request))])
            await writer.drain()
        else:
            writer.write(request)
            await writer.drain()
            await leave_while_reading(reader, draw)
    finally:
        writer.transport.abort() if draw.random() < 0.5 else writer.close()


async def leave_while_reading(reader: asyncio.StreamReader, draw: random.Random) -> None:
    how = draw.random()
    if how < 0.5:
        await asyncio.sleep(draw.uniform(0, 0.02))
    elif how < 0.97:
        for _ in range(draw.randrange(1, 12)):
            if not await reader.readline():
                return
    else:
        await reader.read()


async def storm(port: int, count: int, draw: random.Random) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with gate:
            await asyncio.wait_for(leave_early(port, draw), 30)

    await asyncio.gather(*(one() for _ in range(count)))


def text_of(server: Server) -> str:
    body = {"prompt": "Once upon a time", "max_tokens": 30, "seed": 5, "ignore_eos": True, "cache_prompt": False}
    return str(server.post("/v1/completions", body).json()["choices"][0]["text"])


def at_rest(server: Server) -> bool:
    metrics = server.engine.metrics()
    return metrics.requests_processing == metrics.requests_waiting == 0


def test_requests_left_at_random_moments(micro: Path) -> None:
    engine = LiveEngine(LoadOptions(n_ctx=512, n_parallel=4, n_threads=1))

    @asynccontextmanager
    async def loaded(app: Any) -> AsyncIterator[None]:
        await engine.load(micro)
        yield

    with running(engine, lifespan=loaded) as server:
        expected, port, draw = text_of(server), int(server.url.rpartition(":")[2]), random.Random(4)
        asyncio.run(storm(port, 40, draw))
        until(lambda: at_rest(server), 20)
        before, threads = resident(), threading.active_count()
        asyncio.run(storm(port, COUNT, draw))
        until(lambda: at_rest(server), 20)
        assert resident() - before < 8_000, "kB"
        assert threading.active_count() == threads
        assert [slot["is_processing"] for slot in server.get("/slots").json()] == [False] * 4
        metrics = engine.metrics()
        assert metrics.requests_failed == 0
        assert metrics.requests_cancelled > COUNT / 4
        assert text_of(server) == expected
