"""Chat messages to prompt text, by the Jinja template that comes with the model.

A template is a program from an untrusted file: it runs in jinja2's immutable sandbox, and its
size, output and time are bounded. (The sandbox bounds ranges; time is checked whenever the
template puts out something.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import ArgumentError, ModelFormatError

if TYPE_CHECKING:
    from .model import Model

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
KEY = "tokenizer.chat_template"
MAX_TEMPLATE = 256 * 1024  # characters
MAX_EXTRA = 64 * 1024  # characters of output beyond 16 times the messages
MAX_SECONDS = 2.0


def render(
    messages: Sequence[Mapping[str, Any]],
    template: str = CHATML,
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
) -> str:
    """The prompt that `template` makes of `messages`.

    Args:
        messages: each with "role" and "content".
        add_generation_prompt: end with the beginning of the assistant's answer.

    Raises:
        ArgumentError: a message lacks a key, or the template refuses the messages.
        ModelFormatError: the template does not parse, does what the sandbox forbids, or is too
            large or too slow.
    """
    import jinja2

    _check_messages(messages)
    try:
        compiled = _environment().from_string(_sized(template))
        return _bounded(
            compiled.generate(
                messages=[dict(message) for message in messages],
                bos_token=bos_token,
                eos_token=eos_token,
                add_generation_prompt=add_generation_prompt,
            ),
            MAX_EXTRA + 16 * len(json.dumps(list(map(dict, messages)), default=str)),
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


def prompt_for_model(model: Model, messages: Sequence[Mapping[str, Any]]) -> str:
    """Prompt text for `messages`; BOS is left to the tokenizer, which adds it where the file says so."""
    bos, eos = (_special(model, token) for token in (model.info.token_bos, model.info.token_eos))
    text = render(messages, for_model(model), bos_token=bos, eos_token=eos)
    return text.removeprefix(bos) if model.info.add_bos and bos else text


def _special(model: Model, token: int) -> str:
    return model.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""


def _environment() -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment


def _refuse(message: object) -> NoReturn:
    raise ArgumentError(
        f"the model's chat template refuses these messages: {message}",
        where=KEY,
        expected="messages that it takes",
        found=str(message),
    )


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    for i, message in enumerate(messages):
        missing = [key for key in ("role", "content") if key not in message]
        if missing:
            raise ArgumentError(
                f"message {i} lacks {' and '.join(missing)}",
                where=f"messages[{i}]",
                expected="role and content",
                found=", ".join(message),
            )


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
