"""The bundled checkpoint, converted once per session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from turbosparse import Model

from tests.conftest import Case
from tests.python.sources import MICRO


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/turbosparse-micro as an F32 file."""
    from turbosparse.convert import convert

    path = tmp_path_factory.mktemp("micro") / "micro.gguf"
    convert(MICRO, path, outtype="f32")
    return path


@pytest.fixture
def model(mistral: Case) -> Iterator[Model]:
    """A tiny random model: two layers, 384 tokens, a context of 256."""
    with mistral.open(n_ctx=256, n_threads=1) as opened:
        yield opened
