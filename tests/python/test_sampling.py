"""Sampling parameters: ranges, defaults, seeds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from turbosparse import ArgumentError, ModelFormatError, SamplingParams


class FileWith:
    """A model as far as its metadata goes."""

    def __init__(self, **meta: str) -> None:
        self._meta = {f"general.sampling.{key}": value for key, value in meta.items()}

    def meta(self, key: str) -> str | None:
        return self._meta.get(key)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": -1},
        {"seed": -1},
        {"seed": 2**32 - 1},
        {"repeat_penalty": 0.0},
        {"penalty_last_n": -2},
        {"temperature": float("nan")},
        {"top_p": float("inf")},
        {"stop": ("a", "")},
    ],
)
def test_ranges(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError) as caught:
        SamplingParams(**wrong)
    assert caught.value.where == next(iter(wrong))
    assert caught.value.expected in str(caught.value)


def test_they_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().seed = 1  # type: ignore[misc]


def test_one_stop_string_may_come_alone() -> None:
    assert SamplingParams(stop="END").stop == ("END",)  # type: ignore[arg-type]
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]


def test_logit_biases_are_pairs_or_a_dict() -> None:
    assert SamplingParams(logit_bias={5: 1}).logit_bias == ((5, 1.0),)  # type: ignore[arg-type]
    wrongs: list[Any] = [{"5": 1}, {5: float("inf")}, {5: float("nan")}, {True: 1}]
    wrongs += [{5: "much"}, {5: None}, {-1: 1}, {1 << 40: 1}, {5: 10**400}, [5], 5, None]
    for wrong in wrongs:
        with pytest.raises(ArgumentError):
            SamplingParams(logit_bias=wrong)


def test_unknown_names_are_errors() -> None:
    with pytest.raises(TypeError, match="temprature"):
        SamplingParams(temprature=1)  # type: ignore[call-arg]


def test_the_file_recommends_and_the_caller_decides() -> None:
    model: Any = FileWith(temp="0.5", top_k="7", penalty_repeat="1.25")
    params = SamplingParams.for_model(model, top_k=9)
    assert (params.temperature, params.top_k, params.repeat_penalty) == (0.5, 9, 1.25)
    assert params.top_p == SamplingParams().top_p


@pytest.mark.parametrize("value", ["warm", "", "inf"])
def test_a_file_that_recommends_no_number(value: str) -> None:
    model: Any = FileWith(top_k=value)
    with pytest.raises(ModelFormatError) as caught:
        SamplingParams.for_model(model)
    assert (caught.value.where, caught.value.found) == ("general.sampling.top_k", value)


def test_seeds() -> None:
    assert SamplingParams(seed=7).with_seed().seed == 7
    drawn = {SamplingParams().with_seed().seed for _ in range(8)}
    assert len(drawn) > 1
    assert all(seed is not None and 0 <= seed < 2**32 - 1 for seed in drawn)
