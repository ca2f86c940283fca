"""Which family a checkpoint belongs to, or why it must not be exported."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..errors import UnsupportedModelError
from . import mistral, mixtral, reglu
from .base import Family, FfnNames, Hparams, hparams

__all__ = ["FAMILIES", "Family", "FfnNames", "Hparams", "hparams", "recognise"]

FAMILIES = (mistral.FAMILY, mixtral.FAMILY, reglu.FAMILY)


def recognise(checkpoint: Checkpoint) -> Family:
    """The family of `checkpoint`; UnsupportedModelError with what to run instead."""
    config = checkpoint.config
    for family in FAMILIES:
        if family.matches(config, checkpoint.tensors):
            _check_activation(config, family)
            return family
    kind = config.get("model_type") or config.get("architectures") or "unknown"
    act = config.get("hidden_act") or config.get("hidden_activation") or "unknown"
    if act == "relu":
        raise UnsupportedModelError(
            f"model type {kind!r} with ReLU is not one of the supported families: "
            "bamboo (TurboSparse-Mistral, Bamboo), turbosparsemixtral, llama with relu (ReluLLaMA, ProSparse)",
            model_type=kind,
            hidden_act=act,
        )
    raise UnsupportedModelError(
        f"model type {kind!r} has activation {act!r}, whose outputs are almost never zero: a sparse export would skip "
        "neurons that matter and be wrong. For dense use run llama.cpp's convert_hf_to_gguf.py; for sparse use the "
        "model must first be trained with dReLU (as TurboSparse was)",
        model_type=kind,
        hidden_act=act,
    )


def _check_activation(config: dict[str, object], family: Family) -> None:
    act = config.get("hidden_act")
    if act == "fatrelu" or config.get("hidden_act_param"):
        threshold = config.get("hidden_act_param") or config.get("hidden_act_threshold") or 0
        if not threshold:
            return
        raise UnsupportedModelError(
            f"config.json: FATReLU with threshold {threshold} is not relu(gate) * up; only threshold 0 can be exported",
            key="hidden_act_param",
            found=threshold,
        )
    if act not in (None, "relu"):
        raise UnsupportedModelError(
            f"config.json: hidden_act is {act!r}, the family {family.name} needs 'relu'", key="hidden_act", found=act
        )
