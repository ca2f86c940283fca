"""Hugging Face checkpoint directories: sharded safetensors with an index, config.json, generation_config.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from turbosparse.torch.config import MISTRAL, Config, LayoutError
from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.mistral import BambooForCausalLM
from turbosparse.torch.mixtral import TurboSparseMixtralForCausalLM

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def load(path: str | Path, dtype: torch.dtype = torch.float32) -> CausalLM:
    """The model in a checkpoint directory, in eval mode, weights cast to `dtype`.

    Raises LayoutError naming file and tensor if a tensor is missing, surplus or misshapen.
    """
    root = Path(path)
    config = Config.from_dict(_read_json(root / "config.json"), str(root / "config.json"))
    state = read_state(root)
    model = build(config, read_ranks(config, state))
    model.to(dtype)
    if config.tie_word_embeddings and EMBEDDING in state:
        state.setdefault(HEAD, state[EMBEDDING])
    _check_state(root, {k: v.shape for k, v in model.state_dict().items()}, state)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()})
    model.eval()
    return model


def save(model: CausalLM, path: str | Path, dtype: torch.dtype = torch.bfloat16, shard_bytes: int = 5 << 30) -> None:
    """Writes config.json, generation_config.json, the shards and their index. Tokenizer files are not its business."""
    root = Path(path)
    root.mkdir(parents=True, exist_ok=True)
    state = {name: t.detach().to(dtype).cpu().contiguous() for name, t in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state[HEAD]
    shards = split_shards({name: t.nbytes for name, t in state.items()}, shard_bytes)
    for old in root.glob("model*.safetensors"):
        old.unlink()
    _write_json(root / "config.json", model.config.to_dict(str(dtype).removeprefix("torch.")))
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        save_file({name: state[name] for name in names}, str(root / file), metadata={"format": "pt"})
        shutil.copymode(root / "config.json", root / file)  # safetensors makes files that only the owner can read
        weight_map |= dict.fromkeys(names, file)
    total = sum(t.nbytes for t in state.values())
    _write_json(root / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    _write_json(root / "generation_config.json", _generation_config(model.config))


def build(config: Config, ranks: list[int]) -> CausalLM:
    """A freshly initialised model of the config's family."""
    cls = BambooForCausalLM if config.family == MISTRAL else TurboSparseMixtralForCausalLM
    return cls(config, ranks)


def read_ranks(config: Config, state: dict[str, Tensor]) -> list[int]:
    """Predictor rank per layer, from the shapes of fc1; 0 where a layer has none."""
    part = "mlp" if config.family == MISTRAL else "block_sparse_moe.experts.0"
    names = [f"model.layers.{i}.{part}.predictor.fc1.weight" for i in range(config.num_hidden_layers)]
    return [state[name].shape[0] if name in state else 0 for name in names]


def read_state(root: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint directory, by name, in their stored dtype."""
    index = root / INDEX
    files = sorted(set(_read_json(index)["weight_map"].values())) if index.exists() else [SINGLE]
    state: dict[str, Tensor] = {}
    for file in files:
        state |= _read_shard(root / file)
    return state


def split_shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Names in order, cut so that no shard exceeds `limit` bytes unless one tensor alone does."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _read_shard(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(str(file), framework="pt") as shard:
            return {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise LayoutError(str(file), "shard", "a readable safetensors file", error) from error


def _check_state(root: Path, shapes: dict[str, torch.Size], state: dict[str, Tensor]) -> None:
    for name in shapes.keys() - state.keys():
        raise LayoutError(str(root), name, f"a tensor {list(shapes[name])}", "none")
    for name in state.keys() - shapes.keys():
        raise LayoutError(str(root), name, "no such tensor", f"one of shape {list(state[name].shape)}")
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise LayoutError(str(root), name, list(shape), list(state[name].shape))


def _generation_config(config: Config) -> dict[str, Any]:
    # Temperature 0 with do_sample is invalid, and is what the published checkpoints have.
    return {
        "_from_model_config": True,
        "bos_token_id": config.bos_token_id,
        "do_sample": True,
        "eos_token_id": config.eos_token_id,
        "temperature": 0.0,
        "transformers_version": config.extra.get("transformers_version", "4.41.0"),
    }


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LayoutError(str(file), "file", "a readable JSON object", error) from error
    if not isinstance(value, dict):
        raise LayoutError(str(file), "file", "a JSON object", type(value).__name__)
    return value


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
