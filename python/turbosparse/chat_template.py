"""Chat messages to prompt tokens, by the Jinja template that comes with the model.

A template is a program from an untrusted file: it runs in jinja2's immutable sandbox, and its
size, output, time and what `+`, `*` and `**` make are bounded. (The sandbox bounds ranges; time is
checked whenever the template puts out something; what `~`, `%`, filters and methods make is not
bounded.)

What people write is not trusted either: only the template can write control tokens, see
encode_messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from .disguise import Disguise
from .errors import ArgumentError, ModelFormatError

if TYPE_CHECKING:
    from .model import Model

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
Message = Mapping[str, Any]
KEY = "tokenizer.chat_template"
MAX_TEMPLATE = 256 * 1024  # characters
MAX_EXTRA = 64 * 1024  # characters of output beyond 16 times the messages
MAX_SECONDS = 2.0
MAX_MADE = 16 << 20  # characters or items that one operator may make
MAX_BITS = 1 << 12  # of an integer that is multiplied


def render(
    messages: Sequence[Message],
    template: str = CHATML,
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> str:
    """The prompt that `template` makes of `messages`.

    Args:
        messages: each with "role" and "content": text, or OpenAI's list of text parts.
        add_generation_prompt: end with the beginning of the assistant's answer.
        tools: as in OpenAI's API, for templates that show them.
        variables: what else the template asks for, like enable_thinking.

    Raises:
        ArgumentError: a message lacks a key, or the template refuses the messages.
        ModelFormatError: the template does not parse, does what the sandbox forbids, or is too
            large or too slow.
    """
    import jinja2

    given = {"messages": plain(messages), "tools": tools}
    try:
        compiled = _environment().from_string(_sized(template))
        return _bounded(
            compiled.generate(
                **variables,
                **given,
                bos_token=bos_token,
                eos_token=eos_token,
                add_generation_prompt=add_generation_prompt,
            ),
            MAX_EXTRA + 16 * len(json.dumps(given, default=str)),
        )
    except jinja2.TemplateError as error:
        raise _broken(f"{type(error).__name__}: {error}") from error
    except (TypeError, ValueError, OverflowError, ArithmeticError, LookupError, MemoryError, RecursionError) as error:
        if isinstance(error, (ArgumentError, ModelFormatError)):
            raise
        raise _broken(f"{type(error).__name__}: {error}") from error


def for_model(model: Model) -> str:
    """The template of the file, else ChatML, which every TurboSparse model speaks."""
    return model.meta(KEY) or CHATML


def prompt_for_model(
    model: Model, messages: Sequence[Message], *, template: str | None = None, **variables: Any
) -> str:
    """Prompt text for `messages`, to look at; BOS is left to the tokenizer, which adds it where the file says so.

    Do not tokenise it: use encode_messages, which knows the template's control tokens from the users'.

    Args:
        template: None = the model's.
        variables: as for render.
    """
    bos, eos = (_special(model, token) for token in (model.info.token_bos, model.info.token_eos))
    text = render(messages, template or for_model(model), bos_token=bos, eos_token=eos, **variables)
    return text.removeprefix(bos) if model.info.add_bos and bos else text


def encode_messages(
    model: Model,
    messages: Sequence[Message],
    *,
    template: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> list[int]:
    """Prompt tokens for `messages`, in which every control token was written by the template.

    `<|im_end|>` in a message (or a tool's description) is text, and stays text: while the
    template runs, its first character is another one, which cannot be mistaken.

    Args:
        template, tools, variables: as for prompt_for_model.
    """
    disguise = Disguise(model.control_tokens, [plain(messages), tools, template or for_model(model)])
    text = prompt_for_model(
        model, disguise.put_on(plain(messages)), template=template, tools=disguise.put_on(tools), **variables
    )
    if not disguise.used:
        return model.tokenize(text, add_special=True, parse_special=True)
    tokens = [model.info.token_bos] if model.info.add_bos else []
    for piece in disguise.split(text):
        control = model.control_tokens.get(piece)
        tokens += [control] if control is not None else model.tokenize(disguise.take_off(piece), add_special=False)
    return tokens


def _special(model: Model, token: int) -> str:
    return model.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""


def _environment() -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.intercepted_binops = frozenset(_OPERATORS)  # also: not computed when the template is compiled
    environment.binop_table.update(_OPERATORS)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment


def _plus(left: Any, right: Any) -> Any:
    _check_made(_length(left) + _length(right))
    return left + right


def _times(left: Any, right: Any) -> Any:
    for sequence, count in ((left, right), (right, left)):
        if isinstance(count, int):
            _check_made(_length(sequence) * count)
            _check_bits(count.bit_length())
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * right)
    return left**right


_OPERATORS = {"+": _plus, "*": _times, "**": _power}


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple)) else 0


def _check_made(length: int) -> None:
    if length > MAX_MADE:
        raise _broken(f"it makes a text or list of {length} elements")


def _check_bits(count: int) -> None:
    if count > MAX_BITS:
        raise _broken(f"it computes with a number of {count} bits")


def _refuse(message: object) -> NoReturn:
    raise ArgumentError(
        f"the model's chat template refuses these messages: {message}",
        where=KEY,
        expected="messages that it takes",
        found=str(message),
    )


def plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as templates know them, content as one text. Raises ArgumentError for a malformed one."""
    return [_plain(i, message) for i, message in enumerate(messages)]


def _plain(i: int, message: Message) -> dict[str, Any]:
    needed = ("role",) if "tool_calls" in message else ("role", "content")
    missing = [key for key in needed if key not in message]
    if missing:
        raise ArgumentError(
            f"message {i} lacks {' and '.join(missing)}",
            where=f"messages[{i}]",
            expected="role and content",
            found=", ".join(message),
        )
    return {**message, "content": _content(i, message.get("content"))}


def _content(i: int, content: Any) -> Any:
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            found = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ArgumentError(
                f"message {i} has a part of type {found!r}; this model reads text only",
                where=f"messages[{i}].content",
                expected="parts of type text",
                found=str(found),
            )
    return "".join(part["text"] for part in content)


def _sized(template: str) -> str:
    if len(template) > MAX_TEMPLATE:
        raise _broken(f"it has {len(template)} characters, more than {MAX_TEMPLATE}")
    return template


def _bounded(pieces: Any, limit: int) -> str:
    shown, length, end = [], 0, monotonic() + MAX_SECONDS
    for piece in pieces:
        length += len(piece)
        if length > limit:
            raise _broken(f"it writes more than {limit} characters")
        if monotonic() > end:
            raise _broken(f"it takes longer than {MAX_SECONDS:g} s")
        shown.append(piece)
    return "".join(shown)


def _broken(reason: str) -> ModelFormatError:
    return ModelFormatError(
        f"the model's chat template cannot be used: {reason}",
        where=KEY,
        expected="a Jinja template within bounds",
        found=reason,
    )
