"""The machine that a number was measured on, and the file that was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hardware import cpu_flags, cpu_generation, cpu_name, memory_total

if TYPE_CHECKING:
    from turbosparse.convert.ggufile import GGUFFile

ISA_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


def n_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Facts to store beside a number; none of them is compared."""
    flags = cpu_flags()
    return {
        "cpu": cpu_name(),
        "generation": cpu_generation(),
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
            number = partial(_number, file, arch)
            tensors = list(file.tensors.values())
            n_params = sum(t.n_rows * t.shape[0] for t in tensors)
            used, experts = number("expert_used_count"), number("expert_count")
            head = "output.weight" in file.tensors
            n_head = max(number("attention.head_count"), 1)
            n_head_kv = number("attention.head_count_kv") or n_head
            return cls(
                path=path,
                model_type=f"{arch} {_size(n_params)} {_dominant(tensors)}",
                n_bytes=sum(t.n_bytes for t in tensors),
                n_params=n_params,
                bytes_token=round(sum(_read_per_token(t, used / experts if experts else 1.0, head) for t in tensors)),
                kv_values=2 * number("block_count") * n_head_kv * (number("embedding_length") // n_head),
                n_ctx_train=number("context_length"),
            )


def _number(file: GGUFFile, arch: str, key: str) -> int:
    return int(file.get(f"{arch}.{key}", 0))


def _read_per_token(t: Any, share: float, head: bool) -> float:
    """Bytes of a tensor that a dense graph reads for one token.

    Args:
        share: of the experts that a token uses.
        head: the output matrix is a tensor of its own; else the embedding serves as such.
    """
    if t.name.startswith("token_embd") and head:
        return float(t.row_bytes)
    if ".ffn_pred_" in t.name or t.name.endswith((".ffn_neuron_freq", ".ffn_neuron_perm")):
        return 0.0
    return float(t.n_bytes * share if "_exps." in t.name else t.n_bytes)


def _size(n_params: int) -> str:
    return f"{n_params / 1e9:.1f}B" if n_params >= 1e9 else f"{n_params / 1e6:.0f}M"


def _dominant(tensors: list[Any]) -> str:
    """Name of the type that most parameters have."""
    sizes: Counter[str] = Counter()
    for t in tensors:
        sizes[t.qtype.name] += t.n_rows * t.shape[0]
    return sizes.most_common(1)[0][0] if sizes else "empty"
