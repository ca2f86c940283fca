"""Requests that make no sense: each is a 400 that names what is wrong."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.server.conftest import Server
from tests.server.test_dialect import SCHEMA, TOOL

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "say: the"}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": ["hello"]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages[0]"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages[1].tool_calls[0]"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": 1e999}, ""),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": 2.5}, "top_k"),
    ({"top_k": 2**40}, "top_k"),
    ({"min_p": -0.1}, "min_p"),
    ({"repeat_penalty": 0}, "repeat_penalty"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"max_tokens": -2}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"seed": -5}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": {"a": 1}}, "stop"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": []}, "stream_options"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"top_logprobs": 101}, "top_logprobs"),
    ({"logprobs": 1}, "logprobs"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"999999": 1}}, "logit_bias"),
    ({"logit_bias": {"5": "high"}}, "logit_bias"),
    ({"logit_bias": [[5]]}, "logit_bias"),
    ({"logit_bias": [[5, True]]}, "logit_bias"),
    ({"threshold_shift": 1000}, "threshold_shift"),
    ({"audio": {}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"mode": "fast"}, "mode"),
    ({"id_slot": 2}, "id_slot"),
    ({"id_slot": "a"}, "id_slot"),
    ({"tools": {}}, "tools"),
    ({"tools": [{"type": "function"}]}, "tools[0]"),
    ({"tools": [{"type": "retrieval", "function": {"name": "x"}}]}, "tools[0]"),
    ({"tools": [{"type": "function", "function": {"name": "x", "parameters": []}}]}, "tools[0]"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"tools": [TOOL], "parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}, "json schema"),
    ({"json_schema": [1]}, "json_schema"),
    ({"json_schema": {"type": "banana"}}, "json schema"),
    ({"json_schema": SCHEMA, "response_format": {"type": "json_object"}}, ""),
    ({"grammar": 5}, "grammar"),
    ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
]


@pytest.mark.parametrize(("change", "param"), WRONG, ids=[str(change)[:60] for change, _ in WRONG])
def test_chat_members(server: Server, change: dict[str, Any], param: str) -> None:
    import json

    body = json.dumps({"messages": [USER], **change})
    answer = server.client.post(CHAT, content=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", 400)
    assert (error["param"] or "") == param
    assert error["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": None},
        {"prompt": []},
        {"prompt": 5},
        {"prompt": [[]]},
        {"prompt": ["a", "b"]},
        {"prompt": [1, -1]},
        {"prompt": [1, 10**9]},
        {"prompt": [1, 1.5]},
        {"prompt": [True]},
        {"prompt": "x", "suffix": "y"},
        {"prompt": "x", "best_of": 2},
        {"prompt": "x", "logprobs": -5},
    ],
)
def test_text_members(server: Server, change: dict[str, Any]) -> None:
    answer = server.post("/v1/completions", change)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == list(change)[-1]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"content": 5}),
        ("/tokenize", {"content": "x", "with_pieces": "yes"}),
        ("/detokenize", {"tokens": "x"}),
        ("/detokenize", {"tokens": [10**9]}),
        ("/detokenize", {}),
        ("/apply-template", {"messages": []}),
        ("/v1/embeddings", {"input": ""}),
        ("/v1/embeddings", {}),
        ("/v1/embeddings", {"input": ["a"] * 65}),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}),
        ("/v1/embeddings", {"input": "a", "dimensions": 3}),
        ("/v1/embeddings", {"input": "x" * 5000}),
    ],
)
def test_other_routes(server: Server, path: str, body: dict[str, Any]) -> None:
    if body == {"input": ""}:  # the fake adds BOS, so this one is not empty
        assert server.post(path, body).status_code == 200
        return
    answer = server.post(path, body)
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"messages": NaN}',
        b'{"a": Infinity}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"x": ' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"seed": ' + b"9" * 10_000 + b"}",
    ],
)
def test_bodies_that_are_no_json_object(server: Server, body: bytes) -> None:
    answer = server.client.post(CHAT, content=body)
    assert answer.status_code == 400, answer.text


def test_what_common_clients_send_is_taken(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    extra = {
        "user": "me",
        "store": False,
        "metadata": {},
        "model": "whatever",
        "n": 1,
        "logit_bias": None,
        "stop": None,
    }
    with caplog.at_level(logging.WARNING, "turbosparse.server"):
        server.chat("say: the", **extra, temperature=1, top_k=3.0, seed=-1, modalities=["text"])
    assert caplog.text == ""


def test_unknown_members_are_ignored_and_named(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "turbosparse.server"):
        server.chat("say: the", frobnicate=1)
    assert "frobnicate" in caplog.text
