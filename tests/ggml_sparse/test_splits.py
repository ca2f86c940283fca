"""Where a model's graph runs: all of it on our device but the look-up of the embedding."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import Cases

SCRIPT = """
import sys
from turbosparse import Model
with Model(sys.argv[1], n_ctx=64, n_threads=1) as model:
    model.eval([5, 6, 7])
    model.eval([8])
"""


@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_a_token_is_two_splits(cases: Cases, family: str) -> None:
    """ggml prints its schedule at debug level 2. The width makes heads of 32, which our attention takes."""
    case = cases(family, "q8_0", n_embd=128, n_ff=320)
    environment = os.environ | {"GGML_SCHED_DEBUG": "2"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(case.gguf)], env=environment, capture_output=True, text=True, check=True
    )
    graphs = re.split(r"^(?=## SPLIT #0:)", done.stdout + done.stderr, flags=re.MULTILINE)[1:]
    for graph in graphs[-2:]:  # the self-test's, which come first, attend to a float32 cache
        nodes = re.findall(r"^node #\s*\d+ \(\s*(\w+)\):\s*(\S+).*?\[\s*(\w+)", graph, flags=re.MULTILINE)
        elsewhere = [(op, name) for op, name, place in nodes if not place.startswith("SPARS")]
        assert nodes
        assert elsewhere == [("GET_ROWS", "embd")], elsewhere
        assert len(re.findall("^## SPLIT", graph, flags=re.MULTILINE)) == 2
