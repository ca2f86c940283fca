"""Answer requests of the benchmark: one JSON object per line on standard input and output.

{"do": "load", "path": "m.dense.gguf", "buffers": "CPU"}  ->  {"ok": ...} or {"error": "..."}
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from ..plan import Settings, Work


class Service:
    """One method per request."""

    def __init__(self) -> None:
        from . import llama  # ggml may already complain here: standard output is safe by now

        self.api = llama
        self.llama: Any = None

    def buffers(self) -> list[str]:
        """Names of the buffer types of this build."""
        return self.api.buffer_types()

    def load(self, path: str, buffers: str) -> dict[str, Any]:
        """Load a model; the libraries in this process are reported, so that ours can be seen to be absent."""
        self.llama = self.api.Llama(Path(path), buffers)
        maps = Path("/proc/self/maps")
        lines = maps.read_text(encoding="utf-8").splitlines() if maps.exists() else []
        return {"libraries": sorted({Path(line.split()[-1]).name for line in lines if ".so" in line})}

    def open(self, settings: dict[str, Any], n_ctx: int, n_seq: int) -> None:
        """Make a context."""
        self.llama.open(Settings(**settings), n_ctx, n_seq)

    def seat(self, depth: int, n_seq: int) -> None:
        """Bring every sequence to a depth."""
        self.llama.seat(depth, n_seq)

    def run(self, work: dict[str, Any], n_seq: int) -> int:
        """Nanoseconds of a turn."""
        return int(self.llama.run(Work(**work), n_seq))

    def load_time(self, path: str, settings: dict[str, Any]) -> int:
        """Nanoseconds from nothing to the first token."""
        return self.api.load_seconds(Path(path), Settings(**settings))


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print to standard output must not look like an answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash of 4 GB is a report, not a file
    service = Service()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"ok": getattr(service, request.pop("do"))(**request)}
        except (ValueError, OSError, MemoryError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)


main()
