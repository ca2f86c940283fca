"""Stock llama.cpp in its own process: what it runs, and what becomes of us when it dies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from turbosparse.bench import opponent as opponents
from turbosparse.bench.baseline import Baseline
from turbosparse.bench.opponent import Opponent
from turbosparse.bench.plan import Settings, Test, Work
from turbosparse.errors import BackendError, HostError

ONE = Settings(1)


def stand_in(code: str) -> tuple[str, ...]:
    """A process that answers like the baseline's."""
    return (
        sys.executable,
        "-c",
        f"import json, os, signal, sys\nfor line in sys.stdin:\n    ask = json.loads(line)\n{code}",
    )


def dense(twins: Path) -> Path:
    return twins.with_name("m.dense.gguf")


@pytest.mark.parametrize("flash_attn", ["on", "off"])
def test_it_runs_turns(twins: Path, flash_attn: str) -> None:
    with Baseline() as child:
        names = child.buffers()
        assert names[0] == "CPU"
        child.load(dense(twins), "CPU")
        child.open(Settings(1, flash_attn=flash_attn), 100, 2)
        child.seat(50, 2)
        assert child.run(Work(50, 8, 2), 2) > 0
        assert child.run(Work(50, n_gen=3, warm=True), 2) > 0
        child.seat(0, 2)
        assert child.run(Work(0, 8), 2) > 0


def test_every_buffer_type_decodes_one_token(twins: Path) -> None:
    with Baseline() as child:
        names = child.buffers()
    for name in names:
        with Baseline() as child:
            child.load(dense(twins), name)
            child.open(ONE, 16, 1)
            assert child.run(Work(0, n_gen=2), 1) > 0


def test_our_library_is_not_in_its_process(twins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGML_BACKEND_PATH", "/nonexistent/libggml-sparse.so")
    with Baseline() as child:
        libraries = child._ask("load", path=str(dense(twins)), buffers="CPU")["libraries"]
    assert any(name.startswith("libllama") for name in libraries)
    assert not any("sparse" in name for name in libraries)


def test_a_process_with_our_library_is_refused() -> None:
    answer = stand_in("    print(json.dumps({'ok': {'libraries': ['libggml-sparse.so']}}), flush=True)")
    with Baseline(answer) as child, pytest.raises(HostError, match="not stock"):
        child.load(Path("m.gguf"), "CPU")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("    os.kill(os.getpid(), signal.SIGILL)", "died of SIGILL"),
        ("    print('tiles do not run', file=sys.stderr); sys.exit(3)", "exit code 3.*tiles do not run"),
        ("    print(json.dumps({'error': 'no room'}), flush=True)", "refused: no room"),
    ],
)
def test_its_death_is_an_error_here(code: str, message: str) -> None:
    with Baseline(stand_in(code)) as child, pytest.raises(BackendError, match=message):
        child.run(Work(0, 1), 1)


def test_bad_requests_leave_it_alive(twins: Path) -> None:
    with Baseline() as child:
        with pytest.raises(BackendError, match="no buffer type"):
            child.load(dense(twins), "NONE")
        with pytest.raises(BackendError, match="cannot load"):
            child.load(twins.parent / "none.gguf", "CPU")
        assert child.buffers()


class Scripted:
    """A Baseline that takes `seconds` in each buffer type and dies where there are none."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.name, self.opened = seconds, "", []

    def __call__(self) -> Scripted:
        return self

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None: ...

    def buffers(self) -> list[str]:
        return ["CPU", "AMX", "CPU_REPACK"]

    def load(self, path: Path, name: str) -> None:
        self.name = name

    def open(self, settings: Settings, n_ctx: int, n_seq: int) -> None:
        self.opened.append((self.name, n_ctx))

    def seat(self, depth: int, n_seq: int) -> None: ...

    def close(self) -> None: ...

    def run(self, work: Work, n_seq: int) -> int:
        if self.name not in self.seconds:
            raise BackendError("stock llama.cpp died of SIGILL")
        return int(1e9 * self.seconds[self.name])


@pytest.mark.parametrize(
    ("test", "seconds", "tiles", "expected"),
    [
        (Test(n_gen=8), {"CPU": 3, "AMX": 1, "CPU_REPACK": 2}, False, "AMX"),  # a single token runs no tile
        (Test(n_gen=8), {"CPU": 3, "CPU_REPACK": 2}, False, "CPU_REPACK"),  # AMX dies even so: reported, not fatal
        (Test(n_prompt=64), {"CPU": 3, "AMX": 1, "CPU_REPACK": 2}, False, "CPU_REPACK"),
        (Test(n_gen=8, n_seq=4), {"CPU": 1, "AMX": 0.5, "CPU_REPACK": 2}, False, "CPU"),
        (Test(n_prompt=64), {"CPU": 3, "AMX": 1, "CPU_REPACK": 2}, True, "AMX"),
    ],
)
def test_the_fastest_buffer_type_is_the_opponent(
    twins: Path, monkeypatch: pytest.MonkeyPatch, test: Test, seconds: dict[str, float], tiles: bool, expected: str
) -> None:
    notes: list[str] = []
    child = Scripted(seconds)
    monkeypatch.setattr(opponents, "Baseline", child)
    monkeypatch.setattr(opponents, "tiles_survive", lambda note: tiles)
    assert Opponent(dense(twins), notes.append).ready(test, ONE, 99) == expected
    assert child.opened[-1] == (expected, 99)
    assert any(f"taken: {expected}" in note for note in notes)
    assert any("SIGILL" in note for note in notes) == ("AMX" not in seconds)


def test_no_buffer_type_at_all(twins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opponents, "Baseline", Scripted({}))
    with pytest.raises(BackendError, match="in any buffer type"):
        Opponent(dense(twins), lambda text: None).ready(Test(n_gen=1), ONE, 9)


def test_copies_that_do_not_fit_are_not_tried(twins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(opponents, "Baseline", Scripted({"CPU": 3, "AMX": 1, "CPU_REPACK": 2}))
    monkeypatch.setattr(opponents, "memory_available", lambda: 1000)
    assert Opponent(dense(twins), notes.append).ready(Test(n_gen=8), ONE, 9) == "CPU"
    assert sum("is left out" in note for note in notes) == 2
