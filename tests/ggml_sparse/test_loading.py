"""Loading reads no FFN byte, and the byte counters equal rows computed times the size of a row."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests import ggufedit
from tests.conftest import Case


@pytest.mark.parametrize("family", ["mistral", "mistral_hot", "mixtral", "reglu"])
def test_no_ffn_byte_is_read_at_load(request: pytest.FixtureRequest, family: str) -> None:
    case: Case = request.getfixturevalue(family)
    with case.open(n_ctx=16) as model:
        assert model.info.ffn_bytes_read_at_load == 0


PRIVATE_MEMORY = """
import sys
import turbosparse

def private():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["RssAnon"].split()[0]) * 1024

small, large = sys.argv[1:]
turbosparse.Model(small, n_ctx=16, n_threads=1).close()  # the host's libraries are in memory now
before = private()
model = turbosparse.Model(large, n_ctx=16, n_threads=1, memory="mapped")
model.eval([1, 2, 3])
print(model.info.bytes_rest, private() - before)
"""


def test_no_matrix_is_copied_into_memory(cases: Any) -> None:
    """Attention, embedding and head stay in the mapped file too: pages that the system may drop and share."""
    large = cases("mistral", n_embd=2048, n_ff=64, n_layer=1, ranks=(32,), n_head=16, n_head_kv=16)
    command = [sys.executable, "-c", PRIVATE_MEMORY, str(cases("mistral").gguf), str(large.gguf)]
    rest, grown = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert rest > 60e6
    assert grown < rest / 3


@pytest.mark.parametrize("outtype", ["f32", "f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_sizes_equal_the_files(cases: Any, family: str, outtype: str) -> None:
    case = cases(family, outtype, hot=True, n_ff=320)
    file = ggufedit.GgufEdit(case.gguf)
    sizes = {str(t.name): row_bytes(t.type, t.shape[0]) * rows(t.shape) for t in file.tensors}
    predictor = sum(n for name, n in sizes.items() if "ffn_pred" in name)
    ffn = sum(n for name, n in sizes.items() if any(f"ffn_{k}" in name for k in ("gate.", "up", "down", "gate_exps")))
    placement = sum(n for name, n in sizes.items() if any(k in name for k in ("_freq", "_perm")))
    with case.open(n_ctx=16) as model:
        assert model.info.bytes_file == case.gguf.stat().st_size
        assert model.info.bytes_ffn == ffn > 0
        assert model.info.bytes_predictor == predictor > 0
        assert model.info.bytes_rest == sum(sizes.values()) - ffn - predictor - placement


@pytest.mark.parametrize("mode", ["dense", "exact", "predicted"])
@pytest.mark.parametrize("outtype", ["f32", "f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_bytes_are_rows_times_row_bytes(cases: Any, family: str, outtype: str, mode: str) -> None:
    case = cases(family, outtype, hot=True, n_ff=320)
    file = ggufedit.GgufEdit(case.gguf)
    suffix = "_exps.weight" if family == "mixtral" else ".weight"
    tokens = case.tokens(12)
    with case.open(n_ctx=64) as model:
        model.logits(tokens, mode=mode)
        for il, stats in enumerate(model.layer_stats()):
            fc2 = "pred_fc2_t" if outtype.startswith("q") else "pred_fc2"
            size = {k: file.tensor(f"blk.{il}.ffn_{k}{suffix}") for k in ("gate", "up", "down_t", "pred_fc1", fc2)}
            row = {k: row_bytes(t.type, t.shape[0]) for k, t in size.items()}
            computed = stats.rows_gate * row["gate"] + stats.rows_up * row["up"] + stats.rows_down * row["down_t"]
            assert stats.bytes_ffn == computed > 0
            columns = stats.n_neuron // 320
            fc1_bytes, fc2_bytes = (columns * row[k] * size[k].shape[1] for k in ("pred_fc1", fc2))
            if mode != "predicted":
                assert stats.bytes_predictor == 0
            elif fc2 == "pred_fc2":
                assert stats.bytes_predictor == fc1_bytes + fc2_bytes
            else:  # rows of the units that are not zero
                read = stats.bytes_predictor - fc1_bytes
                assert 0 < read < fc2_bytes
                assert read % row[fc2] == 0


def test_sparse_modes_read_less(mistral: Case) -> None:
    tokens = mistral.tokens(24)
    read = {}
    with mistral.open(n_ctx=64) as model:
        for mode in ("dense", "exact", "predicted"):
            model.logits(tokens, mode=mode)
            read[mode] = sum(s.bytes_ffn for s in model.layer_stats())
    assert read["predicted"] < read["exact"] < 0.7 * read["dense"]


def rows(shape: list[int]) -> int:
    n = 1
    for d in shape[1:]:
        n *= d
    return n


def row_bytes(kind: int, n: int) -> int:
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    return n // block * size
