"""Routes that tell: health, models, properties, slots, metrics, and text to tokens and back."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from . import tools as toolbox
from .asks import chat_turns, prompt_tokens
from .engine import Engine, Metrics, ModelCard, SlotView
from .fields import Fields, read_json
from .problem import Problem, invalid
from .replies import sampling_settings

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _engine(request: HttpRequest) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def health(request: HttpRequest) -> Response:
    """GET /health: 200 when a model is ready, else 503."""
    state = _engine(request).state
    if state == "ready":
        return JSONResponse({"status": "ok"})
    text = {"loading": "Loading model", "empty": "no model is loaded", "failed": "the model could not be loaded"}[state]
    return Problem(503, "unavailable_error", text, retry_after=1).response()


async def models(request: HttpRequest) -> Response:
    """GET /v1/models: the loaded model, or none."""
    engine = _engine(request)
    cards = [engine.card] if engine.state == "ready" else []
    return JSONResponse(
        {"object": "list", "data": [_model(card) for card in cards], "models": [_entry(card) for card in cards]}
    )


async def model(request: HttpRequest) -> Response:
    """GET /v1/models/ID."""
    card = _engine(request).card
    wanted = request.path_params["id"]
    if wanted != card.id:
        return Problem(
            404, "not_found_error", f"there is no model {wanted}; {card.id} is loaded", "model", "model_not_found"
        ).response()
    return JSONResponse(_model(card))


def _model(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": "turbosparse",
        "meta": {
            "n_vocab": card.n_vocab,
            "n_ctx": card.n_ctx,
            "n_ctx_train": card.n_ctx_train,
            "n_embd": card.n_embd,
            "size": card.bytes_file,
            "architecture": card.architecture,
            "sparse": card.sparse,
            "modes": list(card.modes),
        },
    }


def _entry(card: ModelCard) -> dict[str, Any]:
    """What clients of Ollama's list look for, as llama-server gives it."""
    return {
        "name": card.id,
        "model": card.id,
        "type": "model",
        "capabilities": ["completion"],
        "details": {"format": "gguf", "family": card.architecture},
    }


async def props(request: HttpRequest) -> Response:
    """GET /props."""
    engine = _engine(request)
    card = engine.card
    return JSONResponse(
        {
            "default_generation_settings": {"params": sampling_settings(card.defaults), "n_ctx": card.n_ctx},
            "total_slots": card.n_parallel,
            "model_alias": card.id,
            "model_path": card.path,
            "modalities": {"vision": False, "audio": False, "video": False},
            "endpoint_slots": True,
            "endpoint_props": False,
            "endpoint_metrics": True,
            "chat_template": card.chat_template,
            "bos_token": card.bos_token,
            "eos_token": card.eos_token,
            "build_info": build_info(),
            "is_sleeping": False,
            "turbosparse": {
                "name": card.name,
                "sparse": card.sparse,
                "note": card.note,
                "activation": card.activation,
                "modes": list(card.modes),
                "default_mode": card.default_mode,
                "has_predictor": card.has_predictor,
                "n_layer": card.n_layer,
                "n_ff": card.n_ff,
                "n_expert": card.n_expert,
                "n_threads": card.n_threads,
                "bytes_file": card.bytes_file,
                "bytes_dense_token": card.bytes_dense_token,
            },
        }
    )


def build_info() -> str:
    """Our version."""
    from .. import __version__

    return f"turbosparse {__version__}"


async def slots(request: HttpRequest) -> Response:
    """GET /slots."""
    return JSONResponse([_slot(view) for view in _engine(request).slots()])


def _slot(view: SlotView) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": view.id,
        "id_task": view.job,
        "n_ctx": view.n_ctx,
        "speculative": False,
        "is_processing": view.busy,
        "n_tokens_cached": view.n_cached,
        "n_prompt_tokens": view.n_prompt,
        "n_prompt_tokens_processed": view.n_prompt_done,
        "mode": view.mode,
        "next_token": [{"has_next_token": view.busy, "n_decoded": view.n_decoded}],
    }
    if view.params is not None:
        found["params"] = sampling_settings(view.params)
    return found


# --- metrics ------------------------------------------------------------------------


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def prometheus(m: Metrics) -> str:
    """Prometheus text: llama-server's names, ours under turbosparse:."""
    prompt_rate = _rate(m.prompt_tokens, m.prompt_seconds)
    predicted_rate = _rate(m.predicted_tokens, m.predicted_seconds)
    busy = m.busy_slots / max(m.decode_calls, 1)
    lines = (
        ("llamacpp:prompt_tokens_total", "counter", "Prompt tokens evaluated, cached ones left out", m.prompt_tokens),
        ("llamacpp:prompt_tokens_cached_total", "counter", "Prompt tokens taken from the cache", m.cached_tokens),
        ("llamacpp:prompt_seconds_total", "counter", "Time spent on prompts", m.prompt_seconds),
        ("llamacpp:tokens_predicted_total", "counter", "Tokens generated", m.predicted_tokens),
        ("llamacpp:tokens_predicted_seconds_total", "counter", "Time spent generating", m.predicted_seconds),
        ("llamacpp:n_decode_total", "counter", "Calls of llama_decode", m.decode_calls),
        ("llamacpp:n_tokens_max", "counter", "Longest sequence so far", m.longest_sequence),
        ("llamacpp:prompt_tokens_seconds", "gauge", "Prompt tokens per second", prompt_rate),
        ("llamacpp:predicted_tokens_seconds", "gauge", "Generated tokens per second", predicted_rate),
        ("llamacpp:requests_processing", "gauge", "Requests under way", m.requests_processing),
        ("llamacpp:requests_deferred", "gauge", "Requests waiting", m.requests_waiting),
        ("llamacpp:n_busy_slots_per_decode", "gauge", "Busy slots per call of llama_decode", busy),
        ("turbosparse:requests_done_total", "counter", "Requests that ended by themselves", m.requests_done),
        ("turbosparse:requests_cancelled_total", "counter", "Requests that were cancelled", m.requests_cancelled),
        ("turbosparse:requests_failed_total", "counter", "Requests that failed", m.requests_failed),
        ("turbosparse:ffn_rows_total", "counter", "FFN rows computed (measured)", m.rows),
        ("turbosparse:ffn_rows_dense_total", "counter", "FFN rows of a dense evaluation (derived)", m.rows_dense),
        ("turbosparse:weight_bytes_total", "counter", "Weight bytes read (measured)", m.bytes_read),
        ("turbosparse:weight_bytes_dense_total", "counter", "Weight bytes of a dense evaluation", m.bytes_dense),
        ("turbosparse:predictor_seconds_total", "counter", "Time of neuron selection", m.predictor_seconds),
    )
    return "".join(f"# HELP {n} {text}.\n# TYPE {n} {kind}\n{n} {value:.10g}\n" for n, kind, text, value in lines)


async def metrics(request: HttpRequest) -> Response:
    """GET /metrics."""
    return PlainTextResponse(prometheus(_engine(request).metrics()), media_type=METRICS_TYPE)


# --- text -----------------------------------------------------------------------------


async def tokenize(request: HttpRequest) -> Response:
    """POST /tokenize."""
    engine, fields = _engine(request), Fields(await read_json(request))
    tokens = engine.tokenize(
        fields.text("content"),
        add_special=fields.flag("add_special"),
        parse_special=fields.flag("parse_special", True),
    )
    if not fields.flag("with_pieces"):
        return JSONResponse({"tokens": tokens})
    return JSONResponse({"tokens": [{"id": token, "piece": _piece(engine, token)} for token in tokens]})


def _piece(engine: Engine, token: int) -> str | list[int]:
    """Text, or the bytes of a piece that is no whole character."""
    piece = engine.piece(token, special=True)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


async def detokenize(request: HttpRequest) -> Response:
    """POST /detokenize."""
    engine, fields = _engine(request), Fields(await read_json(request))
    tokens = fields.raw("tokens")
    if not isinstance(tokens, list):
        raise invalid("tokens must be a list of token ids", "tokens")
    ids = prompt_tokens(engine, tokens, "tokens") if tokens else []
    return JSONResponse({"content": engine.detokenize(ids)})


async def apply_template(request: HttpRequest) -> Response:
    """POST /apply-template."""
    engine, fields = _engine(request), Fields(await read_json(request))
    turns, variables = chat_turns(engine.card, fields, toolbox.offered(fields))
    return JSONResponse({"prompt": engine.render(turns, **variables)})
