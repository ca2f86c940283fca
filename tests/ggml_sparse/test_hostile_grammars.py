"""Grammars from an unknown hand: an error, never the end of the process, and soon."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from turbosparse import Model
from turbosparse.errors import GrammarError
from turbosparse.grammar import from_json_schema
from turbosparse.sampling import SamplingParams

from tests.conftest import Case


@pytest.fixture(scope="module")
def model(mistral: Case) -> Iterator[Model]:
    with mistral.open(n_ctx=64) as opened:
        yield opened


def sampled(model: Model, grammar: str) -> int:
    sampler = model.sampler(SamplingParams(grammar=grammar, seed=1))
    try:
        model.reset()
        model.eval([1, 5])
        return model.sample(sampler)
    finally:
        sampler.close()


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + "(" * 50_000 + '"a"' + ")" * 50_000,
        "root ::= " + "(" * 1025 + '"a"' + ")" * 1025,
        "root ::= " + "(" * 60_000,
        "root ::= " + " | ".join(f'"{i}"' for i in range(20_000)),
        'root ::= "' + "a" * 200_000 + '"',
        "root ::= " + '("a" ' * 2000 + ")?" * 2000,
    ],
    ids=lambda text: f"{text[:20]}...{len(text)}",
)
def test_too_deep_or_too_large(model: Model, grammar: str) -> None:
    start = time.monotonic()
    with pytest.raises(GrammarError, match="too large"):
        sampled(model, grammar)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + "(" * 1024 + '[a-z] "x"' + ")" * 1024,
        'root ::= [a-z] "' + "(" * 5000 + '" "\\"((((" # ' + "(" * 5000 + "\n",
        "root ::= [a-z(\\](]" + " # " + "(" * 5000,
        "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}" for i in range(6000)) + "\nr6000 ::= [a-z]",
    ],
    ids=["1024 deep", "in literals", "in classes", "a long chain"],
)
def test_what_is_still_taken(model: Model, grammar: str) -> None:
    assert sampled(model, grammar) >= 0


@pytest.mark.parametrize("key", ["minLength", "maxLength", "minItems", "maxItems"])
def test_counts_of_a_schema(model: Model, key: str) -> None:
    kind = {"type": "string"} if "Length" in key else {"type": "array", "items": {"type": "integer"}}
    for nested in ({**kind, key: 10**9}, {"type": "object", "properties": {"a": {**kind, key: 1001}}}):
        with pytest.raises(GrammarError, match=key):
            from_json_schema(nested)
    assert sampled(model, from_json_schema({**kind, key: 1000})) >= 0
