"""Shapes of answers, as OpenAI's and llama-server's clients expect them."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest
from turbosparse.server.fake import FakeEngine

from tests.server.conftest import Serve, Server

TIMINGS = {
    "cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second",
    "predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second",
}  # fmt: skip
SPARSITY = {
    "mode", "tokens", "active_frac", "selected_frac", "rows", "rows_dense",
    "bytes_read", "bytes_dense", "predictor_ms", "layers",
}  # fmt: skip
SAY = {"messages": [{"role": "user", "content": "say: the answer"}]}


# --- whole answers ---------------------------------------------------------------------


def test_chat(server: Server) -> None:
    answer = server.chat("say: the answer is hello", seed=5)
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == server.engine.card.id
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "the answer is hello"}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert set(answer["timings"]) == TIMINGS
    assert set(answer["sparsity"]) == SPARSITY
    assert (answer["seed"], answer["mode"]) == (5, "predicted")


def test_usage_and_timings_agree(server: Server) -> None:
    answer = server.chat("say: the the the")
    usage, timings = answer["usage"], answer["timings"]
    assert usage["completion_tokens"] == timings["predicted_n"] == 3
    assert usage["prompt_tokens"] == timings["cache_n"] + timings["prompt_n"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3
    assert usage["prompt_tokens_details"]["cached_tokens"] == timings["cache_n"]


def test_a_prefix_is_taken_over(server: Server) -> None:
    first = server.chat("say: one thing and then another", id_slot=0)["timings"]
    again = server.chat("say: one thing and then another", id_slot=0)["timings"]
    assert again["cache_n"] == first["cache_n"] + first["prompt_n"] - 1
    assert again["prompt_n"] == 1
    assert server.chat("say: one thing and then another", id_slot=0, cache_prompt=False)["timings"]["cache_n"] == 0


def test_several_answers(server: Server) -> None:
    answer = server.chat("tell me about neurons", n=3, seed=5)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    alone = [server.chat("tell me about neurons", seed=5 + i) for i in range(3)]
    assert texts == [one["choices"][0]["message"]["content"] for one in alone]
    assert len(set(texts)) == 3
    assert [choice["seed"] for choice in answer["choices"]] == [5, 6, 7]
    usage = answer["usage"]
    assert usage["prompt_tokens"] == alone[0]["usage"]["prompt_tokens"]
    assert usage["completion_tokens"] == sum(one["usage"]["completion_tokens"] for one in alone)
    body = {"messages": [{"role": "user", "content": "tell me about neurons"}], "n": 3, "seed": 5}
    chunks = server.stream("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    streamed = ["", "", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert streamed == texts
    assert chunks[-1]["usage"] | {"prompt_tokens_details": None} == usage | {"prompt_tokens_details": None}
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_several_answers_are_all_or_none(serve: Serve) -> None:
    server = serve(FakeEngine(n_parallel=2, max_waiting=1))
    body = {"prompt": "say: the the the the", "n": 8}
    assert server.post("/v1/completions", body).status_code == 503
    assert server.post("/v1/completions", {**body, "n": 2}).status_code == 200, "what was submitted has left"
    assert server.post("/completion", body).json()["error"]["param"] == "n"
    assert serve(FakeEngine(fail_at=2)).post("/v1/completions", body | {"n": 2}).status_code == 500


def test_text_completion(server: Server) -> None:
    answer = server.post("/v1/completions", {"prompt": "say: hello", "seed": 1}).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}]
    echoed = server.post("/v1/completions", {"prompt": "say: hello", "echo": True}).json()
    assert echoed["choices"][0]["text"] == "say: hellohello"


@pytest.mark.parametrize("prompt", ["say: hello", ["say: hello"], [256, *b"say: hello"], ["say: ", *b"hello"]])
def test_prompts_come_in_several_forms(server: Server, prompt: Any) -> None:
    assert server.post("/v1/completions", {"prompt": prompt}).json()["choices"][0]["text"] == "hello"


def test_native_completion(server: Server) -> None:
    answer = server.post("/completion", {"prompt": "say: hello the", "n_predict": 1, "temperature": 0.5}).json()
    assert (answer["content"], answer["stop"], answer["stop_type"]) == ("hello", True, "limit")
    assert answer["tokens_predicted"] == len(answer["tokens"]) == 1
    assert answer["truncated"] is False
    assert answer["generation_settings"]["temperature"] == 0.5
    assert answer["generation_settings"]["n_predict"] == 1
    assert set(answer["timings"]) == TIMINGS
    stopped = server.post("/completion", {"prompt": "say: hello the", "stop": [" th"]}).json()
    assert (stopped["content"], stopped["stop_type"], stopped["stopping_word"]) == ("hello", "word", " th")


def test_max_tokens_zero_and_length(server: Server) -> None:
    answer = server.chat("say: the the the", max_tokens=2)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2
    assert server.chat("say: the", max_completion_tokens=0)["usage"]["completion_tokens"] == 0


def test_the_same_seed_gives_the_same_text(server: Server) -> None:
    def text(**given: Any) -> str:
        return str(server.chat("tell me", **given)["choices"][0]["message"]["content"])

    assert text(seed=3) == text(seed=3) != text(seed=4)
    drawn = server.chat("tell me")
    assert text(seed=drawn["seed"]) == drawn["choices"][0]["message"]["content"]


def test_a_mode_is_chosen_per_request(server: Server) -> None:
    dense = server.chat("say: the", mode="dense")
    assert dense["mode"] == dense["sparsity"]["mode"] == "dense"
    assert dense["sparsity"]["rows"] == dense["sparsity"]["rows_dense"]


def test_a_model_that_is_not_sparse(serve: Serve) -> None:
    server = serve(FakeEngine(sparse=False))
    answer = server.chat("say: the")
    assert answer["sparsity"] is None
    assert answer["mode"] == ""
    assert server.get("/props").json()["turbosparse"]["note"]
    refused = server.post("/v1/chat/completions", {**SAY, "mode": "dense"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (501, "not_supported_error")
    assert server.post("/v1/embeddings", {"input": "x"}).status_code == 501


# --- probabilities ---------------------------------------------------------------------


def test_chat_logprobs(server: Server) -> None:
    content = server.chat("say: the answer", logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert [item["token"] for item in content] == ["the", " answer"]
    assert bytes(content[1]["bytes"]) == b" answer"
    assert len(content[0]["top_logprobs"]) == 2
    assert content[0]["top_logprobs"][0]["logprob"] == content[0]["logprob"] <= 0
    alone = server.chat("say: the answer", logprobs=True)["choices"][0]["logprobs"]["content"]
    assert alone[0]["top_logprobs"] == []


def test_text_logprobs_in_both_forms(server: Server) -> None:
    found = server.post("/v1/completions", {"prompt": "say: the answer", "logprobs": 2}).json()["choices"][0][
        "logprobs"
    ]
    assert found["tokens"] == ["the", " answer"]
    assert found["text_offset"] == [0, 3]
    assert found["token_logprobs"] == [item["logprob"] for item in found["content"]]
    assert found["top_logprobs"][0]["the"] == found["token_logprobs"][0]


def test_n_probs(server: Server) -> None:
    answer = server.post("/completion", {"prompt": "say: the", "n_probs": 3}).json()
    (item,) = answer["completion_probabilities"]
    assert (item["token"], len(item["top_logprobs"])) == ("the", 3)
    assert "completion_probabilities" not in server.post("/completion", {"prompt": "say: the", "n_probs": 0}).json()


# --- JSON and tools ---------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "tells it",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}},
        {"json_schema": SCHEMA},
        {"grammar": 'root ::= "x"'},
    ],
)
def test_forms_of_json(server: Server, asked: dict[str, Any]) -> None:
    assert server.chat("hello", **asked)["choices"][0]["message"]["content"] == '{"answer": 42}'


def test_a_tool_is_called_and_answered(server: Server) -> None:
    answer = server.chat("how is it in Paris?", tools=[TOOL])
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    messages = [
        {"role": "user", "content": "how is it in Paris?"},
        choice["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
    ]
    after = server.post("/v1/chat/completions", {"messages": messages, "tools": [TOOL]}).json()
    assert after["choices"][0]["finish_reason"] == "stop"
    assert after["choices"][0]["message"]["content"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_tool_may_be_required(server: Server, choice: Any) -> None:
    answer = server.chat("hello", tools=[TOOL], tool_choice=choice)
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"


def test_no_tool_when_none_is_chosen(server: Server) -> None:
    assert "tool_calls" not in server.chat("say: the", tools=[TOOL], tool_choice="none")["choices"][0]["message"]


# --- everything else -----------------------------------------------------------------------


def test_models(server: Server) -> None:
    listed = server.get("/v1/models").json()
    (model,) = listed["data"]
    assert (listed["object"], model["object"], model["id"]) == ("list", "model", server.engine.card.id)
    assert model["meta"]["n_ctx"] == 4096
    assert server.get(f"/v1/models/{model['id']}").json()["id"] == model["id"]
    missing = server.get("/v1/models/other/name")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_props(server: Server) -> None:
    props = server.get("/props").json()
    assert props["total_slots"] == 2
    assert props["default_generation_settings"]["n_ctx"] == 4096
    assert props["default_generation_settings"]["params"]["temperature"] == 0.8
    assert "<|im_start|>" in props["chat_template"]
    assert props["turbosparse"]["modes"] == ["dense", "exact", "predicted"]


def test_slots(server: Server) -> None:
    server.chat("say: the", id_slot=1)
    slots = server.get("/slots").json()
    assert [slot["id"] for slot in slots] == [0, 1]
    assert not any(slot["is_processing"] for slot in slots)
    assert slots[1]["n_tokens_cached"] > 0


def test_health_while_there_is_no_model(serve: Serve, server: Server) -> None:
    assert server.get("/health").json() == {"status": "ok"}
    empty = serve(FakeEngine(loaded=False))
    assert empty.get("/health").status_code == 503
    assert empty.get("/v1/models").json()["data"] == []
    refused = empty.post("/v1/chat/completions", SAY)
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "unavailable_error")
    assert empty.get("/props").status_code == 503


def test_metrics(server: Server) -> None:
    before = server.metric("llamacpp:tokens_predicted_total")
    server.chat("say: the the")
    assert server.metric("llamacpp:tokens_predicted_total") == before + 2
    text = server.get("/metrics").text
    for line in text.splitlines():
        assert line.startswith("# ") or math.isfinite(float(line.split()[1]))
    assert server.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")


def test_tokens_and_back(server: Server) -> None:
    tokens = server.post("/tokenize", {"content": "hello the x"}).json()["tokens"]
    assert server.post("/detokenize", {"tokens": tokens}).json() == {"content": "hello the x"}
    special = server.post("/tokenize", {"content": "<s>é", "with_pieces": True}).json()["tokens"]
    assert [item["piece"] for item in special] == ["<s>", [0xC3], [0xA9]]
    assert server.post("/tokenize", {"content": "<s>", "parse_special": False}).json()["tokens"] == list(b"<s>")
    assert server.post("/tokenize", {"content": "x", "add_special": True}).json()["tokens"] == [256, ord("x")]
    assert server.post("/detokenize", {"tokens": []}).json() == {"content": ""}


def test_apply_template(server: Server) -> None:
    prompt = server.post("/apply-template", {"messages": [{"role": "user", "content": "hi"}]}).json()["prompt"]
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_tools_in_the_template(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]}
    assert '<tools>\n{"name": "weather"' in server.post("/apply-template", body).json()["prompt"]


def test_a_last_message_of_the_assistant_is_gone_on_with(server: Server) -> None:
    """Its end token is left out of the prompt; the answer is what follows."""
    begun = [{"role": "user", "content": "say: the"}, {"role": "assistant", "content": "the answer"}]
    tokens = len(server.engine.encode(begun, add_generation_prompt=False))
    answer = server.post("/v1/chat/completions", {"messages": begun, "max_tokens": 1}).json()
    assert answer["usage"]["prompt_tokens"] == tokens - 2
    other = server.post("/v1/chat/completions", {"messages": begun, "max_tokens": 1, "continue_final_message": False})
    assert other.json()["usage"]["prompt_tokens"] > tokens


def test_embeddings(server: Server) -> None:
    answer = server.post("/v1/embeddings", {"input": ["a", "b b"]}).json()
    assert [item["index"] for item in answer["data"]] == [0, 1]
    row = answer["data"][0]["embedding"]
    assert len(row) == server.engine.card.n_embd
    assert sum(x * x for x in row) == pytest.approx(1)
    packed = server.post("/v1/embeddings", {"input": "a", "encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert struct.unpack(f"<{len(row)}f", base64.b64decode(packed)) == pytest.approx(row)
    assert answer["usage"]["prompt_tokens"] == 6


def test_unknown_paths_and_methods(server: Server) -> None:
    assert server.get("/nothing").json()["error"]["type"] == "not_found_error"
    wrong = server.get("/tokenize")
    assert wrong.status_code == 405
    assert "POST" in wrong.headers["allow"]


def test_content_in_parts(server: Server) -> None:
    parts = [{"type": "text", "text": "say: the"}, {"type": "text", "text": " answer"}]
    answer = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]}).json()
    assert answer["choices"][0]["message"]["content"] == "the answer"
