"""Grammars that constrain generation: GBNF as it is, JSON schemas made into GBNF."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .errors import ArgumentError, GrammarError

COUNTS = frozenset(("minLength", "maxLength", "minItems", "maxItems"))
MAX_COUNT = 1000


def from_json_schema(schema: str | Mapping[str, Any]) -> str:
    """GBNF with a rule `root` that admits exactly the JSON documents of `schema`.

    Args:
        schema: JSON text or an equal dict. Remote references are refused, local ones resolved.

    Raises:
        GrammarError: it is no JSON, no object, or uses what the converter lacks.
    """
    document = _parse(schema)
    _check_counts(document)
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        return str(json_schema_to_gbnf(json.dumps(document)))
    except Exception as error:  # the converter raises whatever its dictionaries raise
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise GrammarError(
            f"the JSON schema cannot be made into a grammar: {reason}",
            where="json schema",
            expected="a supported JSON schema",
            found=reason,
        ) from error


def for_response_format(response_format: Mapping[str, Any] | None) -> str | None:
    """GBNF for OpenAI's `response_format`, None when it asks for plain text.

    Raises:
        ArgumentError: of another type, or without its schema.
        GrammarError: as from_json_schema.
    """
    kind = "text" if response_format is None else response_format.get("type")
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":  # llama-cpp-python puts a schema here
        return from_json_schema(response_format.get("schema") or {"type": "object"})
    schema = (response_format.get("json_schema") or {}).get("schema") if kind == "json_schema" else None
    if schema is None:
        raise ArgumentError(
            f"response_format {dict(response_format)} is not understood; give text, json_object, or json_schema with "
            "its schema in json_schema.schema",
            where="response_format",
            expected="text, json_object or json_schema",
            found=str(kind),
        )
    return from_json_schema(schema)


def _check_counts(value: Any) -> None:
    """The converter writes a repetition out: a count of a billion would be gigabytes of grammar."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in COUNTS and isinstance(item, (int, float)) and item > MAX_COUNT:
                raise GrammarError(
                    f"the JSON schema has {key} {item}, but a grammar can count to {MAX_COUNT} only",
                    where="json schema",
                    expected=f"at most {MAX_COUNT}",
                    found=str(item),
                )
            _check_counts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_counts(item)


def _parse(schema: str | Mapping[str, Any]) -> Any:
    try:
        document = json.loads(schema) if isinstance(schema, str) else schema
    except json.JSONDecodeError as error:
        raise GrammarError(
            f"the JSON schema is not JSON: {error}", where="json schema", expected="JSON", found=str(error)
        ) from error
    if not isinstance(document, Mapping):
        found = type(document).__name__
        raise GrammarError(
            f"a JSON schema must be an object, not {found}", where="json schema", expected="an object", found=found
        )
    return dict(document)
