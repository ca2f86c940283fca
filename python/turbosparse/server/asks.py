"""From the JSON of a completion request to engine.Request: both dialects, OpenAI's and llama-server's."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from ..errors import ArgumentError
from ..grammar import for_response_format, from_json_schema
from ..options import Mode
from ..sampling import SEED_LIMIT, SamplingParams
from . import messages as chat
from . import tools as toolbox
from .engine import MAX_SHIFT, Engine, ModelCard, Request
from .fields import Fields
from .problem import invalid

log = logging.getLogger("turbosparse.server")

MAX_STOPS = 16
MAX_PROBS = 100
MAX_ANSWERS = 16
MAX_BIASES = 1024


@dataclass(frozen=True)
class Ask:
    """A request and how its answer is to be written.

    Attributes:
        n: answers, each with a seed of its own.
        tools: whether calls of tools are to be found in the text.
        token_sparsity, token_timings: a record in every chunk of a stream.
        include_usage: a last chunk with usage.
        echo: text to put in front of the answer.
        logprobs: whether the answer has a logprobs member.
    """

    request: Request
    stream: bool
    n: int = 1
    tools: bool = False
    token_sparsity: bool = False
    token_timings: bool = False
    include_usage: bool = False
    echo: str = ""
    logprobs: bool = False

    def requests(self) -> list[Request]:
        """One per answer; of a given seed, the next ones."""
        params = self.request.params
        if params.seed is None:
            return [self.request] * self.n
        seeds = [(params.seed + i) % SEED_LIMIT for i in range(self.n)]
        return [replace(self.request, params=replace(params, seed=seed)) for seed in seeds]


def chat_ask(engine: Engine, body: Mapping[str, Any]) -> Ask:
    """Of POST /v1/chat/completions. Raises ProblemError and what Engine.submit raises."""
    fields, card = Fields(body), engine.card
    _refuse_chat(fields)
    offered = toolbox.offered(fields)
    turns, variables = chat_turns(card, fields, offered)
    prompt = engine.encode(turns, **variables)
    if continues(turns, fields):
        prompt = unfinished(engine, prompt)
    top = fields.integer("top_logprobs", "n_probs", default=0, low=0, high=MAX_PROBS)
    wanted = fields.flag("logprobs") or top > 0
    params = _params(fields, card, toolbox.grammar(offered))
    return _finish(fields, card, prompt, params, top if wanted else None, tools=bool(offered.tools))


def chat_turns(card: ModelCard, fields: Fields, offered: toolbox.Offer) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Messages and variables for the chat template, the tools told in the one way or the other."""
    turns = chat.checked(fields.raw("messages"))
    kwargs = fields.object("chat_template_kwargs")
    variables = {} if kwargs is None else kwargs.given()
    if not toolbox.speaks(card.chat_template):
        turns = toolbox.explained(turns, offered)
    elif offered.tools:
        variables["tools"] = list(offered.tools)
    variables["add_generation_prompt"] = fields.flag("add_generation_prompt", not continues(turns, fields))
    return turns, variables


def continues(turns: Sequence[Mapping[str, Any]], fields: Fields) -> bool:
    """Whether the last message is the beginning of the answer, to go on with: the default, as in llama-server."""
    wanted = fields.flag("continue_final_message", True)
    return wanted and turns[-1]["role"] == "assistant" and not turns[-1].get("tool_calls")


def unfinished(engine: Engine, prompt: list[int]) -> list[int]:
    """`prompt` without what the template puts behind the last message: a control token and white space."""
    for i in range(len(prompt) - 1, -1, -1):
        piece = engine.piece(prompt[i])
        if not piece:
            return prompt[:i]
        if piece.strip():
            break
    raise invalid("the model's chat template cannot leave the last message open; end with a user's", "messages")


def text_ask(engine: Engine, body: Mapping[str, Any], native: bool = False) -> Ask:
    """Of POST /v1/completions, or (`native`) of llama-server's POST /completion."""
    fields, card = Fields(body), engine.card
    fields.refuse("suffix", ("",), "there is no infill")
    fields.refuse("best_of", (1,), "one answer is drawn")
    prompt = prompt_tokens(engine, fields.raw("prompt"))
    wanted = fields.integer("n_probs", "logprobs", default=-1, low=0, high=MAX_PROBS)
    if native and wanted == 0:
        wanted = -1
    echo = engine.detokenize(prompt, special=False) if fields.flag("echo") else ""
    params = _params(fields, card, None)
    return _finish(fields, card, prompt, params, None if wanted < 0 else wanted, native=native, echo=echo)


def prompt_tokens(engine: Engine, prompt: Any, name: str = "prompt") -> list[int]:
    """A string, a list of token ids, strings and ids mixed, or a list with one of these."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return engine.tokenize(prompt, add_special=True, parse_special=True)
    if not isinstance(prompt, list) or not prompt:
        raise invalid(f"{name} must be a string or a list of token ids", name)
    if all(isinstance(item, str) for item in prompt):
        raise invalid(f"{name}: one prompt per request; send {len(prompt)} requests, they run at once", name)
    return [token for i, item in enumerate(prompt) for token in _part(engine, item, i, name)]


def _part(engine: Engine, item: Any, i: int, name: str) -> Sequence[int]:
    if isinstance(item, str):
        return engine.tokenize(item, add_special=i == 0, parse_special=True)
    n_vocab = engine.card.n_vocab
    if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < n_vocab:
        raise invalid(f"{name}[{i}] must be a string or a token id from 0 to {n_vocab - 1}", name)
    return [item]


def _finish(
    fields: Fields,
    card: ModelCard,
    prompt: Sequence[int],
    params: SamplingParams,
    n_probs: int | None,
    *,
    native: bool = False,
    tools: bool = False,
    echo: str = "",
) -> Ask:
    slot = fields.integer("id_slot", default=-1, low=-1)
    stream = fields.flag("stream")
    options = fields.object("stream_options")
    if native:
        fields.refuse("n", (1,), "one answer per request; send several, they run at once")
    ask = Ask(
        n=fields.integer("n", default=1, low=1, high=MAX_ANSWERS),
        request=Request(
            prompt=tuple(prompt),
            params=params,
            mode=fields.choice("mode", get_args(Mode)),
            threshold_shift=fields.number("threshold_shift", default=0.0, low=-MAX_SHIFT, high=MAX_SHIFT),
            n_probs=n_probs,
            show_special=tools,
            progress=fields.flag("return_progress") and stream,
            cache_prompt=fields.flag("cache_prompt", True),
            slot=None if slot < 0 else slot,
        ),
        stream=stream,
        tools=tools,
        token_sparsity=fields.flag("sparsity"),
        token_timings=fields.flag("timings_per_token"),
        include_usage=options is not None and options.flag("include_usage"),
        echo=echo,
        logprobs=n_probs is not None,
    )
    _note_ignored(fields)
    return ask


# --- sampling -----------------------------------------------------------------------


def _params(fields: Fields, card: ModelCard, grammar: str | None) -> SamplingParams:
    base = card.defaults
    most = -1 if base.max_tokens is None else base.max_tokens
    max_tokens = fields.integer("max_completion_tokens", "max_tokens", "n_predict", default=most, low=-1)
    seed = fields.integer("seed", default=-1, low=-1, high=SEED_LIMIT)
    try:
        return replace(
            base,
            max_tokens=None if max_tokens < 0 else max_tokens,
            temperature=fields.number("temperature", default=base.temperature, low=0, high=100),
            top_k=fields.integer("top_k", default=base.top_k),
            top_p=fields.number("top_p", default=base.top_p, low=0, high=1),
            min_p=fields.number("min_p", default=base.min_p, low=0, high=1),
            repeat_penalty=fields.number("repeat_penalty", default=base.repeat_penalty, low=0.01, high=100),
            frequency_penalty=fields.number("frequency_penalty", default=base.frequency_penalty, low=-2, high=2),
            presence_penalty=fields.number("presence_penalty", default=base.presence_penalty, low=-2, high=2),
            penalty_last_n=fields.integer("repeat_last_n", "penalty_last_n", default=base.penalty_last_n, low=-1),
            seed=None if seed in (-1, SEED_LIMIT) else seed,
            stop=fields.strings("stop", MAX_STOPS) or base.stop,
            logit_bias=_logit_bias(fields, card.n_vocab),
            grammar=_grammar(fields, grammar),
            ignore_eos=fields.flag("ignore_eos", base.ignore_eos),
        )
    except ArgumentError as error:
        raise invalid(str(error), error.where) from error


def _logit_bias(fields: Fields, n_vocab: int) -> tuple[tuple[int, float], ...]:
    """OpenAI's {"id": bias}, or llama-server's [[id, bias or false], ...]; false forbids the token."""
    given = fields.raw("logit_bias")
    if given is None:
        return ()
    pairs = list(given.items()) if isinstance(given, dict) else given
    expected = f"up to {MAX_BIASES} token ids below {n_vocab}, each with a number or false"
    if not isinstance(pairs, list) or len(pairs) > MAX_BIASES:
        raise fields.wrong("logit_bias", expected, given)
    found = [_bias(pair, n_vocab) for pair in pairs]
    if None in found:
        raise fields.wrong("logit_bias", expected, given)
    return tuple(pair for pair in found if pair is not None)


def _bias(pair: Any, n_vocab: int) -> tuple[int, float] | None:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        return None
    token, bias = pair
    token = int(token) if isinstance(token, str) and token.isdecimal() and len(token) < 10 else token
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < n_vocab:
        return None
    if bias is False:
        return token, float("-inf")
    is_number = isinstance(bias, (int, float)) and not isinstance(bias, bool)
    return (token, float(bias)) if is_number and abs(bias) <= 1e6 else None


def _grammar(fields: Fields, forced: str | None) -> str | None:
    """GBNF of at most one of grammar, json_schema, response_format and a forced call of a tool."""
    found = [text for text in (fields.text("grammar") or None, _schema(fields), _format(fields), forced) if text]
    if len(found) > 1:
        raise invalid("give one of grammar, json_schema, response_format and a required tool_choice, not several")
    return found[0] if found else None


def _schema(fields: Fields) -> str | None:
    schema = fields.raw("json_schema")
    return None if schema is None else from_json_schema(_object_of(fields, "json_schema", schema))


def _format(fields: Fields) -> str | None:
    wanted = fields.object("response_format")
    if wanted is None:
        return None
    wanted.object("json_schema")  # an object, if it is there
    return for_response_format(wanted.given())


def _object_of(fields: Fields, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise fields.wrong(name, "a JSON schema (an object)", value)
    return value


# --- what is not there -----------------------------------------------------------------


def _refuse_chat(fields: Fields) -> None:
    fields.refuse("audio", (), "this model only writes text")
    fields.refuse("modalities", (["text"],), "this model only writes text")
    fields.refuse("functions", ([],), "use tools")
    fields.refuse("function_call", ("none",), "use tool_choice")


# what common clients send and what changes nothing here
_KNOWN = frozenset(
    {"model", "user", "store", "metadata", "service_tier", "reasoning_effort", "reasoning_format", "safety_identifier"}
    | {"prompt_cache_key", "verbosity", "samplers", "prediction", "web_search_options", "t_max_predict_ms"}
)


def _note_ignored(fields: Fields) -> None:
    """One line for members that nobody knows."""
    unknown = [name[:40] for name in fields.ignored() if name not in _KNOWN]
    if unknown:
        log.warning("ignored members of a request: %s", ", ".join(unknown[:20]))
