"""Many columns at once: tiles of rows, panels of columns and their remainders."""

from __future__ import annotations

import numpy as np
import pytest
from turbosparse import ops

from tests.ggml_sparse.ops_cases import ISAS, TYPES, Ffn, Predictor, floats, nmse

# around a tile's 16 rows, a panel's 64 columns, the 16 columns that `down` takes row by row, and a block of columns
N_FF = (1, 17, 33, 300)
N_TOKENS = (2, 16, 17, 31, 33, 64, 65, 513)


@pytest.mark.parametrize("type", list(TYPES))
def test_every_remainder_of_tiles_and_panels(type: str) -> None:
    for n_ff in N_FF:
        case = Ffn.random(256, n_ff, max(N_TOKENS), type, "half")
        expected = case.y()
        for n_tokens in N_TOKENS:
            y = case.run("exact", case.x[:n_tokens]).y
            assert nmse(y, expected[:n_tokens]) <= case.max_nmse, (n_ff, n_tokens)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["q4_0", "q6_K", "bf16"])
def test_a_column_in_company_has_the_bits_of_a_column_alone(type: str, isa: ops.Isa) -> None:
    case = Ffn.random(512, 288, 130, type, "half")
    predictor = Predictor.random(case.x, 288, 256, type)
    for mode in ("exact", "predicted"):
        options = predictor.options() if mode == "predicted" else {}
        together = case.run(mode, isa=isa, **options)  # type: ignore[arg-type]
        for c in (0, 63, 64, 129):
            alone = case.run(mode, case.x[c : c + 1], isa=isa, **options)
            assert alone.y.tobytes() == together.y[c : c + 1].tobytes(), (mode, c)
            np.testing.assert_array_equal(alone.mask[0], together.mask[c])


def test_columns_that_need_nothing() -> None:
    """Half of the columns have no active neuron at all, so tiles meet gaps in a panel."""
    rng = np.random.default_rng(4)
    case = Ffn.random(64, 48, 70, "q4_0", "all")
    case.x[::2] = -case.x[::2]
    y = case.run("exact").y
    assert not y[::2].any()
    assert nmse(y, case.y()) <= case.max_nmse
    case.x[:] = -np.abs(floats(rng, 1, 64))
    assert not case.run("exact").y.any()
