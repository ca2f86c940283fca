"""Keyword arguments that several functions take, for editors and type checkers; nothing here runs.

That the names are those of Model and SamplingParams is tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class ModelOptions(TypedDict, total=False):
    """Of turbosparse.model.Model."""

    mode: str | None
    n_ctx: int | None
    n_threads: int | None
    kv_type: str
    flash_attn: str
    n_batch: int | None
    n_ubatch: int | None
    isa: str
    ignore_swa: bool
    check_tensors: bool
    memory: str


class SamplingOptions(TypedDict, total=False):
    """Of SamplingParams."""

    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    penalty_last_n: int
    seed: int | None
    stop: str | Sequence[str]
    grammar: str | None
    ignore_eos: bool
    logprobs: int | None


class StreamOptions(SamplingOptions, total=False):
    """Of Model.generate and Model.stream."""

    reuse: bool


class ChatOptions(StreamOptions, total=False):
    """Of Model.chat and Model.stream_chat."""

    tools: Sequence[Mapping[str, Any]] | None
    response_format: Mapping[str, Any] | None
    template: str | None
