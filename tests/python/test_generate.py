"""step < stream < generate, on a tiny random model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from turbosparse import ArgumentError, CancelledError, ContextOverflowError, GrammarError, Model, SamplingParams
from turbosparse.generate import Generation, encode, generate, step, stream
from turbosparse.grammar import from_json_schema

from tests.conftest import Case

PROMPT = "The quick brown fox"
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
LATE = 3.0  # seconds; a cancelled prompt that takes 10 s ends within milliseconds, on a crowded machine too


def greedy_by_hand(model: Model, prompt: list[int], count: int) -> list[int]:
    """Argmax token by token, each from a fresh sequence."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(np.argmax(model.logits(tokens)[-1])))
    return tokens[len(prompt) :]


# --- the three layers ------------------------------------------------------------


def test_greedy_is_the_argmax(model: Model) -> None:
    tokens = encode(model, PROMPT)
    model.mode = "exact"
    expected = greedy_by_hand(model, tokens, 8)
    assert list(step(model, tokens, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))) != []
    assert generate(model, PROMPT, GREEDY, max_tokens=8).tokens == expected


def test_the_three_layers_agree(model: Model) -> None:
    prompt = encode(model, PROMPT)
    tokens = list(step(model, prompt, GREEDY))
    chunks = list(stream(model, PROMPT, GREEDY))
    result = generate(model, PROMPT, GREEDY)
    assert tokens == result.tokens == [chunk.token_id for chunk in chunks[:-1]]
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert result.text == b"".join(map(model.piece, tokens)).decode("utf-8", "replace")
    assert result.prompt_tokens == prompt


def test_only_the_last_chunk_has_a_reason(model: Model) -> None:
    chunks = list(stream(model, PROMPT, GREEDY))
    assert [chunk.finish_reason for chunk in chunks] == [None] * 24 + ["length"]
    assert chunks[-1].token_id is None


def test_a_token_is_evaluated_only_when_the_next_is_asked_for(model: Model) -> None:
    prompt = encode(model, PROMPT)
    tokens = step(model, prompt, GREEDY)
    next(tokens)
    assert model.n_past == len(prompt)
    next(tokens)
    assert model.n_past == len(prompt) + 1
    tokens.close()


def test_generation_gives_chunks_and_result(model: Model) -> None:
    generation = Generation(model, PROMPT, GREEDY)
    shown = "".join(chunk.text for chunk in generation)
    assert generation.result().text == shown
    assert generation.result() == generation.result()


def test_modes_exact_and_dense_give_the_same_tokens(mistral: Case) -> None:
    found = []
    for mode in ("dense", "exact"):
        with mistral.open(n_ctx=128, mode=mode) as model:
            result = generate(model, PROMPT, GREEDY)
            assert result.mode == mode
            found.append(result.tokens)
    assert found[0] == found[1]


# --- ends ------------------------------------------------------------------------


def test_an_empty_prompt_begins_at_bos(model: Model) -> None:
    assert encode(model, "") == [model.info.token_bos]
    assert generate(model, "", GREEDY, max_tokens=2).timings.prompt_n == 1


def test_no_tokens_at_all(model: Model) -> None:
    result = generate(model, PROMPT, max_tokens=0)
    assert (result.tokens, result.text, result.finish_reason) == ([], "", "length")
    assert result.sparsity == result.prompt_sparsity


def test_none_fills_the_context(mistral: Case) -> None:
    with mistral.open(n_ctx=32) as model:
        result = generate(model, PROMPT, GREEDY, max_tokens=None)
        room = 32 - len(result.prompt_tokens) + 1  # the last token is not evaluated
        assert len(result.tokens) == room
        assert result.finish_reason == "length"
        assert generate(model, PROMPT, GREEDY, max_tokens=1000).tokens == result.tokens


def test_a_prompt_longer_than_the_context(model: Model) -> None:
    with pytest.raises(ContextOverflowError) as caught:
        generate(model, [1] * 300, GREEDY)
    assert (caught.value.n_prompt, caught.value.n_ctx) == (300, 256)


def test_an_end_token_ends(model: Model) -> None:
    """A grammar that admits the empty text alone leaves nothing but the end token."""
    result = generate(model, PROMPT, grammar='root ::= ""', max_tokens=4)
    assert (result.tokens, result.text, result.finish_reason) == ([], "", "stop")


def test_a_stop_string_ends_and_is_left_out(model: Model) -> None:
    params = SamplingParams(temperature=1.5, seed=5, max_tokens=60, ignore_eos=True)
    whole = generate(model, PROMPT, params)
    stop = whole.text[10:13]
    cut = generate(model, PROMPT, params, stop=(stop,))
    assert len(stop) == 3
    assert cut.text == whole.text.partition(stop)[0]
    assert cut.finish_reason == "stop"
    assert len(cut.tokens) < 60
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    assert "".join(chunk.text for chunk in stream(model, PROMPT, params, stop=(stop,))) == cut.text


# --- sampling ----------------------------------------------------------------------


def test_the_same_seed_gives_the_same_tokens(model: Model) -> None:
    first = generate(model, PROMPT, max_tokens=24, temperature=1.5, ignore_eos=True)
    again = generate(model, PROMPT, max_tokens=24, temperature=1.5, ignore_eos=True, seed=first.seed)
    other = generate(model, PROMPT, max_tokens=24, temperature=1.5, ignore_eos=True, seed=first.seed ^ 1)
    assert first.tokens == again.tokens != other.tokens
    assert again.seed == first.seed


def test_top_k_of_one_is_greedy(model: Model) -> None:
    greedy = generate(model, PROMPT, GREEDY).tokens
    assert generate(model, PROMPT, GREEDY, temperature=2.0, top_k=1, seed=3).tokens == greedy


def test_penalties_hear_of_the_prompt(model: Model) -> None:
    """The likeliest token is put into the prompt; a harsh penalty then avoids it."""
    tokens = encode(model, PROMPT)
    likely = next(step(model, tokens, GREEDY))
    prompt = [likely, *tokens]
    plain = next(step(model, prompt, GREEDY))
    harsh = SamplingParams(temperature=0, max_tokens=1, presence_penalty=100.0, ignore_eos=True)
    assert next(step(model, prompt, harsh)) not in prompt
    assert plain == int(np.argmax(model.logits(prompt)[-1]))


def test_unknown_parameters_are_type_errors(model: Model) -> None:
    for params in (None, GREEDY):
        with pytest.raises(TypeError, match="temprature"):
            stream(model, PROMPT, params, temprature=1)


def test_a_grammar_binds(model: Model) -> None:
    result = generate(model, PROMPT, grammar='root ::= ("yes" | "no") "!"', seed=1, max_tokens=16)
    assert result.text in ("yes!", "no!")
    assert result.finish_reason == "stop"


def test_a_json_schema_binds(model: Model) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    result = generate(model, PROMPT, grammar=from_json_schema(schema), seed=1, max_tokens=100)
    assert json.loads(result.text)["n"] in (1, 2)


@pytest.mark.parametrize("grammar", ["root ::= (", 'no-root ::= "a"', "root ::= missing"])
def test_a_broken_grammar_is_refused(model: Model, grammar: str) -> None:
    with pytest.raises(GrammarError, match="grammar"):
        generate(model, PROMPT, grammar=grammar, max_tokens=1)


# --- figures -----------------------------------------------------------------------


def test_timings_and_sparsity(model: Model) -> None:
    model.mode = "exact"
    result = generate(model, PROMPT, GREEDY)
    timings, sparsity = result.timings, result.sparsity
    assert (timings.cache_n, timings.prompt_n, timings.predicted_n) == (0, len(result.prompt_tokens), 24)
    assert timings.prompt_ms > 0
    assert timings.predicted_per_second == pytest.approx(24e3 / timings.predicted_ms)
    assert sparsity is not None
    assert (sparsity.tokens, sparsity.mode) == (23, "exact")
    assert sparsity.rows_dense == 23 * 3 * model.info.n_neuron
    assert sparsity.bytes_dense == 23 * model.info.bytes_dense_token
    assert sparsity.rows < sparsity.rows_dense
    assert sparsity.bytes_read < sparsity.bytes_dense
    assert len(sparsity.layers) == 2
    assert np.mean(sparsity.layers) == pytest.approx(sparsity.active_frac)
    assert json.loads(json.dumps(result.as_dict()))["sparsity"]["rows"] == sparsity.rows


def test_dense_does_all_the_work(model: Model) -> None:
    model.mode = "dense"
    sparsity = generate(model, PROMPT, GREEDY).sparsity
    assert sparsity is not None
    assert sparsity.rows == sparsity.rows_dense
    assert sparsity.bytes_read == sparsity.bytes_dense
    assert sparsity.selected_frac == 1


def test_chunks_carry_their_own_token(model: Model) -> None:
    chunks = list(stream(model, PROMPT, GREEDY))
    tokens = [chunk.sparsity.tokens for chunk in chunks if chunk.sparsity]
    assert tokens == [len(encode(model, PROMPT))] + [1] * 24
    assert [chunk.timings.predicted_n for chunk in chunks] == [*range(1, 25), 24]


def test_what_was_evaluated_before_is_not_counted(model: Model) -> None:
    model.eval([1] * 100)
    result = generate(model, PROMPT, GREEDY, max_tokens=1)
    assert result.prompt_sparsity is not None
    assert result.prompt_sparsity.tokens == len(result.prompt_tokens)


def test_a_shared_beginning_is_reused_on_request(model: Model) -> None:
    first = generate(model, PROMPT, GREEDY)
    longer = first.prompt_tokens + first.tokens[:5] + [7]
    fresh = generate(model, longer, GREEDY)
    assert fresh.timings.cache_n == 0
    generate(model, first.prompt_tokens, GREEDY)
    reused = generate(model, longer, GREEDY, reuse=True)
    assert reused.timings.cache_n == len(longer) - 1
    assert reused.timings.prompt_n == 1
    assert reused.tokens == fresh.tokens
    same = generate(model, longer, GREEDY, reuse=True)
    assert same.timings.prompt_n == 1  # its logits are needed


# --- cancellation --------------------------------------------------------------------


def test_cancel_between_tokens(model: Model) -> None:
    reasons = []
    for i, chunk in enumerate(stream(model, PROMPT, GREEDY)):
        reasons.append(chunk.finish_reason)
        if i == 3:
            model.cancel()
    assert reasons == [None] * 4 + ["cancelled"]
    assert generate(model, PROMPT, GREEDY).finish_reason == "length"


def test_cancel_of_step_is_an_exception(model: Model) -> None:
    with model.canceller.generation():
        tokens = step(model, encode(model, PROMPT), GREEDY)
        next(tokens)
        model.cancel()
        with pytest.raises(CancelledError):
            next(tokens)


def test_cancel_when_nothing_runs_is_forgotten(model: Model) -> None:
    model.cancel()
    model.eval([1, 2, 3])
    assert model.n_past == 3
    model.cancel()
    assert generate(model, PROMPT, GREEDY).finish_reason == "length"


def test_a_closed_stream_leaves_the_model_usable(model: Model) -> None:
    chunks = stream(model, PROMPT, GREEDY)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    expected = generate(model, PROMPT, GREEDY).tokens
    assert list(step(model, encode(model, PROMPT), GREEDY)) == expected


def test_cancel_from_another_thread_during_the_prompt(cases: Any) -> None:
    """`reference` is slow: the whole prompt takes more than ten seconds."""
    case = cases("mistral", n_ctx=8192, n_layer=4)
    with case.open(n_ctx=8192, mode="reference", n_threads=1) as model:
        prompt = [3 + i % 300 for i in range(8000)]
        timer = threading.Timer(0.3, model.cancel)
        start = time.perf_counter()
        timer.start()
        result = generate(model, prompt, GREEDY)
        seconds = time.perf_counter() - start
        timer.join()
        assert result.finish_reason == "cancelled"
        assert result.tokens == []
        assert 0.3 <= seconds < LATE
        assert model.n_past < len(prompt)
        assert model.tokens == prompt[: model.n_past]
        assert generate(model, PROMPT, GREEDY, max_tokens=3).finish_reason == "length"


INTERRUPTED = """
import signal, sys, threading, time, os
from turbosparse import Model
from turbosparse.generate import generate
with Model(sys.argv[1], n_ctx=8192, mode="reference", n_threads=1) as model:
    start = time.perf_counter()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        generate(model, [3 + i % 300 for i in range(8000)], temperature=0)
    except KeyboardInterrupt:
        print("interrupted", time.perf_counter() - start)
    print("then", generate(model, "The", temperature=0, max_tokens=3, ignore_eos=True).finish_reason)
"""


def test_ctrl_c_reaches_into_the_prompt(cases: Any) -> None:
    path = cases("mistral", n_ctx=8192, n_layer=4).gguf
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("interrupted")
    assert 0.3 <= float(first.split()[1]) < LATE
    assert second == "then length"


def test_the_signal_handling_of_others_is_restored(model: Model) -> None:
    handler, descriptor = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    generate(model, PROMPT, GREEDY)
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.set_wakeup_fd(descriptor) == descriptor


def test_no_bos_and_no_prompt_is_an_argument_error() -> None:
    class Info:
        token_bos = -1

    class Bare:
        info = Info()

        def tokenize(self, text: str, **options: bool) -> list[int]:
            return []

    with pytest.raises(ArgumentError, match="no BOS"):
        encode(Bare(), "")  # type: ignore[arg-type]
