"""One line of the table: llama-bench's fields, then ours."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from ..choices import FLASH_ATTN
from ..hardware import cpu_name
from ..model import KV_BYTES
from .engine import Counters
from .machine import FileInfo, commit
from .plan import Settings, Test
from .ratio import Ratio

HOST = "llama-cpp-python"

# llama-bench's own order. What has no meaning here has llama-bench's default.
LLAMA_BENCH: dict[str, Any] = {
    "build_commit": "", "build_number": 0, "cpu_info": "", "gpu_info": "", "backends": "",
    "model_filename": "", "model_type": "", "model_size": 0, "model_n_params": 0,
    "n_batch": 0, "n_ubatch": 0, "n_threads": 0, "cpu_mask": "0x0", "cpu_strict": False, "poll": 50,
    "type_k": "", "type_v": "", "n_gpu_layers": 0, "n_cpu_moe": 0, "split_mode": "layer", "main_gpu": 0,
    "no_kv_offload": False, "flash_attn": 0, "devices": "auto", "tensor_split": "0.00",
    "tensor_buft_overrides": "none", "load_mode": "mmap", "lazy_mode": "off", "embeddings": False,
    "no_op_offload": 0, "no_host": False, "repack": False, "fit_target": 0, "fit_min_ctx": 0,
    "n_prompt": 0, "n_gen": 0, "n_depth": 0, "test_time": "",
    "avg_ns": 0, "stddev_ns": 0, "avg_ts": 0.0, "stddev_ts": 0.0,
}  # fmt: skip

OURS = (
    "test", "mode", "n_seq", "buffer_type", "active_frac", "selected_frac", "recall", "bytes_per_token",
    "kv_bytes_per_token", "gbs", "bandwidth_gbs", "bandwidth_frac", "predictor_frac", "gate_up_frac", "down_frac",
    "median_ts",
    "baseline", "ratio", "ratio_ci95", "ratio_turns",
)  # fmt: skip


@dataclass
class Run:
    """What one contender did in one test.

    Attributes:
        turns_ns: of every turn, in the order they were taken; the baseline's are its partners.
        repetitions_ns: of every repetition, its turns together.
        mode: of the FFN; "llama.cpp" for the baseline.
        buffer_type: where the baseline's weights lay, "" for ours.
        resident: whether ours lay in memory of their own, not in the file's mapping.
    """

    mode: str
    buffer_type: str = ""
    turns_ns: list[int] = field(default_factory=list)
    repetitions_ns: list[int] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    recall: float | None = None
    resident: bool = False

    @classmethod
    def joined(cls, runs: Sequence[Run]) -> Run:
        """`runs` of the same contender one after the other, as one."""
        found = cls(runs[0].mode, runs[0].buffer_type, resident=runs[0].resident)
        for run in runs:
            found.turns_ns += run.turns_ns
            found.repetitions_ns += run.repetitions_ns
            found.counters += run.counters
        return found


@dataclass(frozen=True)
class Record:
    """Everything that one line says.

    Attributes:
        bandwidth: bytes per second of the machine, measured between the turns; None where it says nothing.
        baseline: what the ratio is against.
    """

    test: Test
    settings: Settings
    file: FileInfo
    run: Run
    bandwidth: float | None = None
    ratio: Ratio | None = None
    baseline: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the keys of LLAMA_BENCH, then those of OURS, then the samples."""
        return {**self._llama_bench(), **self._ours(), "samples_ns": self.run.repetitions_ns, "samples_ts": self._ts()}

    @property
    def is_baseline(self) -> bool:
        """Whether this is stock llama.cpp."""
        return bool(self.run.buffer_type)

    def _ts(self) -> list[float]:
        return [1e9 * self.test.n_tokens / ns for ns in self.run.repetitions_ns]

    def _llama_bench(self) -> dict[str, Any]:
        s, samples = self.settings, self.run.repetitions_ns
        return LLAMA_BENCH | {
            "build_commit": f"{HOST} {version(HOST)}" if self.is_baseline else commit(),
            "cpu_info": cpu_name(),
            "backends": "CPU" if self.is_baseline else "SPARSE,CPU",
            "model_filename": str(self.file.path),
            "model_type": self.file.model_type,
            "model_size": self.file.n_bytes,
            "model_n_params": self.file.n_params,
            "n_batch": s.n_batch,
            "n_ubatch": s.n_ubatch,
            "n_threads": s.n_threads,
            "type_k": s.type_k,
            "type_v": s.type_v,
            "flash_attn": FLASH_ATTN[s.flash_attn],
            "repack": self.run.buffer_type not in ("", "CPU"),
            "load_mode": "resident" if self.run.resident else "mmap" if self.run.buffer_type in ("", "CPU") else "copy",
            "n_prompt": self.test.n_prompt,
            "n_gen": self.test.n_gen,
            "n_depth": self.test.n_depth,
            "test_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "avg_ns": round(statistics.fmean(samples)),
            "stddev_ns": round(statistics.stdev(samples)) if len(samples) > 1 else 0,
            "avg_ts": statistics.fmean(self._ts()),
            "stddev_ts": statistics.stdev(self._ts()) if len(samples) > 1 else 0.0,
        }

    def _ours(self) -> dict[str, Any]:
        c = self.run.counters
        found = dict.fromkeys(OURS) | {
            "test": self.test.label,
            "mode": self.run.mode,
            "n_seq": self.test.n_seq,
            "buffer_type": self.run.buffer_type or None,
            "recall": self.run.recall,
            "bytes_per_token": self.bytes_per_token,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "median_ts": statistics.median(self._ts()),
            "baseline": self.baseline,
        }
        if c.n_neuron:
            found |= {
                "active_frac": c.n_active / c.n_neuron,
                "selected_frac": c.n_selected / c.n_neuron,
                "predictor_frac": c.ns_select / c.ns_total if c.ns_total else None,
                "gate_up_frac": c.ns_gate_up / c.ns_total if c.ns_total else None,
                "down_frac": c.ns_down / c.ns_total if c.ns_total else None,
            }
        if self.bandwidth and self.test.one_by_one:
            gbs = self.bytes_per_second
            found |= {
                "gbs": gbs / 1e9,
                "bandwidth_gbs": self.bandwidth / 1e9,
                "bandwidth_frac": gbs / self.bandwidth,
            }
        if self.ratio:
            found |= {
                "ratio": self.ratio.median,
                "ratio_ci95": [self.ratio.low, self.ratio.high],
                "ratio_turns": self.ratio.pairs,
            }
        return found

    @property
    def bytes_per_token(self) -> int | None:
        """Weights read per token: counted for ours, derived for a dense graph that decodes one token at a time."""
        c = self.run.counters
        if c.n_tokens:
            return round(c.bytes_read / c.n_tokens)
        return self.file.bytes_token if self.is_baseline and self.test.one_by_one else None

    @property
    def kv_bytes_per_token(self) -> int | None:
        """Derived: K and V of all positions before, on average over the generated tokens."""
        if not self.test.one_by_one:
            return None
        return kv_bytes(self.file, self.settings, self.test)

    @property
    def bytes_per_second(self) -> float:
        """Of weights and KV cache, in the median repetition."""
        total = (self.bytes_per_token or 0) + (self.kv_bytes_per_token or 0)
        return total * self.test.n_tokens / (statistics.median(self.run.repetitions_ns) / 1e9)


def kv_bytes(file: FileInfo, settings: Settings, test: Test) -> int:
    """Bytes of the KV cache that a generated token reads, on average over the test."""
    per_position = file.kv_values * KV_BYTES[settings.type_k]
    return round(per_position * (test.n_depth + test.n_gen / 2))


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of as_dict for tables: the interval in two columns, no samples."""
    low, high = row.get("ratio_ci95") or (None, None)
    kept = {key: value for key, value in row.items() if key not in ("samples_ns", "samples_ts", "ratio_ci95")}
    return kept | {"ratio_ci95_low": low, "ratio_ci95_high": high}
