"""Streaming text: whole characters, and no part of a stop string."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turbosparse.text import TextAssembler


def assemble(pieces: list[bytes], *stop: str) -> list[str]:
    """What each piece releases, then what the end does."""
    text = TextAssembler(stop)
    return [*(text.push(piece) for piece in pieces), text.finish()]


def test_a_character_is_shown_when_it_is_whole() -> None:
    assert assemble([b"a\xf0", b"\x9f", b"\x99", b"\x82b"]) == ["a", "", "", "\U0001f642b", ""]


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    assert assemble([b"a\xff", b"b", b"\xe2\x82"]) == ["a\ufffd", "b", "", "\ufffd"]


def test_a_partial_stop_string_is_held_back() -> None:
    assert assemble([b"one\n", b"\n", b"two"], "\n\n") == ["one", "", "", ""]


def test_what_was_held_back_comes_when_it_was_no_stop_string() -> None:
    assert assemble([b"one\n", b"two\n"], "\n\n") == ["one", "\ntwo", "\n"]


def test_the_longest_possible_prefix_is_held_back() -> None:
    assert assemble([b"xaab", b"aac"], "aabaac") == ["x", "", ""]
    assert assemble([b"aabaab", b"aac!"], "aabaac") == ["aab", "", ""]


def test_the_earliest_of_several_stop_strings_cuts() -> None:
    text = TextAssembler(["END", "stop"])
    assert text.push(b"a stop before END") == "a "
    assert text.stopped
    assert text.push(b"more") == ""
    assert text.finish() == ""


def test_a_stop_string_of_split_characters() -> None:
    euro = "\u20ac".encode()
    assert assemble([b"1" + euro[:1], euro[1:], b"2"], "\u20ac") == ["1", "", "", ""]


def test_without_stop_strings_nothing_waits() -> None:
    assert assemble([b"a", b"b"]) == ["a", "b", ""]


texts = st.text(alphabet="ab\n\u00e9\U0001f642", max_size=40)
stops = st.text(alphabet="ab\n\u00e9", min_size=1, max_size=4)


@given(text=texts, stop=stops, cuts=st.lists(st.integers(0, 160), max_size=12))
def test_any_split_gives_the_text_before_the_stop_string(text: str, stop: str, cuts: list[int]) -> None:
    data = text.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(edges)]
    assert "".join(assemble(pieces, stop)) == text.partition(stop)[0]


@given(text=texts, stop=stops)
def test_nothing_is_held_back_without_need(text: str, stop: str) -> None:
    """After each byte the missing tail is an unfinished character or a proper beginning of the stop string."""
    assembler, shown = TextAssembler([stop]), ""
    data = text.encode()
    for end in range(1, len(data) + 1):
        shown += assembler.push(data[end - 1 : end])
        if assembler.stopped:
            return
        whole = data[:end].decode("utf-8", "ignore")
        missing = whole[len(shown) :]
        assert whole.startswith(shown)
        assert missing == "" or (stop.startswith(missing) and missing != stop)


@pytest.mark.parametrize("stop", [(), ("",)])
def test_no_stop_string_at_all(stop: tuple[str, ...]) -> None:
    assert assemble([b"text"], *stop) == ["text", ""]
