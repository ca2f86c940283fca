"""The machine that a number was measured on, and the file that was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..hardware import cpu_flags, cpu_name, memory_total

ISA_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


def n_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Facts to store beside a number; none of them is compared."""
    flags = cpu_flags()
    return {
        "cpu": cpu_name(),
        "cores": n_cores(),
        "flags": [flag for flag in ISA_FLAGS if flag in flags],
        "memory_gb": round(memory_total() / 1e9, 1),
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 2),
    }


@cache
def commit() -> str:
    """Short commit of the checkout that this package lies in, else its version."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is not None and done.returncode == 0:
        return done.stdout.strip()
    from .. import __version__

    return str(__version__)


@dataclass(frozen=True)
class FileInfo:
    """What the header of a GGUF file says.

    Attributes:
        model_type: as llama-bench prints it, "llama 7B Q4_0".
        n_bytes, n_params: of all tensors.
        bytes_token: weights that a dense graph reads for one token: the output rows that are looked
            up, the experts that are used.
        kv_values: of K and V of one position, all layers.
    """

    path: Path
    model_type: str
    n_bytes: int
    n_params: int
    bytes_token: int
    kv_values: int
    n_ctx_train: int

    @classmethod
    def read(cls, path: Path) -> FileInfo:
        """Raises GGUFError for what is not a sound GGUF file."""
        from turbosparse.convert.ggufile import GGUFFile

        with GGUFFile(path) as file:
            arch = str(file.get("general.architecture", "unknown"))
            tensors = list(file.tensors.values())
            n_params = sum(t.n_rows * t.shape[0] for t in tensors)
            used, experts = (int(file.get(f"{arch}.expert_{key}", 0)) for key in ("used_count", "count"))
            read = 0.0
            for t in tensors:
                if t.name.startswith("token_embd") and "output.weight" in file.tensors:
                    read += t.row_bytes
                elif "_exps." in t.name and experts:
                    read += t.n_bytes * used / experts
                elif ".ffn_pred_" not in t.name and not t.name.endswith((".ffn_neuron_freq", ".ffn_neuron_perm")):
                    read += t.n_bytes
            width = int(file.get(f"{arch}.embedding_length", 0)) // max(
                int(file.get(f"{arch}.attention.head_count", 1)), 1
            )
            heads = int(file.get(f"{arch}.attention.head_count_kv", file.get(f"{arch}.attention.head_count", 0)))
            return cls(
                path=path,
                model_type=f"{arch} {_size(n_params)} {_dominant(tensors)}",
                n_bytes=sum(t.n_bytes for t in tensors),
                n_params=n_params,
                bytes_token=round(read),
                kv_values=2 * int(file.get(f"{arch}.block_count", 0)) * heads * width,
                n_ctx_train=int(file.get(f"{arch}.context_length", 0)),
            )


def _size(n_params: int) -> str:
    return f"{n_params / 1e9:.1f}B" if n_params >= 1e9 else f"{n_params / 1e6:.0f}M"


def _dominant(tensors: list[Any]) -> str:
    """Name of the type that most parameters have."""
    sizes: Counter[str] = Counter()
    for t in tensors:
        sizes[t.qtype.name] += t.n_rows * t.shape[0]
    return sizes.most_common(1)[0][0] if sizes else "empty"
