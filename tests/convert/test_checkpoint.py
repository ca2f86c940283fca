"""Checkpoints that are incomplete or hostile are refused by name; good ones are read exactly."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turbosparse.convert.checkpoint import open_checkpoint, open_safetensors
from turbosparse.convert.errors import CheckpointError, MissingPackageError

from tests import tiny


def test_reads_every_tensor_as_the_reference_does(mistral_dir: Path, weights: Any) -> None:
    with open_checkpoint(mistral_dir) as checkpoint:
        expected = weights(mistral_dir)
        assert set(checkpoint.tensors) == set(expected)
        for name, tensor in checkpoint.tensors.items():
            assert tensor.shape == expected[name].shape
            np.testing.assert_array_equal(tensor.read(0, tensor.shape[0]), expected[name])
            np.testing.assert_array_equal(tensor.read(1, 3), expected[name][1:3])


def test_sharded_checkpoint_is_read_through_its_index(tmp_path: Path) -> None:
    path = tiny.write_mistral(tmp_path / "m", n_shards=3)
    with open_checkpoint(path) as checkpoint:
        index = json.loads((path / "model.safetensors.index.json").read_text())
        assert set(checkpoint.tensors) == set(index["weight_map"])


def test_missing_shard_is_named(tmp_path: Path) -> None:
    path = tiny.write_mistral(tmp_path / "m", n_shards=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 3 shards.*model-00002-of-00003\.safetensors"):
        open_checkpoint(path)


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_truncated_shard_is_named(tmp_path: Path, cut: int) -> None:
    path = tiny.write_mistral(tmp_path / "m", n_shards=2)
    shard = path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.*truncated"):
        open_checkpoint(path)


def test_shard_of_another_download_is_refused(tmp_path: Path) -> None:
    path = tiny.write_mistral(tmp_path / "m", n_shards=2)
    shard = path / "model-00002-of-00002.safetensors"
    shard.write_bytes((path / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="in both"):
        open_checkpoint(path)
    tiny.write_safetensors(shard, {"other": np.zeros((1, 1), np.float32)})
    with pytest.raises(CheckpointError, match="found in no shard"):
        open_checkpoint(path)


def test_index_must_not_point_outside(tmp_path: Path) -> None:
    path = tiny.write_mistral(tmp_path / "m", n_shards=2)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(CheckpointError, match="not a file name"):
        open_checkpoint(path)


def test_no_weights_and_no_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        open_checkpoint(tmp_path)


def test_pickles_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        open_checkpoint(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)  # makes `import torch` fail
    with pytest.raises(MissingPackageError, match="pip install torch"):
        open_checkpoint(tmp_path, allow_pickle=True)


GOOD = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def write(path: Path, header: Any, data: bytes = bytes(16), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


HOSTILE = {
    "header longer than the file": (GOOD, {"length": 1 << 40}),
    "header longer than allowed": (GOOD, {"length": 101 << 20}),
    "not JSON": (b"\xff{", {}),
    "JSON list": ([], {}),
    "deep JSON": (b"[" * 100000, {}),
    "duplicate name": (b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"a":1}', {}),
    "entry is a number": ({"a": 3}, {}),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2, 2]}}, {}),
    "unknown dtype": ({"a": GOOD["a"] | {"dtype": "F13"}}, {}),
    "dtype is a list": ({"a": GOOD["a"] | {"dtype": ["F32"]}}, {}),
    "negative dimension": ({"a": GOOD["a"] | {"shape": [-2, -2]}}, {}),
    "bool dimension": ({"a": GOOD["a"] | {"shape": [True, 4]}}, {}),
    "huge dimension": ({"a": GOOD["a"] | {"shape": [1 << 62, 4]}}, {}),
    "shape does not match bytes": ({"a": GOOD["a"] | {"shape": [2, 3]}}, {}),
    "begins after its end": ({"a": GOOD["a"] | {"data_offsets": [16, 0]}}, {}),
    "beyond the file": ({"a": GOOD["a"] | {"data_offsets": [16, 32]}}, {}),
    "hole": ({"a": GOOD["a"] | {"data_offsets": [4, 20]}}, {"data": bytes(20)}),
    "overlap": (GOOD | {"b": GOOD["a"] | {"data_offsets": [8, 24]}}, {"data": bytes(24)}),
    "bytes left over": (GOOD, {"data": bytes(17)}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_header_is_refused(tmp_path: Path, name: str) -> None:
    header, options = HOSTILE[name]
    path = write(tmp_path / "bad.safetensors", header, **options)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        open_safetensors(path, [])


def test_the_good_header_is_accepted(tmp_path: Path) -> None:
    (tensor,) = open_safetensors(write(tmp_path / "good.safetensors", GOOD), fds := [])
    assert (tensor.name, tensor.shape, len(fds)) == ("a", (2, 2), 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_any_flipped_byte_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    raw = bytearray(
        write(path, GOOD | {"b": {"dtype": "F16", "shape": [2], "data_offsets": [16, 20]}}, bytes(20)).read_bytes()
    )
    at %= len(raw)
    raw[at : at + len(junk)] = junk
    path.write_bytes(raw)
    try:
        for tensor in open_safetensors(path, []):
            tensor.read(0, tensor.shape[0] if tensor.shape else 1)
    except CheckpointError:
        pass
