"""Bytes of the header flipped at random: every outcome is a model or a typed error, never a dead process.

The victim is a subprocess that opens many files and reports after each, so that an abort, a crash or a hang is seen
and its input kept. Model weights are left alone: they are numbers, any bit pattern is one.
"""

from __future__ import annotations

import random
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Case
from tests.ggufedit import GgufEdit

VICTIM = """
import sys
import turbosparse
for line in sys.stdin:
    try:
        with turbosparse.Model(line.strip(), n_ctx=16, n_threads=1) as model:
            model.logits([1, 5, 9])
        print("ok", flush=True)
    except turbosparse.TurboSparseError as error:
        assert str(error)
        print("refused", type(error).__name__, flush=True)
"""


class Victim:
    """One subprocess; `open` returns its answer, or fails the test when it died or fell silent."""

    def __init__(self) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process; a pipe would fill up
        command = [sys.executable, "-c", VICTIM]
        self.process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=self.log, text=True)

    def open(self, path: Path) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        answer = self.process.stdout.readline().strip() if ready else ""
        if not answer:
            self.process.kill()
            self.log.seek(0)
            raise AssertionError(f"exit {self.process.wait()}, silent: {not ready}: {self.log.read()[-2000:]}")
        return answer

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)
        self.log.close()


@pytest.fixture
def victim() -> object:
    process = Victim()
    yield process
    process.close()


def mutate(data: bytes, header: int, flips: list[tuple[int, int]]) -> bytes:
    out = bytearray(data)
    for place, value in flips:
        out[place % header] = value
    return bytes(out)


@pytest.mark.parametrize("family", ["mistral_hot", "mixtral"])
def test_flipped_header_bytes(request: pytest.FixtureRequest, family: str, victim: Victim, tmp_path: Path) -> None:
    case: Case = request.getfixturevalue(family)
    data = case.gguf.read_bytes()
    header = GgufEdit(case.gguf).header_size
    path = tmp_path / "fuzz.gguf"
    answers: dict[str, int] = {}
    flips = st.lists(st.tuples(st.integers(0, header - 1), st.integers(0, 255)), min_size=1, max_size=4)

    @settings(
        max_examples=300, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip
    @given(flips)
    def run(places: list[tuple[int, int]]) -> None:
        path.write_bytes(mutate(data, header, places))
        answer = victim.open(path).split()[0]
        answers[answer] = answers.get(answer, 0) + 1

    run()
    assert answers.get("refused", 0) > 30, answers


def test_interesting_integers_in_the_header(mistral_hot: Case, victim: Victim, tmp_path: Path) -> None:
    """Whole 4- and 8-byte fields overwritten with the values that break parsers, outside the token list."""
    edit = GgufEdit(mistral_hot.gguf)
    data = mistral_hot.gguf.read_bytes()
    start = data.index(b"tokenizer.ggml.tokens")
    end = data.index(b"tokenizer.ggml.bos_token_id")
    places = [p for p in range(4, edit.header_size - 8) if not start + 40 < p < end]
    rng = random.Random(1)
    values = [
        0,
        1,
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFFFF,
        1 << 32,
        1 << 62,
        (1 << 63) - 1,
        (1 << 64) - 1,
        (1 << 64) - 4096,
    ]
    path = tmp_path / "field.gguf"
    for _ in range(1000):
        place, size, value = rng.choice(places), rng.choice([4, 8]), rng.choice(values)
        field = (value & ((1 << 8 * size) - 1)).to_bytes(8, "little")[:size]
        path.write_bytes(data[:place] + field + data[place + size :])
        assert victim.open(path)
