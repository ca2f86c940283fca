"""AsyncModel: results as of Model, an event loop that stays free, and cancelling that stops the engine."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turbosparse import ArgumentError, AsyncModel, GrammarError, Model

GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
HELLO = [{"role": "user", "content": "Hello"}]
LATE = 3.0  # seconds; what is cancelled would take longer

Scenario = Callable[[AsyncModel], Awaitable[None]]


def run(path: Path, scenario: Scenario, **options: Any) -> None:
    async def main() -> None:
        async with AsyncModel(path, **{"n_ctx": 256, "n_threads": 1, **options}) as model:
            await scenario(model)

    asyncio.run(asyncio.wait_for(main(), 120))


@pytest.fixture(scope="module")
def expected(micro: Path) -> dict[str, Any]:
    with Model(micro, n_ctx=256, n_threads=1) as model:
        return {
            "text": model.generate("She was", max_tokens=8, **GREEDY).text,
            "chat": model.chat(HELLO, max_tokens=8, **GREEDY).text,
            "vector": model.embed("She was"),
            "tokens": model.tokenize("She was"),
        }


def test_the_same_results(micro: Path, expected: dict[str, Any]) -> None:
    async def scenario(model: AsyncModel) -> None:
        assert (await model.generate("She was", max_tokens=8, **GREEDY)).text == expected["text"]
        assert (await model.chat(HELLO, max_tokens=8, **GREEDY)).text == expected["chat"]
        pieces = [chunk.text async for chunk in model.stream("She was", max_tokens=8, **GREEDY)]
        assert "".join(pieces) == expected["text"]
        assert len(pieces) == 9
        generation = model.stream_chat(HELLO, max_tokens=8, **GREEDY)
        assert (await generation.result()).text == expected["chat"]
        assert [chunk.finish_reason async for chunk in generation][-1] == "length"
        np.testing.assert_array_equal(await model.embed("She was"), expected["vector"])
        assert await model.tokenize("She was") == expected["tokens"]
        assert model.model.info.n_layer == 6

    run(micro, scenario)


def test_several_tasks_wait_for_each_other(micro: Path, expected: dict[str, Any]) -> None:
    async def scenario(model: AsyncModel) -> None:
        results = await asyncio.gather(*(model.generate("She was", max_tokens=8, **GREEDY) for _ in range(5)))
        assert {result.text for result in results} == {expected["text"]}

    run(micro, scenario)


def test_the_loop_stays_free(slow: Path) -> None:
    async def scenario(model: AsyncModel) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticker = asyncio.create_task(tick())
        await model.generate(list(range(3, 203)), max_tokens=1, **GREEDY)
        ticker.cancel()
        assert ticks >= 3

    run(slow, scenario, n_ctx=2048, n_batch=16, n_ubatch=16, mode="reference")


@pytest.fixture(scope="module")
def slow(cases: Any) -> Path:
    """A model whose reference mode takes about ten seconds for 2000 tokens."""
    path: Path = cases("mistral", n_layer=4, n_embd=256, n_ff=1024, n_ctx=2048, seed=9, with_predictor=False).gguf
    return path


def test_cancelling_a_task_stops_its_prompt(slow: Path) -> None:
    async def scenario(model: AsyncModel) -> None:
        start = time.monotonic()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(model.generate(list(range(3, 353)) * 5, **GREEDY), 0.3)
        waiting = asyncio.create_task(model.generate([1, 5], max_tokens=1, **GREEDY))
        assert len((await waiting).tokens) == 1
        assert time.monotonic() - start < LATE

    run(slow, scenario, n_ctx=2048, n_batch=16, n_ubatch=16, mode="reference")


def test_cancelling_one_spares_the_next(micro: Path, expected: dict[str, Any]) -> None:
    async def scenario(model: AsyncModel) -> None:
        for _ in range(20):
            doomed = asyncio.create_task(model.generate("It", ignore_eos=True))
            spared = asyncio.create_task(model.generate("She was", max_tokens=8, **GREEDY))
            await asyncio.sleep(0.002)
            doomed.cancel()
            assert (await spared).text == expected["text"]
            assert (await asyncio.gather(doomed, return_exceptions=True))[0].__class__ is asyncio.CancelledError

    run(micro, scenario)


def test_leaving_a_stream_stops_it(slow: Path) -> None:
    async def scenario(model: AsyncModel) -> None:
        start = time.monotonic()
        async for _ in model.stream([1, 5], **GREEDY):
            break
        gc.collect()
        generation = model.stream([1, 5], **GREEDY)
        await generation.__anext__()
        await generation.aclose()
        await model.generate([1, 5], max_tokens=1, **GREEDY)
        assert time.monotonic() - start < LATE

    run(slow, scenario, n_ctx=2048, mode="reference")


def test_errors_reach_whoever_asks(micro: Path) -> None:
    async def scenario(model: AsyncModel) -> None:
        with pytest.raises(GrammarError):
            await model.generate("x", grammar="nonsense")
        generation = model.stream("x", grammar="nonsense")
        with pytest.raises(GrammarError):
            async for _ in generation:
                pass
        assert (await model.generate("x", max_tokens=1, **GREEDY)).tokens

    run(micro, scenario)


def test_life(micro: Path) -> None:
    async def main() -> None:
        model = AsyncModel(micro, n_ctx=32, n_threads=1)
        assert "not loaded" in repr(model)
        model.cancel()
        with pytest.raises(ArgumentError, match="not loaded"):
            _ = model.model
        assert (await model.generate("x", max_tokens=1)).prompt_tokens
        assert "micro" in repr(model)
        await model.aclose()
        await model.aclose()
        assert "closed" in repr(model)
        with pytest.raises(ArgumentError, match="closed"):
            await model.generate("x")

    asyncio.run(main())


def test_closing_stops_what_is_under_way(slow: Path) -> None:
    async def main() -> None:
        model = AsyncModel(slow, n_ctx=2048, n_threads=1, n_batch=16, n_ubatch=16, mode="reference")
        start = time.monotonic()
        task = asyncio.create_task(model.generate(list(range(3, 353)) * 5, **GREEDY))
        await asyncio.sleep(0.3)
        await model.aclose()
        assert (await task).finish_reason == "cancelled"
        assert time.monotonic() - start < LATE

    asyncio.run(main())


def test_a_missing_file_is_an_error_of_the_first_call(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(OSError, match="absent"):
            async with AsyncModel(tmp_path / "absent.gguf"):
                pass

    asyncio.run(main())


INTERRUPTED = """
import asyncio, sys
from turbosparse import AsyncModel
async def main():
    async with AsyncModel(sys.argv[1], n_ctx=2048, n_threads=1, n_batch=16, n_ubatch=16, mode="reference") as model:
        await model.generate([1, 5], max_tokens=1)
        print("go", flush=True)
        await model.generate(list(range(3, 353)) * 5)
asyncio.run(main())
"""


def test_ctrl_c_in_asyncio_run(slow: Path) -> None:
    """asyncio.run cancels the main task; the prompt under way ends, and so does the program."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(slow)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    time.sleep(0.2)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < LATE
    assert "KeyboardInterrupt" in errors
