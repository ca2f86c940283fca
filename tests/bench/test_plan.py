"""What is run: llama-bench's lists and names, and the turns of a test."""

from __future__ import annotations

import pytest
from turbosparse.bench.plan import Test, Work, numbers, pair, plan, tokens, words
from turbosparse.errors import ArgumentError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", [7]),
        ("1,2,4", [1, 2, 4]),
        ("1-4", [1, 2, 3, 4]),
        ("1-9+4", [1, 5, 9]),
        ("1-8*2,3", [1, 2, 4, 8, 3]),
        ("0", [0]),
    ],
)
def test_numbers(text: str, expected: list[int]) -> None:
    assert numbers(text, "-p") == expected


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "1-8*1", "1-4+0", "0-4*2", "1.5"])
def test_numbers_refuses(text: str) -> None:
    with pytest.raises(ArgumentError, match="-p takes numbers"):
        numbers(text, "-p")


def test_pair_and_words() -> None:
    assert pair("512,128", "-pg") == (512, 128)
    with pytest.raises(ArgumentError, match="two numbers"):
        pair("512", "-pg")
    assert words("exact,dense,exact", ("dense", "exact"), "--mode") == ["exact", "dense"]
    with pytest.raises(ArgumentError, match="dense, exact"):
        words("fast", ("dense", "exact"), "--mode")


@pytest.mark.parametrize(
    ("test", "label"),
    [
        (Test(512), "pp512"), (Test(0, 128), "tg128"), (Test(64, 32, 9), "pp64+tg32 @ d9"),
        (Test(0, 16, 0, 4), "tg16 x4"), (Test(1, load=True), "load"),
    ],
)  # fmt: skip
def test_labels(test: Test, label: str) -> None:
    assert test.label == label


def test_order_is_that_of_llama_bench() -> None:
    tests = plan([512], [128, 0], [(8, 4)], [0, 4096], [1, 4], True)
    assert [t.label for t in tests] == [
        "load", "pp512", "tg128", "tg128 x4", "pp8+tg4",
        "pp512 @ d4096", "tg128 @ d4096", "tg128 x4 @ d4096", "pp8+tg4 @ d4096",
    ]  # fmt: skip
    with pytest.raises(ArgumentError, match="nothing to run"):
        plan([0], [0], [], [0], [1], False)


def test_turns_cover_a_repetition_once() -> None:
    turns = Test(n_gen=20, n_depth=5).turns()
    assert [(t.at, t.n_gen) for t in turns] == [(5, 8), (13, 8), (21, 4)]
    assert all(t.warm for t in turns)
    assert Test(n_prompt=64, n_gen=3, n_depth=5).turns() == [Work(5, 64, 3)]


def test_tokens_depend_on_position_and_sequence_only() -> None:
    assert tokens(6, 1000, 10) == tokens(3, 1000, 10) + tokens(3, 1000, 13)
    assert tokens(6, 1000, 10) != tokens(6, 1000, 10, 1)
    assert all(3 <= t < 320 for t in tokens(200, 320, 0))
