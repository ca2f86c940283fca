"""Which stock llama.cpp is the fair opponent: its fastest buffer type, found by trying each in turn."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import BackendError
from ..hardware import memory_available
from .baseline import Baseline
from .machine import FileInfo
from .plan import Settings, Test, Work

PLAIN = "CPU"
TILED = "AMX"  # its matrix products of more than one column run tiles, which some machines only advertise
TRIAL = 3  # turns per buffer type
ROOFLINE = 0.85  # a baseline below this share of the bandwidth is replaced by dense bytes over bandwidth

Note = Callable[[str], None]


class Opponent:
    """Stock llama.cpp for one dense file, in whichever buffer type is the fastest for a test.

    One child process at a time holds the model: copies of 4 GB do not stand side by side.

    Args:
        buffers: a buffer type to use for everything, None = try them all.
        note: told what happened, a line each.
    """

    def __init__(self, path: Path, note: Note, buffers: str | None = None) -> None:
        self.file = FileInfo.read(path)
        self._note = note
        self._fixed = buffers
        self._chosen: dict[tuple[Settings, int, int], str] = {}
        self._tiles: bool | None = None
        self._names: list[str] = []
        self._child: Baseline | None = None
        self._loaded = ""

    def ready(self, test: Test, settings: Settings, n_ctx: int) -> str:
        """Have a child loaded and opened for `test` at its depth; returns the name of its buffer type."""
        name = self._fixed or self._choose(test, settings)
        self._open(name, settings, n_ctx, test.n_seq)
        assert self._child is not None
        self._child.seat(test.n_depth, test.n_seq)
        return name

    def run(self, work: Work, n_seq: int) -> int:
        """Nanoseconds of a turn."""
        assert self._child is not None
        return self._child.run(work, n_seq)

    def load_time(self, settings: Settings) -> int:
        """Nanoseconds to the first token in plain buffers, which are mapped and so the fastest to load."""
        if self._loaded:
            self.close()
        self._child = self._child or Baseline()
        return self._child.load_time(self.file.path, settings)

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
        self._child, self._loaded = None, ""

    def _open(self, name: str, settings: Settings, n_ctx: int, n_seq: int) -> None:
        if self._loaded != name:
            self.close()
            self._child = Baseline()
            self._child.load(self.file.path, name)
            self._loaded = name
        assert self._child is not None
        self._child.open(settings, n_ctx, n_seq)

    def _choose(self, test: Test, settings: Settings) -> str:
        key = (settings, min(test.n_prompt, 1), test.n_seq)
        if key not in self._chosen:
            times = {name: ns for name in self._candidates(test) if (ns := self._try(name, test, settings))}
            if not times:
                raise BackendError(
                    f"stock llama.cpp could not run {test.label} of {self.file.path.name} in any buffer type",
                    where=str(self.file.path),
                )
            self._chosen[key] = min(times, key=lambda name: times[name])
            shown = ", ".join(f"{name} {1e-6 * ns:.0f} ms" for name, ns in times.items())
            self._note(f"llama.cpp, {test.label}: {shown}; taken: {self._chosen[key]}")
        return self._chosen[key]

    def _candidates(self, test: Test) -> list[str]:
        if not self._names:
            with Baseline() as child:
                self._names = child.buffers()
        return [name for name in self._names if self._fits(name) and (name != TILED or self._tiles_run(test))]

    def _fits(self, name: str) -> bool:
        """Whether memory has room: only plain buffers are mapped, the others are copies."""
        available = memory_available()
        if name == PLAIN or not available or available > self.file.n_bytes * 1.1:
            return True
        self._note(f"llama.cpp with {name} is left out: it needs {self.file.n_bytes} bytes, {available} are available")
        return False

    def _tiles_run(self, test: Test) -> bool:
        """Whether AMX may be given `test`: one column at a time always, else if a small model survives it."""
        if test.one_by_one:
            return True
        if self._tiles is None:
            self._tiles = tiles_survive(self._note)
        return self._tiles

    def _try(self, name: str, test: Test, settings: Settings) -> float | None:
        """Median nanoseconds of a short form of `test`; None where it dies."""
        work = Work(0, min(test.n_prompt, 128), min(test.n_gen, 3), warm=not test.n_prompt)
        try:
            self._open(name, settings, work.n_tokens + 1, test.n_seq)
            assert self._child is not None
            self._child.seat(0, test.n_seq)
            turns = 1 if work.n_prompt else TRIAL
            self._child.run(Work(0, min(work.n_prompt, 16), min(work.n_gen, 1)), test.n_seq)
            return statistics.median(self._child.run(work, test.n_seq) for _ in range(turns))
        except BackendError as error:
            self._note(f"{name}: {error}")
            self.close()
            return None


def tiles_survive(note: Note) -> bool:
    """Whether a prompt through AMX buffers lives, tried on a tiny model in a process of its own."""
    from turbosparse.convert.synth_gguf import write_ggufs
    from turbosparse.convert.synth_model import SynthModel
    from turbosparse.convert.synth_shapes import shape

    model = SynthModel(shape("custom", n_layer=1, n_embd=256, n_ff=512, n_head=4, n_head_kv=2, ranks=(32,)), 0)
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "tiny.dense.gguf"
        write_ggufs(model, Path(folder) / "tiny.gguf", outtype="q4_0", dense=dense)
        try:
            with Baseline() as child:
                child.load(dense, TILED)
                child.open(Settings(1), 64, 1)
                child.run(Work(0, 32), 1)
        except BackendError as error:
            note(f"{TILED} is left out but for single tokens: {error}")
            return False
    return True
