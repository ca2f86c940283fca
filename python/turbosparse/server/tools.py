"""Tools in a chat: told to the model, and their calls found in what it writes.

The form is that of ChatML models (Hermes, Qwen): each call is JSON between <tool_call> and
</tool_call>. A chat template that knows tools is given them; for any other the system message
explains them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..grammar import from_json_schema
from .fields import Fields
from .problem import invalid

OPEN, CLOSE = "<tool_call>", "</tool_call>"
CHOICES = ("none", "auto", "required")
EXPLANATION = """You may call functions to help with the user's request. They are described here as JSON:
<tools>
{tools}
</tools>
To call one, answer with a JSON object of its name and its arguments, like this:
<tool_call>
{{"name": "NAME", "arguments": {{...}}}}
</tool_call>"""


@dataclass(frozen=True)
class Offer:
    """The tools of a request.

    Attributes:
        tools: as sent; empty when there are none or tool_choice is "none".
        required: whether the answer must be a call.
        several: whether it may be more than one call.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    required: bool = False
    several: bool = True


def offered(fields: Fields) -> Offer:
    """Of a request's tools, tool_choice and parallel_tool_calls. Raises ProblemError."""
    tools = fields.raw("tools")
    choice = fields.raw("tool_choice")
    several = fields.flag("parallel_tool_calls", True)
    if tools is not None and not isinstance(tools, list):
        raise invalid("tools must be a list", "tools")
    found = tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools or ()))
    if not found and choice not in (None, "none", "auto"):
        raise invalid("tool_choice needs tools", "tool_choice")
    if choice == "none":
        return Offer()
    if isinstance(choice, Mapping):
        return Offer((_named(found, choice),), required=True, several=False)
    if choice is not None and choice not in CHOICES:
        raise invalid(f"tool_choice must be one of {', '.join(CHOICES)} or name a function", "tool_choice")
    return Offer(found, choice == "required", several)


def _tool(tool: Any, where: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type") != "function":
        raise invalid(f'{where} must be {{"type": "function", "function": ...}}', where)
    name, parameters = function.get("name"), function.get("parameters", {})
    if not isinstance(name, str) or not name or not isinstance(parameters, Mapping):
        raise invalid(f"{where}.function needs a name, and parameters that are a JSON schema", where)
    return dict(tool)


def _named(tools: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]) -> Mapping[str, Any]:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    for tool in tools:
        if tool["function"]["name"] == name:
            return tool
    raise invalid(f"tool_choice names {name!r}, which is none of the tools", "tool_choice")


def speaks(template: str) -> bool:
    """Whether a chat template knows about tools."""
    return "tools" in template


def explained(messages: Sequence[dict[str, Any]], offer: Offer) -> list[dict[str, Any]]:
    """Messages for a template that knows no tools: calls and results as text, the offer in the system message."""
    plain = [_plain(message) for message in messages]
    if not offer.tools:
        return plain
    text = EXPLANATION.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in offer.tools))
    if plain[0]["role"] == "system":
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{text}"}, *plain[1:]]
    return [{"role": "system", "content": text}, *plain]


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "tool", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    if not calls:
        return message
    written = "\n".join(f"{OPEN}\n{call}\n{CLOSE}" for call in calls)
    return {"role": message["role"], "content": f"{message['content']}\n{written}" if message["content"] else written}


def grammar(offer: Offer) -> str | None:
    """GBNF that forces a call of an offered tool where one is required, else None."""
    if not offer.required:
        return None
    options = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": tool["function"].get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
        }
        for tool in offer.tools
    ]
    rules = from_json_schema(options[0] if len(options) == 1 else {"anyOf": options})
    renamed = "\n".join("call ::=" + line[8:] if line.startswith("root ::=") else line for line in rules.splitlines())
    one = f'"{OPEN}\\n" call "\\n{CLOSE}"'
    more = f' ("\\n" {one})*' if offer.several else ""
    return f"root ::= {one}{more}\n{renamed}\n"


@dataclass(frozen=True)
class Call:
    """A call of a tool that was found in the text; `arguments` is JSON text."""

    index: int
    id: str
    name: str
    arguments: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as in a message."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class CallParser:
    """Splits text that comes piece by piece into content and calls.

    What stands between the tags and is no call is content, tags included; white space after a call is not.
    """

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self._after_call = False
        self.calls: list[Call] = []

    def push(self, text: str) -> tuple[str, list[Call]]:
        """Content that may be shown now, and calls that are complete now."""
        self._held += text
        shown, before = "", len(self.calls)
        while True:
            mark = CLOSE if self._inside else OPEN
            at = self._held.find(mark)
            if at < 0:
                break
            if self._inside:
                shown += self._close(self._held[:at])
            else:
                shown += self._content(self._held[:at])
            self._held = self._held[at + len(mark) :]
            self._inside = not self._inside
        if not self._inside:
            keep = len(self._held) - _overlap(self._held)
            shown, self._held = shown + self._content(self._held[:keep]), self._held[keep:]
        return shown, self.calls[before:]

    def finish(self) -> tuple[str, list[Call]]:
        """The same for what was held back; an unfinished but whole call counts."""
        held, self._held = self._held, ""
        if not self._inside:
            return self._content(held), []
        self._inside, before = False, len(self.calls)
        text = self._close(held, end="")
        return text, self.calls[before:]

    def _close(self, inner: str, end: str = CLOSE) -> str:
        call = _call(inner, len(self.calls))
        if call is None:
            return self._content(f"{OPEN}{inner}{end}")
        self.calls.append(call)
        self._after_call = True
        return ""

    def _content(self, text: str) -> str:
        text = text.lstrip() if self._after_call else text
        self._after_call = self._after_call and not text
        return text


def _call(text: str, index: int) -> Call | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return Call(index, f"call_{secrets.token_hex(12)}", value["name"], written)


def _overlap(text: str) -> int:
    """Length of the longest proper prefix of the opening tag that `text` ends with."""
    return next((n for n in range(min(len(text), len(OPEN) - 1), 0, -1) if text.endswith(OPEN[:n])), 0)
