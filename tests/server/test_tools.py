"""Tools: told to models that do not know them, forced by grammar, found in text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turbosparse.server import tools
from turbosparse.server.fields import Fields
from turbosparse.server.tools import CLOSE, OPEN, CallParser, Offer

from tests.server.test_dialect import TOOL

CALL = f'{OPEN}\n{{"name": "weather", "arguments": {{"city": "Paris"}}}}\n{CLOSE}'


def parsed(text: str, sizes: list[int] | None = None) -> tuple[str, list[tuple[str, str]]]:
    """Content and calls of `text`, fed in pieces of the sizes given."""
    parser, shown, calls = CallParser(), "", []
    sizes = sizes or [len(text)]
    at, i = 0, 0
    while at < len(text):
        size = sizes[i % len(sizes)]
        content, found = parser.push(text[at : at + size])
        shown, calls, at, i = shown + content, calls + found, at + size, i + 1
    content, found = parser.finish()
    calls += found
    assert calls == parser.calls
    assert [call.index for call in calls] == list(range(len(calls)))
    return shown + content, [(call.name, call.arguments) for call in calls]


PARIS = ("weather", '{"city": "Paris"}')


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("hello", "hello", []),
        (CALL, "", [PARIS]),
        (f"Let me see. {CALL}", "Let me see. ", [PARIS]),
        (f"{CALL}\n{CALL}\n", "", [PARIS, PARIS]),
        (CALL.removesuffix(CLOSE), "", [PARIS]),
        (f"{OPEN}no json{CLOSE}", f"{OPEN}no json{CLOSE}", []),
        (f"{OPEN}no json", f"{OPEN}no json", []),
        (f"{OPEN}[1]{CLOSE}x", f"{OPEN}[1]{CLOSE}x", []),
        ("<tool_cal", "<tool_cal", []),
        ("a < b <tool", "a < b <tool", []),
        (f'{OPEN}{{"name": "f"}}{CLOSE}', "", [("f", "{}")]),
        (f'{OPEN}{{"name": "f", "parameters": {{"a": 1}}}}{CLOSE}', "", [("f", '{"a": 1}')]),
        (f'{OPEN}{{"name": "f", "arguments": "{{}}"}}{CLOSE}', "", [("f", "{}")]),
        (f"{OPEN}{'[' * 100_000}{CLOSE}", f"{OPEN}{'[' * 100_000}{CLOSE}", []),
    ],
)
def test_calls_in_text(text: str, content: str, calls: list[Any]) -> None:
    assert parsed(text) == (content, calls)
    if len(text) < 1000:
        assert parsed(text, [1]) == (content, calls)


@given(
    st.lists(st.sampled_from([CALL, "text ", OPEN, CLOSE, "<", "<tool", "\n", '{"name": "x"}']), max_size=8).map(
        "".join
    ),
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
)
def test_pieces_do_not_matter(text: str, sizes: list[int]) -> None:
    whole = parsed(text)
    assert parsed(text, sizes) == whole
    if not whole[1]:
        assert whole[0] == text


def test_an_offer() -> None:
    assert tools.offered(Fields({})) == Offer()
    assert tools.offered(Fields({"tools": [TOOL], "tool_choice": "none"})) == Offer()
    auto = tools.offered(Fields({"tools": [TOOL]}))
    assert (len(auto.tools), auto.required, auto.several) == (1, False, True)
    named = tools.offered(Fields({"tools": [TOOL], "tool_choice": {"function": {"name": "weather"}}}))
    assert (named.required, named.several) == (True, False)


def test_a_system_message_explains_the_tools() -> None:
    offer = Offer((TOOL,))
    (system, user) = tools.explained([{"role": "user", "content": "hi"}], offer)
    assert system["role"] == "system"
    assert '"name": "weather"' in system["content"]
    assert user == {"role": "user", "content": "hi"}
    extended = tools.explained([{"role": "system", "content": "Be brief."}, user], offer)
    assert extended[0]["content"].startswith("Be brief.\n\n")
    assert len(extended) == 2


def test_calls_and_results_become_text() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    plain = tools.explained(
        [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "sunny"}], Offer()
    )
    assert parsed(plain[0]["content"]) == ("", [PARIS])
    assert plain[1]["content"] == "<tool_response>\nsunny\n</tool_response>"


@pytest.mark.parametrize("several", [True, False])
def test_the_grammar_of_a_required_call(several: bool) -> None:
    other = {"type": "function", "function": {"name": "clock", "parameters": {}}}
    text = tools.grammar(Offer((TOOL, other), required=True, several=several))
    assert text is not None
    assert text.startswith('root ::= "<tool_call>\\n" call "\\n</tool_call>"')
    assert ("*" in text.splitlines()[0]) == several
    assert text.count("root ::=") == 1
    assert json.dumps("weather").replace('"', '\\"') in text
    assert tools.grammar(Offer((TOOL,))) is None
