"""Keyword arguments that several functions take, and what some of them may be: the one list of each.

Loads no library. That the names are those of Model and SamplingParams is tested; the numbers that
belong to the words are in turbosparse.choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

Mode: TypeAlias = Literal["dense", "exact", "predicted", "reference"]
Activation: TypeAlias = Literal["drelu", "reglu", "relu"]
Isa: TypeAlias = Literal["auto", "generic", "avx2", "avxvnni", "avx512", "neon"]
Layout: TypeAlias = Literal["rows", "packed", "sums"]
KvType: TypeAlias = Literal["f16", "f32", "q8_0"]
FlashAttn: TypeAlias = Literal["auto", "on", "off"]
Memory: TypeAlias = Literal["auto", "mapped", "resident"]


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
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]]
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
