"""Our file in stock llama.cpp: an unknown architecture, said loudly; to every other GGUF tool, a plain GGUF file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Case

STOCK = """
import sys
import llama_cpp
try:
    llama_cpp.Llama(sys.argv[1], verbose=True)
except ValueError as error:
    print("refused:", error)
else:
    print("loaded")
"""


@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_stock_llama_names_the_architecture(request: pytest.FixtureRequest, family: str) -> None:
    case: Case = request.getfixturevalue(family)
    done = subprocess.run([sys.executable, "-c", STOCK, case.gguf], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "refused:" in done.stdout
    assert "unknown model architecture: 'turbosparse'" in done.stderr


def gguf_dump(path: Path, *options: str) -> str:
    tool = Path(sys.executable).with_name("gguf-dump")
    done = subprocess.run([tool, *options, path], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout + done.stderr


def test_gguf_dump_lists_keys_and_tensors(mistral_hot: Case) -> None:
    text = gguf_dump(mistral_hot.gguf)
    for name in (
        "turbosparse.version",
        "turbosparse.ffn.activation",
        "blk.1.ffn_down_t.weight",
        "blk.1.ffn_neuron_perm",
    ):
        assert name in text


def test_gguf_dump_json_shows_the_contract(mixtral: Case) -> None:
    dump = json.loads(gguf_dump(mixtral.gguf, "--json"))
    assert dump["metadata"]["general.architecture"]["value"] == "turbosparse"
    assert dump["tensors"]["blk.0.ffn_down_t_exps.weight"]["shape"] == [64, 160, 4]
