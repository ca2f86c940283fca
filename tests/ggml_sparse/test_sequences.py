"""Several sequences in one context: none sees another, and each gets what it would get alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from turbosparse.errors import ArgumentError, CancelledError, ContextOverflowError
from turbosparse.sampling import SamplingParams
from turbosparse.sequences import Row, SequenceModel

from tests.conftest import Case

N_CTX = 64


def open_sequences(case: Case, n_seq: int = 3, **options: Any) -> SequenceModel:
    given: dict[str, Any] = {"n_ctx": N_CTX, "n_threads": 1, "kv_type": "f32", "flash_attn": "off"}
    return SequenceModel(case.gguf, n_seq=n_seq, **(given | options))


@pytest.fixture
def model(mistral: Case) -> Iterator[SequenceModel]:
    with open_sequences(mistral) as opened:
        yield opened


def rows(tokens: list[int], seq: int) -> list[Row]:
    return [Row(token, seq, i == len(tokens) - 1) for i, token in enumerate(tokens)]


def texts(case: Case, n: int = 3) -> list[list[int]]:
    return [case.tokens(5 + 3 * i, seed=i) for i in range(n)]


@pytest.mark.parametrize("mode", ["dense", "exact", "predicted"])
def test_sequences_give_what_each_gives_alone(mistral: Case, mode: str) -> None:
    """Prompts one after the other, then single tokens of all of them in one batch: bit for bit."""
    prompts = texts(mistral)
    with mistral.open(mode=mode, n_ctx=N_CTX) as alone, open_sequences(mistral, mode=mode) as model:
        expected = []
        for prompt in prompts:
            alone.reset()
            expected.append([alone.eval(prompt), *(alone.eval([token]) for token in (7, 8))])
        for seq, prompt in enumerate(prompts):
            model.decode(rows(prompt, seq))
            np.testing.assert_array_equal(model.row_logits(len(prompt) - 1), expected[seq][0])
        for i, token in enumerate((7, 8)):
            model.decode([Row(token, seq, True) for seq in range(3)])
            for seq in range(3):
                np.testing.assert_array_equal(model.row_logits(seq), expected[seq][1 + i])


def test_mixtral_too(mixtral: Case) -> None:
    prompts = texts(mixtral, 2)
    with mixtral.open(n_ctx=N_CTX) as alone, open_sequences(mixtral, 2) as model:
        expected = []
        for prompt in prompts:
            alone.reset()
            expected.append(alone.eval(prompt))
        model.decode(rows(prompts[0], 0) + rows(prompts[1], 1))
        at = [len(prompts[0]) - 1, len(prompts[0]) + len(prompts[1]) - 1]
        for seq in range(2):
            np.testing.assert_allclose(model.row_logits(at[seq]), expected[seq], rtol=0, atol=2e-4)


def test_rows_without_logits_have_none(model: SequenceModel) -> None:
    model.decode([Row(5, 0, False), Row(6, 0, True)])
    with pytest.raises(ArgumentError):
        model.row_logits(0)
    with pytest.raises(ArgumentError):
        model.row_logits(2)
    assert model.row_logits(1).shape == (model.info.n_vocab,)


def test_keep_and_copy(model: SequenceModel) -> None:
    model.decode(rows([1, 5, 9, 11], 0))
    expected = np.array(model.row_logits(3))
    model.copy(0, 2)
    assert [model.length(seq) for seq in range(3)] == [4, 0, 4]
    assert model.keep(2, 2) == 2
    model.decode([Row(9, 2), Row(11, 2, True)])
    np.testing.assert_allclose(model.row_logits(1), expected, atol=1e-5)
    assert model.length(0) == 4
    assert model.keep(0, 0) == 0
    assert model.length(0) == model.n_past == 0
    assert model.length(7) == -1


def test_a_copy_survives_its_source(model: SequenceModel) -> None:
    """The copy is made lazily; what happens to the source in between must not matter."""
    model.decode(rows([1, 5, 9, 11], 0))
    model.decode([Row(3, 0, True)])
    expected = np.array(model.row_logits(0))
    model.keep(0, 4)
    model.copy(0, 1)
    model.keep(0, 0)
    model.decode(rows([2, 2, 2, 2, 2, 2], 0))
    model.decode([Row(3, 1, True)])
    np.testing.assert_allclose(model.row_logits(0), expected, atol=1e-5)


def test_a_full_sequence_is_refused_and_nothing_changes(model: SequenceModel) -> None:
    model.decode([Row(3, 1) for _ in range(N_CTX)])
    with pytest.raises(ContextOverflowError) as caught:
        model.decode([Row(3, 0), Row(3, 1)])
    assert (caught.value.needed, caught.value.available) == (N_CTX + 1, N_CTX)
    assert [model.length(seq) for seq in range(2)] == [0, N_CTX]
    model.decode([Row(3, 0, True)])


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [Row(-1, 0)],
        [Row(10**6, 0)],
        [Row(3, 3)],
        [Row(3, -1)],
        [Row(3, 0), Row(3, 1), Row(3, 0)],
    ],
)
def test_bad_rows_are_refused(model: SequenceModel, bad: list[Row]) -> None:
    with pytest.raises(ArgumentError):
        model.decode(bad)


def test_all_sequences_together_are_checked(mistral: Case) -> None:
    with pytest.raises(ArgumentError, match="n_seq_max times n_ctx"):
        open_sequences(mistral, 64, n_ctx=1 << 26)  # 2^32 tokens


def test_n_seq_is_checked(mistral: Case) -> None:
    for n_seq in (0, 65):
        with pytest.raises(ArgumentError, match="n_seq_max"):
            open_sequences(mistral, n_seq)


def test_samplers_are_independent(mistral: Case) -> None:
    """Two sequences with the same prompt and seed draw the same, another seed something else."""
    with open_sequences(mistral) as model:
        prompt = mistral.tokens(6)
        samplers = [model.sampler(SamplingParams(seed=seed, temperature=2.0, top_k=0)) for seed in (1, 1, 2)]
        for seq in range(3):
            model.decode(rows(prompt, seq))
            drawn = [model.sample_row(samplers[seq], len(prompt) - 1)]
            for _ in range(10):
                model.decode([Row(drawn[-1], seq, True)])
                drawn.append(model.sample_row(samplers[seq], 0))
            samplers[seq].close()
            if seq == 0:
                first = drawn
            else:
                assert (drawn == first) == (seq == 1)


def decode_for_ever(model: SequenceModel) -> None:
    while True:
        model.decode([Row(3, 0) for _ in range(250)] + [Row(3, 1) for _ in range(250)])
        model.keep(0, 2)
        model.keep(1, 2)


def test_a_stopped_batch_leaves_no_trace(mistral: Case) -> None:
    with open_sequences(mistral, mode="reference", n_ctx=512, n_batch=512, n_ubatch=16) as model:
        model.decode(rows([1, 5], 0))
        model.decode(rows([1, 6], 1))
        timer = threading.Thread(target=lambda: (time.sleep(0.02), model.stop_decode()))
        timer.start()
        with pytest.raises(CancelledError):
            decode_for_ever(model)
        timer.join()
        assert [model.length(seq) for seq in range(3)] == [2, 2, 0]
        model.decode([Row(7, 1, True)])
        with open_sequences(mistral, mode="reference") as other:
            other.decode(rows([1, 6], 1))
            other.decode([Row(7, 1, True)])
            np.testing.assert_array_equal(model.row_logits(0), other.row_logits(0))


def test_counters_cover_the_batch(model: SequenceModel) -> None:
    model.stats()
    model.decode([Row(3, 0, True), Row(4, 1, True), Row(5, 2, True)])
    (batch,) = model.stats()
    assert batch.n_tokens == 3
    assert batch.total.n_neuron == 3 * model.info.n_neuron


def test_the_plain_interface_is_sequence_0(model: SequenceModel) -> None:
    model.eval([1, 5, 9])
    model.decode([Row(4, 0, True)])
    assert model.n_past == model.length(0) == 4
    model.decode([Row(4, 1, True)])
    with pytest.raises(ArgumentError):
        model.last_logits()
    model.eval([6])
    assert model.n_past == 5


def test_hidden_states_forget_sequence_0_only(model: SequenceModel) -> None:
    model.decode([Row(4, 0, True), Row(5, 1, True)])
    states = model.hidden_states([1, 2, 3])
    assert states.shape == (3, model.info.n_embd)
    assert [model.length(seq) for seq in range(2)] == [0, 1]
