"""turbosparse generate"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..summary import summary
from . import options

if TYPE_CHECKING:
    from ..generate import Generation, Prompt

DEFAULT_TOKENS = 256


def command(
    file: options.FileArgument,
    prompt: Annotated[
        str,
        typer.Option("-p", "--prompt", help="Text to continue; - reads standard input, none begins at BOS."),
    ] = "",
    max_tokens: Annotated[
        int,
        typer.Option("-n", "--max-tokens", min=-1, help="Tokens to generate; -1 fills the context."),
    ] = DEFAULT_TOKENS,
    mode: options.ModeOption = None,
    temp: Annotated[
        float | None,
        typer.Option("--temp", help="0 takes the likeliest token. [default: the file's, or 0.8]"),
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="0 = off. [default: the file's, or 40]")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="1 = off. [default: the file's, or 0.95]")] = None,
    min_p: Annotated[float | None, typer.Option("--min-p", help="0 = off. [default: the file's, or 0.05]")] = None,
    repeat_penalty: Annotated[
        float | None,
        typer.Option("--repeat-penalty", help="1 = off. [default: the file's, or 1]"),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Repeats a run. [default: drawn, and shown]")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", help="End before this string; may be given several times."),
    ] = None,
    grammar: Annotated[
        str | None,
        typer.Option("--grammar", help="GBNF with a rule root that the text must follow; @FILE reads it."),
    ] = None,
    json_schema: Annotated[
        str | None,
        typer.Option("--json-schema", help="JSON schema that the text must follow; @FILE reads it."),
    ] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end token.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a message: use the chat template.")] = False,
    system: Annotated[str | None, typer.Option("--system", help="System message; implies --chat.")] = None,
    kv_type: options.KvTypeOption = "f16",
    flash_attn: options.FlashAttnOption = "auto",
    n_ctx: Annotated[
        int | None,
        typer.Option("-c", "--n-ctx", min=1, help="Context in tokens. [default: up to 4096]"),
    ] = None,
    threads: options.ThreadsOption = None,
    ignore_swa: options.IgnoreSwaOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Continue a text, or answer a message, with a TurboSparse GGUF file.

    The text goes to standard output as it comes; afterwards one line on standard error says how
    fast it was, what share of the FFN's rows was computed and how many bytes a token took.

    turbosparse generate m.gguf -p "Once upon a time" -n 64 --temp 0

    turbosparse generate m.gguf --chat -p "Who was Ada Lovelace?" --mode predicted

    With --json the object has text, tokens, prompt_tokens, finish_reason, seed, mode, timings
    (milliseconds and tokens) and sparsity (rows and bytes, summed over the generated tokens).
    """
    from ..generate import Generation

    sampling = {
        "temperature": temp,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "seed": seed,
        "stop": tuple(stop or ()),
        "grammar": _grammar(grammar, json_schema),
        "ignore_eos": ignore_eos,
    }
    given: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    given["max_tokens"] = None if max_tokens < 0 else max_tokens
    text = options.read_text("-") if prompt == "-" else prompt
    with options.open_model(
        file, mode=mode, n_ctx=n_ctx, n_threads=threads, kv_type=kv_type, flash_attn=flash_attn, ignore_swa=ignore_swa
    ) as model:
        generation = Generation(model, _prompt(text, chat, system), **given)
        if as_json:
            print(json.dumps(generation.result().as_dict(), ensure_ascii=False))
        else:
            _print_text(generation)


def _grammar(grammar: str | None, json_schema: str | None) -> str | None:
    from ..errors import ArgumentError
    from ..grammar import from_json_schema

    if grammar is not None and json_schema is not None:
        raise ArgumentError(
            "--grammar and --json-schema exclude each other; give one of them",
            where="--grammar",
            expected="one of them",
            found="both",
        )
    if json_schema is not None:
        return from_json_schema(_text_or_file(json_schema))
    return None if grammar is None else _text_or_file(grammar)


def _text_or_file(value: str) -> str:
    return options.read_text(value[1:]) if value.startswith("@") else value


def _prompt(text: str, chat: bool, system: str | None) -> Prompt:
    if not chat and system is None:
        return text
    messages = [{"role": "system", "content": system}] if system is not None else []
    return [*messages, {"role": "user", "content": text}]


def _print_text(generation: Generation) -> None:
    """Chunks to standard output as they come, then the line of figures."""
    try:
        for chunk in generation:
            sys.stdout.write(chunk.text)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    print(summary(generation.result()), file=sys.stderr)
