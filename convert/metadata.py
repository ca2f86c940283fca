"""general.* and turbosparse.* keys of a file."""

from __future__ import annotations

import importlib.metadata
from dataclasses import fields
from pathlib import Path
from typing import Any

from gguf.constants import GGUFValueType as V
from gguf.metadata import Metadata

from . import keys
from .arch import Family, Hparams
from .neurons import Stats
from .plan import Plan, Types
from .predictor import Predictors
from .quantize import FILE_TYPES, FLOATS, Type, type_name

KV = dict[str, tuple[V, Any]]


def model_kv(
    family: Family, hp: Hparams, plan: Plan, types: Types, predictors: Predictors | None, stats: Stats | None
) -> KV:
    """All turbosparse.* keys."""
    out = hparam_kv(hp)
    out |= {
        keys.FORMAT_VERSION: (V.UINT32, keys.VERSION),
        keys.BASE_ARCHITECTURE: (V.STRING, "llama"),
        keys.FFN_ACTIVATION: (V.STRING, family.activation),
        keys.FFN_NEURON_ORDER: (V.STRING, "hot_first" if stats else "original"),
        keys.FFN_LAYOUT: (V.STRING, "planar"),
        keys.FFN_FIRST_BRANCH: (V.ARRAY, first_branches(family, hp, stats)),
        keys.CONVERTER: (V.STRING, f"turbosparse {package_version()}, outtype {type_name(types.out)}"),
    }
    if plan.features:
        out[keys.REQUIRED_FEATURES] = (V.ARRAY, plan.features)
    has_predictor = any(plan.ranks)
    embedded = has_predictor and predictors is None
    out[keys.DEFAULT_MODE] = (V.STRING, "predicted" if family.masked and embedded else "exact")
    out[keys.PREDICTOR_KIND] = (V.STRING, "mlp" if has_predictor else "none")
    if has_predictor:
        threshold = predictors.threshold if predictors else 0.0
        out[keys.PREDICTOR_RANK] = (V.ARRAY, plan.ranks)
        out[keys.PREDICTOR_THRESHOLD] = (V.ARRAY, [threshold] * hp.n_layer)
        out[keys.PREDICTOR_SOURCE] = (V.STRING, predictors.source if predictors else "checkpoint, embedded")
    if stats:
        out[keys.PROFILE_CORPUS] = (V.STRING, stats.corpus)
        out[keys.PROFILE_SHA256] = (V.STRING, stats.sha256)
        out[keys.PROFILE_TOKENS] = (V.UINT64, stats.tokens)
    return out


def first_branches(family: Family, hp: Hparams, stats: Stats | None) -> list[int]:
    """Per layer the branch that exact mode evaluates first; only dReLU is symmetric and has a choice."""
    if stats is None or family.activation != "drelu":
        return [0] * hp.n_layer
    return [layer.first_branch for layer in stats.layers]


def hparam_kv(hp: Hparams) -> KV:
    """The keys that libllama's view copies, as architecture llama names them."""
    out: KV = {
        keys.CONTEXT_LENGTH: (V.UINT32, hp.n_ctx),
        keys.EMBEDDING_LENGTH: (V.UINT32, hp.n_embd),
        keys.BLOCK_COUNT: (V.UINT32, hp.n_layer),
        keys.FEED_FORWARD_LENGTH: (V.UINT32, hp.n_ff),
        keys.VOCAB_SIZE: (V.UINT32, hp.n_vocab),
        keys.HEAD_COUNT: (V.UINT32, hp.n_head),
        keys.HEAD_COUNT_KV: (V.UINT32, hp.n_head_kv),
        keys.RMS_EPSILON: (V.FLOAT32, hp.rms_eps),
        keys.ROPE_DIMENSION_COUNT: (V.UINT32, hp.head_dim),
        keys.ROPE_FREQ_BASE: (V.FLOAT32, hp.rope_theta),
    }
    if hp.rope_linear != 1.0:
        out |= {keys.ROPE_SCALING_TYPE: (V.STRING, "linear"), keys.ROPE_SCALING_FACTOR: (V.FLOAT32, hp.rope_linear)}
    if hp.n_expert:
        out |= {keys.EXPERT_COUNT: (V.UINT32, hp.n_expert), keys.EXPERT_USED_COUNT: (V.UINT32, hp.n_expert_used)}
    if hp.sliding_window:
        out[keys.SLIDING_WINDOW] = (V.UINT32, hp.sliding_window)
    return out


def general_kv(path: Path, outtype: Type) -> KV:
    """general.*: name, licence, authors and so on, from config.json and the model card."""
    metadata = Metadata.load(model_path=path)
    out: KV = {
        keys.GENERAL_ARCHITECTURE: (V.STRING, keys.ARCHITECTURE),
        "general.type": (V.STRING, "model"),
        keys.GENERAL_NAME: (V.STRING, metadata.name or path.resolve().name),
        keys.GENERAL_FILE_TYPE: (V.UINT32, FILE_TYPES[outtype]),
    }
    if outtype not in FLOATS:
        out[keys.GENERAL_QUANTIZATION_VERSION] = (V.UINT32, 2)
    for field in fields(metadata):
        if field.name != "name" and not field.name.startswith("sampling_"):
            value = getattr(metadata, field.name)
            if isinstance(value, str) and value:
                out[_general_key(field.name)] = (V.STRING, value)
            elif isinstance(value, list) and value and all(isinstance(v, str) for v in value):
                out[_general_key(field.name)] = (V.ARRAY, value)
    return out


def _general_key(field: str) -> str:
    for prefix in ("source_", "license_"):
        if field.startswith(prefix):
            field = prefix[:-1] + "." + field.removeprefix(prefix)
    return "general." + field


def package_version() -> str:
    """Version of the installed package, "0" in a bare source tree."""
    try:
        return importlib.metadata.version("turbosparse")
    except importlib.metadata.PackageNotFoundError:
        return "0"
