"""What a TurboSparse file holds, and what running it would take.

Sizes are read from the file. Bytes per token are estimates from the recorded frequencies, and are
labelled so: the engine's counters measure them (`turbosparse generate --json`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import keys
from .contract import Contract, check_contract, small
from .ggufile import GGUFFile, Info
from .quantize import type_name

Json = dict[str, Any]


def inspect_file(path: Path) -> Json:
    """Facts about the file `path` as JSON-able data; errors as for contract.check_contract."""
    with GGUFFile(path) as file:
        contract = check_contract(file)
        layers = [_layer(file, contract, il) for il in range(contract.hp.n_layer)]
        return {
            "file": path.name,
            "bytes": file.size,
            "format_version": file.get(keys.FORMAT_VERSION),
            "made_by": file.get(keys.CONVERTER, ""),
            "name": file.get(keys.GENERAL_NAME, ""),
            "license": file.get("general.license", ""),
            "runs_in_stock_llama_cpp": False,
            "architecture": _architecture(contract),
            "types": _types(file),
            "sparsity": _sparsity(file, contract, layers),
            "predictors": _predictors(file, contract),
            "placement": _placement(file, contract),
            "tokenizer": _tokenizer(file),
            "memory": _memory(file, contract, layers),
            "layers": layers,
        }


def _architecture(c: Contract) -> Json:
    hp = c.hp
    return {
        "base": "llama",
        "activation": c.activation,
        "default_mode": c.default_mode,
        "n_layer": hp.n_layer, "n_embd": hp.n_embd, "n_ff": hp.n_ff, "n_head": hp.n_head, "n_head_kv": hp.n_head_kv,
        "n_vocab": hp.n_vocab, "n_expert": hp.n_expert, "n_expert_used": hp.n_expert_used,
        "context_length": hp.n_ctx, "sliding_window": hp.sliding_window or None,
        "rope_freq_base": hp.rope_theta, "tied_embeddings": c.tied,
    }  # fmt: skip


def _types(file: GGUFFile) -> Json:
    """Bytes per type, over all tensors."""
    out: Counter[str] = Counter()
    for info in file.tensors.values():
        out[type_name(info.qtype)] += info.n_bytes
    return dict(out.most_common())


def _layer(file: GGUFFile, c: Contract, il: int) -> Json:
    gate, up, down = _ffn(file, c, il)
    freq = _frequencies(file, c, il)
    return {
        "layer": il,
        "rank": c.ranks[il],
        "threshold": c.thresholds[il],
        "first_branch": "up" if c.first_branch[il] else "gate",
        "types": {"gate": type_name(gate.qtype), "up": type_name(up.qtype), "down": type_name(down.qtype)},
        "bytes_ffn": gate.n_bytes + up.n_bytes + down.n_bytes,
        "bytes_predictor": sum(info.n_bytes for info in _predictor(file, c, il)),
        "active": None if freq is None else float(freq.mean()),
    }


def _ffn(file: GGUFFile, c: Contract, il: int) -> tuple[Info, Info, Info]:
    moe = c.hp.n_expert > 0
    up = file.tensors[(keys.FFN_UP_EXPS if moe else keys.FFN_UP).format(il)]
    gate = file.tensors.get((keys.FFN_GATE_EXPS if moe else keys.FFN_GATE).format(il), up)
    return gate, up, file.tensors[(keys.FFN_DOWN_T_EXPS if moe else keys.FFN_DOWN_T).format(il)]


def _predictor(file: GGUFFile, c: Contract, il: int) -> list[Info]:
    names = (
        keys.FFN_PRED_FC1, keys.FFN_PRED_FC2, keys.FFN_PRED_FC2_T,
        keys.FFN_PRED_FC1_EXPS, keys.FFN_PRED_FC2_EXPS, keys.FFN_PRED_FC2_T_EXPS,
    )  # fmt: skip
    return [file.tensors[n.format(il)] for n in names if n.format(il) in file.tensors]


def _frequencies(file: GGUFFile, c: Contract, il: int) -> NDArray[Any] | None:
    """[n_expert or 1, n_ff], experts weighted later by how often they run."""
    info = file.tensors.get(keys.FFN_NEURON_FREQ.format(il))
    return None if info is None else small(file, info).reshape(-1, c.hp.n_ff)


def _sparsity(file: GGUFFile, c: Contract, layers: list[Json]) -> Json:
    active = [layer["active"] for layer in layers if layer["active"] is not None]
    if not active:
        return {"profiled": False, "hint": "no frequencies: convert with --profile-text or --stats to record them"}
    return {
        "profiled": True,
        "corpus": file.get(keys.PROFILE_CORPUS, ""),
        "tokens": file.get(keys.PROFILE_TOKENS, 0),
        "mean_zero": 1.0 - float(np.mean(active)),
        "least_sparse_layer": int(np.argmax(active)),
        "most_sparse_layer": int(np.argmin(active)),
        "neurons_for_80_percent": _hot_share(file, c, 0.8),
    }


def _hot_share(file: GGUFFile, c: Contract, share: float) -> float:
    """Smallest share of all neurons that makes `share` of all activations."""
    sets = [_frequencies(file, c, il) for il in range(c.hp.n_layer)]
    freq = np.sort(np.concatenate([f.reshape(-1) for f in sets if f is not None]))[::-1].astype(np.float64)
    total = np.cumsum(freq)
    return float(np.searchsorted(total, share * total[-1]) + 1) / len(freq) if total[-1] > 0 else 0.0


def _predictors(file: GGUFFile, c: Contract) -> Json:
    if not any(c.ranks):
        return {"kind": "none"}
    return {
        "kind": "mlp",
        "ranks": c.ranks,
        "thresholds": sorted(set(c.thresholds)),
        "fc2": "by hidden unit" if c.fc2_by_unit else "by neuron",
        "source": file.get(keys.PREDICTOR_SOURCE, ""),
        "types": sorted({type_name(i.qtype) for il in range(c.hp.n_layer) for i in _predictor(file, c, il)}),
        "bytes": sum(i.n_bytes for il in range(c.hp.n_layer) for i in _predictor(file, c, il)),
        "input": "before RMSNorm, by ffn_pred_in_scale"
        if keys.FFN_PRED_IN_SCALE.format(0) in file.tensors
        else "normalised FFN input",
    }


def _placement(file: GGUFFile, c: Contract) -> Json:
    maps = sum(keys.FFN_NEURON_PERM.format(il) in file.tensors for il in range(c.hp.n_layer))
    return {"neuron_order": c.order, "layers_with_map": maps, "hot_prefix_possible": c.order == "hot_first"}


def _tokenizer(file: GGUFFile) -> Json:
    ids = {"bos": keys.TOKENIZER_BOS, "eos": keys.TOKENIZER_EOS, "eot": keys.TOKENIZER_EOT}
    return {
        "model": file.get(keys.TOKENIZER_MODEL, ""),
        **{name: file.get(key) for name, key in ids.items()},
        "add_bos": file.get(keys.TOKENIZER_ADD_BOS, True),
        "chat_template": file.get(keys.CHAT_TEMPLATE, ""),
    }


def _memory(file: GGUFFile, c: Contract, layers: list[Json]) -> Json:
    hp = c.hp
    embd = file.tensors[keys.TOKEN_EMBD]
    sparse = sum(layer["bytes_ffn"] + layer["bytes_predictor"] for layer in layers)
    rest = sum(i.n_bytes for i in file.tensors.values() if not i.name.endswith(("_freq", "_perm"))) - sparse
    kv_token = 2 * hp.n_layer * hp.n_head_kv * hp.head_dim * 2
    return {
        "weights_bytes": file.size,
        "kv_bytes_per_token_f16": kv_token,
        "kv_bytes_full_context_f16": kv_token * hp.n_ctx,
        "bytes_per_token_estimated": _bytes_per_token(file, c, rest - (0 if c.tied else embd.n_bytes - embd.row_bytes)),
    }


def _bytes_per_token(file: GGUFFile, c: Contract, rest: int) -> Json:
    """Weight bytes read for one token in each mode; None where no frequencies say."""
    total = {"dense": float(rest), "exact": float(rest), "predicted": float(rest)}
    known = True
    for il in range(c.hp.n_layer):
        used = (c.hp.n_expert_used / c.hp.n_expert) if c.hp.n_expert else 1.0
        gate, up, down = (i.n_bytes * used for i in _ffn(file, c, il))
        predictor = sum(i.n_bytes for i in _predictor(file, c, il)) * used
        freq = _frequencies(file, c, il)
        total["dense"] += gate + up + down
        known = known and freq is not None
        if freq is None:
            continue
        # dReLU's branches are about independent and alike, so one of them is non-zero sqrt(freq) of the time.
        both, one = _weighted(file, c, il, freq), _weighted(file, c, il, np.sqrt(freq))
        one = one if c.activation == "drelu" else both
        total["exact"] += gate + up * one + down * both
        total["predicted"] += predictor + (gate + up + down) * both if c.ranks[il] else gate + up * one + down * both
    out: Json = {mode: round(value) for mode, value in total.items()}
    if not known:
        out["exact"] = out["predicted"] = None
    if not any(c.ranks):
        out["predicted"] = None
    return out


def _weighted(file: GGUFFile, c: Contract, il: int, share: NDArray[Any]) -> float:
    """Mean over neurons, experts weighted by how often they run."""
    info = file.tensors.get(keys.FFN_EXPERT_FREQ.format(il))
    weights = small(file, info) if info is not None else np.ones(len(share))
    return float((share.mean(axis=1) * weights).sum() / max(float(weights.sum()), 1e-30))


def as_text(facts: Json) -> str:
    """The same for people."""
    a, s, p, m = facts["architecture"], facts["sparsity"], facts["predictors"], facts["memory"]
    experts = f", {a['n_expert']} experts of which {a['n_expert_used']} run" if a["n_expert"] else ""
    window = f", sliding window {a['sliding_window']}" if a["sliding_window"] else ""
    lines = [
        f"{facts['file']}  {facts['bytes'] / 1e6:,.1f} MB  format {facts['format_version']}  {facts['name']}",
        f"architecture  {a['activation']} FFN in a llama graph: {a['n_layer']} layers, {a['n_embd']} wide, "
        f"{a['n_ff']} neurons{experts}; vocabulary {a['n_vocab']}, context {a['context_length']}{window}",
        "              stock llama.cpp refuses this file: unknown model architecture 'turbosparse'",
        "types         " + ", ".join(f"{name} {n / 1e6:.1f} MB" for name, n in facts["types"].items()),
        f"sparsity      {_sparsity_text(s)}",
        f"predictors    {_predictor_text(p)}",
        f"placement     neurons in {facts['placement']['neuron_order'].replace('_', ' ')} order",
        f"modes         default {a['default_mode']}; weight bytes per token (estimated): "
        + ", ".join(
            f"{mode} {n / 1e6:.1f} MB" if n is not None else f"{mode} unknown"
            for mode, n in m["bytes_per_token_estimated"].items()
        ),
        f"memory        weights {m['weights_bytes'] / 1e6:,.1f} MB mapped; KV cache F16 "
        f"{m['kv_bytes_per_token_f16'] / 1024:.1f} KiB per token, {m['kv_bytes_full_context_f16'] / 1e9:.2f} GB at "
        f"{a['context_length']}",
    ]
    return "\n".join(lines)


def _sparsity_text(s: Json) -> str:
    if not s["profiled"]:
        return str(s["hint"])
    return (
        f"{s['mean_zero']:.1%} of neurons are zero (on {s['tokens']} tokens of {s['corpus'] or 'unnamed text'}); "
        f"{s['neurons_for_80_percent']:.1%} of neurons make 80 % of activations"
    )


def _predictor_text(p: Json) -> str:
    if p["kind"] == "none":
        return "none: exact mode only"
    ranks = sorted(set(p["ranks"]))
    span = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    return f"{span}, {', '.join(p['types'])}, {p['bytes'] / 1e6:.1f} MB, reads {p['input']}; from {p['source']}"
