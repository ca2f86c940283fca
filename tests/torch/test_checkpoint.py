"""Load and save of the Hugging Face layouts."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from turbosparse.torch import Config, LayoutError, generate, load, save
from turbosparse.torch.checkpoint import INDEX, read_ranks, read_state, split_shards

from tests import tiny
from tests.torch.common import WRITERS, pair, tokens

pytestmark = pytest.mark.torch
FAMILIES = sorted(WRITERS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_round_trip(tmp_path, family, dtype):
    model = load(WRITERS[family](tmp_path / "a", dtype="bf16"))
    save(model, tmp_path / "b", dtype, shard_bytes=200_000)
    again = load(tmp_path / "b")
    assert again.config == model.config
    stored, loaded = model.state_dict(), again.state_dict()
    assert list(stored) == list(loaded)
    assert all(torch.equal(stored[n].to(dtype).float(), loaded[n]) for n in stored)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_shards_and_index_are_hugging_faces(tmp_path, family):
    source = WRITERS[family](tmp_path / "a", dtype="bf16")
    save(load(source), tmp_path / "b", shard_bytes=150_000)
    index = json.loads((tmp_path / "b" / INDEX).read_text())
    files = sorted(p.name for p in (tmp_path / "b").glob("*.safetensors"))
    assert len(files) >= 2
    assert files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert set(index["weight_map"]) == set(read_state(source))
    shards = {name: load_file(tmp_path / "b" / name) for name in files}
    assert all(name in shards[file] for name, file in index["weight_map"].items())
    assert index["metadata"]["total_size"] == sum(t.nbytes for s in shards.values() for t in s.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_config_keeps_every_key(tmp_path, family):
    source = WRITERS[family](tmp_path / "a", dtype="bf16")
    save(load(source), tmp_path / "b")
    before, after = (json.loads((d / "config.json").read_text()) for d in (source, tmp_path / "b"))
    assert {k: after[k] for k in before if k != "auto_map"} == {k: v for k, v in before.items() if k != "auto_map"}
    assert after["auto_map"]["AutoModelForCausalLM"] == before["auto_map"]["AutoModelForCausalLM"]
    generation = json.loads((tmp_path / "b" / "generation_config.json").read_text())
    assert (generation["temperature"], generation["do_sample"], generation["eos_token_id"]) == (0.0, True, 2)


def test_ranks_come_from_shapes(tmp_path):
    model, _ = pair(tmp_path, "mistral", n_layer=3, ranks=[32, 96, 64])
    assert read_ranks(model.config, model.state_dict()) == [32, 96, 64]
    assert "rank" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("model_type", tiny.MIXTRAL_TYPES)
def test_all_four_spellings_load(tmp_path, model_type):
    assert load(tiny.write_mixtral(tmp_path, model_type=model_type)).config.model_type == model_type


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "silu"),
        ("model_type", "llama"),
        ("num_attention_heads", 5),
        ("num_key_value_heads", 3),
        ("rope_theta", None),
    ],
)
def test_a_wrong_config_is_named(tmp_path, key, value):
    source = tiny.write_mistral(tmp_path)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(LayoutError, match=key) as caught:
        load(source)
    assert caught.value.what == key


def test_experts_are_required_of_a_mixtral(tmp_path):
    raw = json.loads((tiny.write_mixtral(tmp_path) / "config.json").read_text())
    with pytest.raises(LayoutError, match="num_experts_per_tok"):
        Config.from_dict({**raw, "num_experts_per_tok": 5})
    with pytest.raises(LayoutError, match="num_local_experts"):
        Config.from_dict({**raw, "num_local_experts": None})


def edit_shard(source, change):
    """Applies `change` to the tensors of the only shard."""
    state = load_file(source / "model.safetensors")
    change(state)
    save_file(state, source / "model.safetensors")


FC2 = "model.layers.1.mlp.predictor.fc2.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop(FC2),
        lambda s: s.update({FC2.replace("fc2", "fc3"): s[FC2].clone()}),
        lambda s: s.update({FC2: s[FC2][:-1].contiguous()}),
    ],
    ids=["missing", "surplus", "misshapen"],
)
def test_a_wrong_tensor_is_named(tmp_path, change):
    source = tiny.write_mistral(tmp_path, n_shards=1)
    edit_shard(source, change)
    with pytest.raises(LayoutError, match=r"model\.layers\.1\.mlp\.predictor\.fc[23]"):
        load(source)


def test_a_truncated_shard_is_named(tmp_path):
    source = tiny.write_mistral(tmp_path, n_shards=1)
    shard = source / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(LayoutError, match=r"model\.safetensors"):
        load(source)


def test_split_shards_keeps_order_and_limit():
    sizes = {"a": 3, "b": 3, "c": 10, "d": 1}
    assert split_shards(sizes, 6) == [["a", "b"], ["c"], ["d"]]


@pytest.mark.parametrize("mode", ["dense", "predicted"])
def test_greedy_generation_equals_the_oracles(tmp_path, mode):
    model, oracle = pair(tmp_path, "mistral")
    prompt = tokens(5)
    assert list(generate(model, prompt, 12, dense=mode == "dense")) == oracle.greedy(prompt, 12, mode)


def test_sampling_follows_the_seed(tmp_path):
    model, _ = pair(tmp_path, "mistral")
    one, same, other = (list(generate(model, [1, 5], 12, temp=1.5, seed=s)) for s in (1, 1, 2))
    assert one == same != other
