"""Shards: what is written is what is sampled; every kind of damage has its own message."""

from __future__ import annotations

import json

import numpy as np
import pytest
from turbosparse.train.shards import ShardError, Shards, ShardWriter, dtype_name, vocabulary_sha256

VOCABULARY = ["a", "b", "c"]


@pytest.fixture
def made(tmp_path):
    writer = ShardWriter(tmp_path, vocabulary_sha256(VOCABULARY), 60_000, separator=0)
    writer.add("low", np.arange(1000) % 100, np.arange(7), licence="MIT", package="pip:x==1", weight=3.0)
    writer.add("high", np.arange(59_000, 60_000), licence="PD", package="pip:y==1", weight=1.0)
    writer.close()
    return tmp_path


def test_tokens_come_back_as_written(made):
    shards = Shards(made)
    assert shards.streams["high"].dtype == np.uint16
    np.testing.assert_array_equal(shards.streams["high"], np.arange(59_000, 60_000))
    np.testing.assert_array_equal(shards.heldout("low"), np.arange(7))
    assert shards.weights == {"low": 3.0, "high": 1.0}
    assert shards.meta["streams"]["low"]["licence"] == "MIT"
    shards.verify()


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    assert (dtype_name(65_536), dtype_name(65_537)) == ("uint16", "uint32")
    writer = ShardWriter(tmp_path, "x", 100_000, 0)
    writer.add("s", np.array([99_999, 1]))
    writer.close()
    assert Shards(tmp_path).streams["s"].tolist() == [99_999, 1]


def test_samples_are_windows_of_one_stream(made):
    rows = Shards(made).sample(np.random.default_rng(0), 64, 15)
    assert rows.shape == (64, 16)
    assert rows.dtype == np.int64
    low = rows[:, 0] < 100
    assert set(np.diff(rows[~low], axis=1).ravel()) == {1}
    assert set(np.diff(rows[low], axis=1).ravel()) <= {1, -99}
    assert 0.6 < low.mean() < 0.9  # weight 3 of 4


def test_samples_depend_on_the_generator_alone(made):
    shards = Shards(made)
    first, again, other = (shards.sample(np.random.default_rng(seed), 8, 15) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_weights_of_the_caller_win(made):
    rows = Shards(made).sample(np.random.default_rng(0), 32, 15, {"low": 0.0, "high": 1.0})
    assert (rows >= 59_000).all()


def test_the_last_window_can_be_drawn(tmp_path):
    writer = ShardWriter(tmp_path, "x", 10, 0)
    writer.add("s", np.arange(4))
    writer.close()
    starts = {int(row[0]) for row in Shards(tmp_path).sample(np.random.default_rng(0), 50, 2)}
    assert starts == {0, 1}


def test_text_too_short_names_the_numbers(made):
    with pytest.raises(ShardError, match="no weighted stream is longer than 1000 tokens") as caught:
        Shards(made).sample(np.random.default_rng(0), 1, 1000)
    assert caught.value.data == {"expected": 1001, "found": 1000}


def test_another_tokenizer_is_refused(made):
    shards = Shards(made)
    shards.check(60_000, vocabulary_sha256(VOCABULARY))
    with pytest.raises(ShardError, match=r"n_vocab is 60000, the model has 32000"):
        shards.check(32_000)
    with pytest.raises(ShardError, match=r"make the shards again from this model"):
        shards.check(60_000, vocabulary_sha256(["a", "bc"]))


def test_vocabularies_are_told_apart():
    same = vocabulary_sha256(VOCABULARY)
    assert same == vocabulary_sha256([b"a", b"b", b"c"])
    assert len({same, vocabulary_sha256(["ab", "c"]), vocabulary_sha256(["b", "a", "c"])}) == 3


def test_damage_is_named(made):
    (made / "low.bin").write_bytes(b"\0" * 10)
    with pytest.raises(ShardError, match=r"low\.bin: expected 2000 bytes, found 10 bytes"):
        Shards(made)
    (made / "low.bin").unlink()
    with pytest.raises(ShardError, match="found missing"):
        Shards(made)


def test_a_flipped_bit_and_a_wild_token_are_found(made):
    data = bytearray((made / "high.bin").read_bytes())
    data[3] ^= 1
    (made / "high.bin").write_bytes(bytes(data))
    with pytest.raises(ShardError, match=r"high\.bin: sha256"):
        Shards(made).verify()


def test_ids_beyond_the_vocabulary_are_found(tmp_path):
    writer = ShardWriter(tmp_path, "x", 10, 0)
    writer.add("s", np.array([3, 10]))
    writer.close()
    with pytest.raises(ShardError, match="token 10 is not below n_vocab 10"):
        Shards(tmp_path).verify()


def edit(made, change):
    meta = json.loads((made / "meta.json").read_text())
    change(meta)
    (made / "meta.json").write_text(json.dumps(meta))


def test_a_file_name_cannot_leave_the_directory(made):
    edit(made, lambda meta: meta["streams"]["low"].update(file="../low.bin"))
    with pytest.raises(ShardError, match="not a plain file name"):
        Shards(made)


def test_broken_meta(made, tmp_path):
    edit(made, lambda meta: meta.pop("n_vocab"))
    with pytest.raises(ShardError, match="'n_vocab' is missing"):
        Shards(made)
    (made / "meta.json").write_text("{")
    with pytest.raises(ShardError, match="is not JSON"):
        Shards(made)
    with pytest.raises(ShardError, match="is missing; make it"):
        Shards(tmp_path / "nowhere")


def test_an_unfinished_directory_is_not_opened(tmp_path):
    ShardWriter(tmp_path, "x", 10, 0).add("s", np.arange(4))
    with pytest.raises(ShardError, match="is missing; make it"):
        Shards(tmp_path)


def test_unknown_streams_are_named(made):
    with pytest.raises(ShardError, match="no stream 'web'; there are high, low"):
        Shards(made).sample(np.random.default_rng(0), 1, 4, {"web": 1.0})
    with pytest.raises(ShardError, match="no held-out stream 'high'; there are low"):
        Shards(made).heldout("high")
