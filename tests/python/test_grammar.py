"""JSON schemas become GBNF."""

from __future__ import annotations

import json
from typing import Any

import pytest
from turbosparse import GrammarError
from turbosparse.grammar import from_json_schema

from tests.python.sources import python

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}


def test_text_and_dict_give_the_same() -> None:
    grammar = from_json_schema(SCHEMA)
    assert grammar == from_json_schema(json.dumps(SCHEMA))
    assert "root ::=" in grammar
    assert "name" in grammar


def test_local_references_are_resolved() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"const": "only"}}}
    assert "only" in from_json_schema(schema)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "must be an object"),
        ({"$ref": "https://example.com/schema.json"}, "cannot be made"),
        ({"$ref": "#/missing"}, "cannot be made"),
        ({"type": "nonsense"}, "cannot be made"),
    ],
)
def test_what_cannot_be_a_grammar(schema: Any, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason) as caught:
        from_json_schema(schema)
    assert caught.value.where == "json schema"
    assert caught.value.exit_code == 2


def test_llama_cpp_is_imported_only_for_a_schema() -> None:
    assert python("import sys, turbosparse.grammar; print('llama_cpp' in sys.modules)").strip() == "False"
