"""Repeated paragraphs, lines and documents disappear; what differs stays."""

from __future__ import annotations

import numpy as np
from turbosparse.train.dedupe import Deduplicator, minhash, similarity

from tests.train.fakes import paragraphs

LONG = "This sentence is long enough to be noticed when it comes again, whatever else stands around it."


def test_a_repeated_paragraph_is_dropped_once_seen():
    dedupe = Deduplicator()
    assert dedupe.text(f"first\n\n{LONG}") == f"first\n\n{LONG}"
    assert dedupe.text(f"second\n\n{LONG.upper()}\n\nthird") == "second\n\nthird"
    assert dedupe.dropped.paragraphs == len(LONG)


def test_digits_do_not_make_a_new_paragraph():
    dedupe = Deduplicator()
    dedupe.text(LONG + " Page 7 of 90.")
    assert dedupe.text(LONG + " Page 12 of 90.") == ""


def test_short_paragraphs_may_repeat():
    dedupe = Deduplicator()
    assert dedupe.text("Yes.\n\nYes.") == "Yes.\n\nYes."


def test_a_repeated_line_inside_a_paragraph_is_dropped():
    dedupe = Deduplicator()
    dedupe.text(f"alpha\n{LONG}\nbeta")
    assert dedupe.text(f"gamma\n{LONG}\ndelta") == "gamma\ndelta"


def test_code_keeps_its_lines_but_not_its_licence_headers():
    dedupe = Deduplicator()
    header = "\n".join(f"# {LONG}" for _ in range(3))
    line = "    return some_function_with_a_long_name(first_argument, second_argument, third)"
    assert dedupe.code(f"{header}\n\ndef f():\n{line}").startswith("# This")
    assert dedupe.code(f"{header}\n\ndef g():\n{line}") == f"def g():\n{line}"


def test_near_duplicates_are_dropped_and_others_kept():
    dedupe = Deduplicator()
    text = paragraphs(1)
    reflowed = " ".join(text.split()).replace("river", "rivers", 2)
    assert dedupe.text(text) == text
    assert dedupe.text(reflowed) == ""
    assert dedupe.dropped.documents > 0.9 * len(text)
    assert dedupe.text(paragraphs(2)) == paragraphs(2)


def test_the_estimate_is_near_the_jaccard_index():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in rng.integers(0, 10**6, 6000)]
    a, b = minhash(" ".join(words[:4000])), minhash(" ".join(words[1000:5000]))
    assert abs(similarity(a, b) - 3000 / 5000) < 0.2
    assert similarity(a, a) == 1.0
    assert similarity(a, minhash(" ".join(words[4000:]))) < 0.1


def test_short_texts_have_no_signature():
    assert minhash("too few words to say") is None
