"""What the suites share: the machine in the stored results, expected counters, a model of real width."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from turbosparse.bench import machine
from turbosparse.convert.synth_gguf import write_ggufs
from turbosparse.convert.synth_model import SynthModel
from turbosparse.convert.synth_shapes import shape

EXPECTED = Path(__file__).parent / "expected"
WIDE: dict[str, Any] = {"n_layer": 2, "n_vocab": 2048, "n_embd": 2048, "n_ff": 7168, "n_head": 16, "n_head_kv": 4}
RANKS = (512, 640)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-expected", action="store_true", help="Store the counters of this run as the expected ones."
    )


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info.update(machine.describe(), commit=machine.commit())


@pytest.fixture
def expected(request: pytest.FixtureRequest) -> Callable[[str, str, dict[str, int]], None]:
    """expected(suite, name, counters): equal to what bench/expected/SUITE.json has under that name."""

    def check(suite: str, name: str, counters: dict[str, int]) -> None:
        path = EXPECTED / f"{suite}.json"
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if request.config.getoption("--update-expected"):
            stored[name] = counters
            path.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n", encoding="utf-8")
        assert counters == stored[name], f"{name}: counters changed; --update-expected stores them if they are meant"

    return check


def twins(folder: Path, **changes: Any) -> Path:
    """m.gguf and m.dense.gguf, Q4_0, made from a seed."""
    path = folder / "m.gguf"
    made = shape("custom", ranks=RANKS, **(WIDE | changes))
    write_ggufs(SynthModel(made, 3), path, outtype="q4_0", dense=folder / "m.dense.gguf")
    return path


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, 2048 wide, 7168 neurons, 10 % active."""
    return twins(tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with four experts, two used."""
    return twins(tmp_path_factory.mktemp("experts"), n_expert=4, n_ff=3584)
