"""Chat messages as OpenAI's clients send them, made plain for the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .problem import invalid

ROLES = ("system", "developer", "user", "assistant", "tool")


def checked(messages: Any) -> list[dict[str, Any]]:
    """`messages` with text as content and arguments of tool calls as objects. Raises ProblemError."""
    if not isinstance(messages, list) or not messages:
        raise invalid("messages must be a list of at least one message", "messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        raise invalid(f"{where} must be an object whose role is one of {', '.join(ROLES)}", f"{where}.role")
    role = "system" if message["role"] == "developer" else message["role"]
    plain: dict[str, Any] = {"role": role, "content": _content(message.get("content"), where)}
    calls = message.get("tool_calls")
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise invalid(f"{where}.tool_calls must be a list, in a message of the assistant", where)
        plain["tool_calls"] = [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    elif message.get("content") is None:
        raise invalid(f"{where}.content is missing", f"{where}.content")
    for key in ("name", "tool_call_id", "reasoning_content"):
        if isinstance(message.get(key), str):
            plain[key] = message[key]
    return plain


def _content(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise invalid(f"{where}.content must be text or a list of parts", f"{where}.content")
    return "".join(_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text", "refusal") and isinstance(part.get("text", part.get("refusal")), str):
        return str(part.get("text", part.get("refusal")))
    raise invalid(f"{where} must be a text part; this model reads nothing else (found {kind})", where)


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise invalid(f"{where}.function.name is missing", where)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise invalid(f"{where}.function.arguments is not JSON", where) from None
    plain = {"name": function["name"], "arguments": arguments}
    return {"id": str(call.get("id", "")), "type": "function", "function": plain}
