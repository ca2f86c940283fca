"""Estimates of --dry-run: right in kind, and memory under the promise whatever the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from turbosparse.convert.arch import FAMILIES, Hparams
from turbosparse.convert.estimate import peak_bytes, seconds
from turbosparse.convert.export import MAX_THREADS
from turbosparse.convert.plan import Plan, Types, _Builder, _down, _stack
from turbosparse.convert.quantize import T


@dataclass
class Header:
    """A tensor of which only the header exists."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "F32"

    def read(self, start: int, stop: int) -> None:
        raise AssertionError("an estimate reads nothing")


def layer(n_embd: int, n_ff: int, n_expert: int, outtype: T) -> Plan:
    family = FAMILIES[1 if n_expert else 0]
    hp = Hparams(1, n_embd, n_ff, 32, 8, n_embd // 32, 32000, 4096, 1e-5, 1e4, 1.0, 0, n_expert, min(n_expert, 2))
    tensors = {}
    for e in range(max(n_expert, 1)):
        for template, shape in ((family.ffn.gate, (n_ff, n_embd)), (family.ffn.down, (n_embd, n_ff))):
            name = template.format(il=0, e=e)
            tensors[name] = Header(name, shape)
    b = _Builder(hp, family, Types(outtype), tensors, None)  # type: ignore[arg-type]
    _stack(b, 0, None, "gate.{}", family.ffn.gate, outtype)
    _down(b, 0, None)
    return Plan(b.out, [])


@pytest.mark.parametrize("shape", [(4096, 14336, 0), (8192, 28672, 0), (6144, 16384, 8), (16384, 53248, 0)])
def test_memory_stays_under_2_gb(shape: tuple[int, int, int]) -> None:
    assert peak_bytes(layer(*shape, T.Q4_0), MAX_THREADS) < 2e9


def test_time_grows_with_work_and_shrinks_with_threads() -> None:
    plan = layer(4096, 14336, 0, T.Q4_K)
    one = seconds(plan, 1, 0)
    assert one == pytest.approx(2 * seconds(plan, 2, 0))
    assert one > seconds(layer(4096, 14336, 0, T.Q4_0), 1, 0)
    assert math.isclose(seconds(plan, 64, 10**12), 10**12 / 600e6, rel_tol=0.01)  # the disk decides
