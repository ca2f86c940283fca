"""Hot-first order: falling frequencies, and an FFN that does not notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from turbosparse.convert import convert
from turbosparse.convert.arch import Hparams
from turbosparse.convert.errors import CheckpointError
from turbosparse.convert.neurons import layer_order, load_stats

from tests import tiny

RNG = np.random.default_rng(5)
StatsFile = Callable[..., Path]


def hp(n_expert: int = 0, n_layer: int = 2) -> Hparams:
    return Hparams(n_layer, 64, 160, 4, 2, 16, 384, 1024, 1e-5, 1e4, 1.0, 0, n_expert, 2 if n_expert else 0)


def tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: np.asarray(t.data) for t in GGUFReader(path).tensors}


def test_order_falls_and_ties_keep_their_place() -> None:
    order = layer_order(np.array([[3, 5, 3, 0, 5]]), np.array([5]), 5)
    assert order.perm.tolist() == [[1, 4, 0, 2, 3]]
    np.testing.assert_allclose(order.freq, [[1, 1, 0.6, 0.6, 0]], rtol=1e-6)


def test_experts_that_never_ran() -> None:
    order = layer_order(np.array([[0, 0], [1, 2]]), np.array([0, 2]), 4)
    assert order.perm.tolist() == [[0, 1], [1, 0]]
    assert order.freq.tolist() == [[0, 0], [1, 0.5]]
    assert order.expert_freq.tolist() == [0, 0.5]


def ffn(t: dict[str, Any], il: int, x: np.ndarray[Any, Any], mask: bool) -> tuple[Any, Any]:
    """(y, neurons that the predictor passes) in float64, whatever the order of the rows."""
    b = f"blk.{il}."
    gate, up, down = (t[b + f"ffn_{n}.weight"].astype(np.float64) for n in ("gate", "up", "down_t"))
    h = np.maximum(gate @ x, 0) * np.maximum(up @ x, 0)
    tap = x * t[b + "ffn_pred_in_scale"]
    logit = t[b + "ffn_pred_fc2.weight"] @ np.maximum(t[b + "ffn_pred_fc1.weight"] @ tap, 0)
    return (h * (logit > 0) if mask else h) @ down, logit > 0


def test_ffn_is_invariant(mistral_dir: Path, tmp_path: Path, stats_file: StatsFile) -> None:
    plain = tensors(convert(mistral_dir, tmp_path / "a.gguf", outtype="f32"))
    hot = tensors(convert(mistral_dir, tmp_path / "b.gguf", outtype="f32", stats=stats_file(2, 0, 160)))
    for il in range(2):
        perm = hot[f"blk.{il}.ffn_neuron_perm"]
        assert not (perm == np.arange(160)).all()
        for masked in (False, True):
            x = RNG.standard_normal(64)
            y, passed = ffn(plain, il, x, masked)
            y_hot, passed_hot = ffn(hot, il, x, masked)
            np.testing.assert_allclose(y_hot, y, rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(passed_hot, passed[perm])
            assert 0 < passed.sum() < 160
        for name in ("ffn_gate.weight", "ffn_up.weight", "ffn_down_t.weight", "ffn_pred_fc2.weight"):
            np.testing.assert_array_equal(hot[f"blk.{il}.{name}"], plain[f"blk.{il}.{name}"][perm])
        np.testing.assert_array_equal(hot[f"blk.{il}.ffn_pred_fc1.weight"], plain[f"blk.{il}.ffn_pred_fc1.weight"])


@pytest.mark.parametrize("outtype", ["q4_0", "q8_0", "q5_1", "bf16"])
def test_permuting_moves_rows_and_leaves_their_bytes(
    mixtral_dir: Path, tmp_path: Path, stats_file: StatsFile, outtype: str
) -> None:
    plain = tensors(convert(mixtral_dir, tmp_path / "a.gguf", outtype=outtype))
    hot = tensors(convert(mixtral_dir, tmp_path / "b.gguf", outtype=outtype, stats=stats_file(2, 4, 160)))
    for il in range(2):
        perm = hot[f"blk.{il}.ffn_neuron_perm"]
        assert perm.shape == (4, 160)
        rows = ("gate_exps", "up_exps", "down_t_exps") + (("pred_fc2_exps",) if outtype == "bf16" else ())
        for name in rows:  # quantised predictors have fc2 by unit: see the next test
            a, b = plain[f"blk.{il}.ffn_{name}.weight"], hot[f"blk.{il}.ffn_{name}.weight"]
            for e in range(4):
                np.testing.assert_array_equal(b[e], a[e][perm[e]])


@pytest.mark.parametrize("family", ["mistral_dir", "mixtral_dir"])
def test_fc2_by_unit_is_the_transpose_in_stored_order(
    family: str, tmp_path: Path, stats_file: StatsFile, request: pytest.FixtureRequest
) -> None:
    src, n_set = request.getfixturevalue(family), 4 if family == "mixtral_dir" else 1
    suffix = "_exps.weight" if n_set > 1 else ".weight"
    made = {
        (by_unit, hot): tensors(
            convert(
                src,
                tmp_path / f"{by_unit}{hot}.gguf",
                outtype="f32",
                fc2_by_unit=by_unit,
                stats=stats_file(2, n_set, 160) if hot else None,
            )
        )
        for by_unit in (False, True)
        for hot in (False, True)
    }
    for il in range(2):
        for hot in (False, True):
            fc2 = made[False, hot][f"blk.{il}.ffn_pred_fc2{suffix}"]
            by_unit = made[True, hot]
            np.testing.assert_array_equal(by_unit[f"blk.{il}.ffn_pred_fc2_t{suffix}"], fc2.swapaxes(-1, -2))
            assert f"blk.{il}.ffn_pred_fc2{suffix}" not in by_unit


def test_frequencies_and_keys(mixtral_dir: Path, tmp_path: Path, stats_file: StatsFile) -> None:
    path = convert(mixtral_dir, tmp_path / "m.gguf", stats=stats_file(2, 4, 160))
    t, fields = tensors(path), GGUFReader(path).fields
    for il in range(2):
        freq = t[f"blk.{il}.ffn_neuron_freq"]
        assert freq.shape == (4, 160)
        assert (np.diff(freq, axis=1) <= 0).all()
        assert freq.min() >= 0
        assert freq.max() <= 1
        assert t[f"blk.{il}.ffn_expert_freq"].shape == (4,)
    assert fields["turbosparse.ffn.neuron_order"].contents() == "hot_first"
    assert fields["turbosparse.profile.corpus"].contents() == "test text"
    assert fields["turbosparse.profile.tokens"].contents() == 400


def test_without_stats_there_are_no_maps(mistral_dir: Path, tmp_path: Path) -> None:
    path = convert(mistral_dir, tmp_path / "m.gguf")
    assert GGUFReader(path).fields["turbosparse.ffn.neuron_order"].contents() == "original"
    assert not [n for n in tensors(path) if "freq" in n or "perm" in n]


def write(path: Path, n_layer: int = 2, **override: Any) -> Path:
    arrays: dict[str, Any] = {}
    for il in range(n_layer):
        arrays[f"layers.{il}.counts"] = np.ones((1, 160), np.int64)
        arrays[f"layers.{il}.columns"] = np.full(1, 10, np.int64)
    arrays |= override
    tiny.write_safetensors(path, {k: v for k, v in arrays.items() if v is not None})
    return path


def test_branches_choose_the_first(tmp_path: Path) -> None:
    branches = {"layers.0.branches": np.array([5, 9]), "layers.1.branches": np.array([9, 5])}
    stats = load_stats(write(tmp_path / "s.safetensors", **branches), hp())
    assert [layer.first_branch for layer in stats.layers] == [0, 1]
    assert stats.tokens == 10


def test_reglu_always_begins_with_the_gate(tmp_path: Path) -> None:
    src = tiny.write_reglu(tmp_path / "hf")
    branches = {f"layers.{il}.branches": np.array([9, 5]) for il in range(2)}
    out = convert(src, tmp_path / "m.gguf", stats=write(tmp_path / "s.safetensors", **branches))
    assert GGUFReader(out).fields["turbosparse.ffn.first_branch"].contents() == [0, 0]


@pytest.mark.parametrize(("override", "match"), [
    ({"layers.1.counts": None}, r"no layers\.1\.counts"),
    ({"layers.1.columns": None}, r"no layers\.1\.columns"),
    ({"layers.1.counts": np.ones((1, 161), np.int64)}, "another model"),
    ({"layers.1.counts": np.ones((4, 160), np.int64)}, "another model"),
    ({"layers.1.counts": np.full((1, 160), 11)}, "more often"),
    ({"layers.1.counts": np.full((1, 160), -1)}, "more often"),
    ({"layers.1.counts": np.ones((1, 160), np.float32)}, "expected I64"),
    ({"layers.2.counts": np.ones((1, 160), np.int64)}, "only 2 layers"),
    ({"layers.0.branches": np.array([1, 2, 3])}, "branches"),
])  # fmt: skip
def test_stats_of_another_model_are_refused(tmp_path: Path, override: dict[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        load_stats(write(tmp_path / "s.safetensors", **override), hp())


def test_missing_stats_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_stats(tmp_path / "none.safetensors", hp())
