"""Stock llama.cpp in a process of its own, spoken to in JSON lines. A crash there is an error here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import BackendError, HostError
from .plan import Settings, Work

if TYPE_CHECKING:
    from typing_extensions import Self

COMMAND = (sys.executable, "-m", "turbosparse.bench.stock")
OURS = "libggml-sparse"
LAST_WORDS = 400  # characters of standard error in a message


class Baseline:
    """One process with one dense model.

    Args:
        command: what to start; tests put a stand-in here.

    Raises (every method):
        BackendError: the process died (the message has the signal and its last words) or refused.
    """

    def __init__(self, command: tuple[str, ...] = COMMAND) -> None:
        env = {k: v for k, v in os.environ.items() if k != "GGML_BACKEND_PATH"}  # it could bring in our backend
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=env,
            start_new_session=True,  # Ctrl-C is ours to handle
        )

    def buffers(self) -> list[str]:
        """Buffer types that weights may lie in, plain "CPU" first."""
        return [str(name) for name in self._ask("buffers")]

    def load(self, path: Path, buffers: str) -> None:
        """Load a model into a buffer type."""
        found = self._ask("load", path=str(path), buffers=buffers)["libraries"]
        if any(name.startswith(OURS) for name in found):
            raise HostError(f"the baseline's process has loaded {OURS}: it is not stock llama.cpp", where=OURS)

    def open(self, settings: Settings, n_ctx: int, n_seq: int) -> None:
        """Make a context; tokens per sequence."""
        self._ask("open", settings=dataclasses.asdict(settings), n_ctx=n_ctx, n_seq=n_seq)

    def seat(self, depth: int, n_seq: int) -> None:
        """Bring every sequence to a depth."""
        self._ask("seat", depth=depth, n_seq=n_seq)

    def run(self, work: Work, n_seq: int) -> int:
        """Nanoseconds of a turn."""
        return int(self._ask("run", work=dataclasses.asdict(work), n_seq=n_seq))

    def load_time(self, path: Path, settings: Settings) -> int:
        """Nanoseconds from nothing to the first token."""
        return int(self._ask("load_time", path=str(path), settings=dataclasses.asdict(settings)))

    def close(self) -> None:
        """End the process; a second call does nothing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None and not pipe.closed:
                _close(pipe)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, do: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._died(do)
        reply = json.loads(line)
        if "error" in reply:
            raise BackendError(f"stock llama.cpp refused: {reply['error']}", where=do, found=str(reply["error"]))
        return reply["ok"]

    def _died(self, do: str) -> BackendError:
        code = self._process.wait()
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._stderr.seek(0)
        words = " ".join(self._stderr.read().decode("utf-8", "replace")[-LAST_WORDS:].split())
        return BackendError(f"stock llama.cpp {how} at {do!r}; its last words: {words or 'none'}", where=do, found=how)


def _close(pipe: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # what a dead process has not read
        pipe.close()
