"""Converter and loader share names and nothing else: the two lists and the document must agree."""

from __future__ import annotations

import re
from pathlib import Path

from gguf.constants import MODEL_TENSOR, TENSOR_NAMES, Keys
from turbosparse.convert import keys

ROOT = Path(__file__).parents[2]
CPP = ROOT / "ggml_sparse" / "src" / "keys.h"
DOC = ROOT / "docs" / "gguf-extension.md"
NAMES = {name: value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}


def cpp_names() -> set[str]:
    return set(re.findall(r'= "([^"]+)";', CPP.read_text()))


def test_every_key_is_known_to_the_loader() -> None:
    ours = {v for v in NAMES.values() if v.startswith("turbosparse.")}
    theirs = {v for v in cpp_names() if v.startswith("turbosparse.") and v != "turbosparse."}
    assert ours <= theirs
    assert theirs - ours <= {"turbosparse.rope.scaling.original_context_length"}  # YaRN: loaded, not written yet


def test_every_tensor_is_known_to_the_loader() -> None:
    ours = {
        v.removeprefix("blk.{}.").removesuffix(".weight").removesuffix("_exps") for v in NAMES.values() if "blk." in v
    }
    theirs = {v.removesuffix(".weight") for v in cpp_names()}
    assert ours <= theirs


def test_every_name_is_documented() -> None:
    text = DOC.read_text()
    for name, value in NAMES.items():
        if value.startswith(("turbosparse.", "blk.")):
            assert value.replace("{}", "N") in text, f"{name} = {value} is not in {DOC.name}"


def test_names_shared_with_llama_are_llamas() -> None:
    def llama(key: str) -> str:
        return key.format(arch="turbosparse")

    assert llama(Keys.Attention.HEAD_COUNT_KV) == keys.HEAD_COUNT_KV
    assert llama(Keys.Attention.LAYERNORM_RMS_EPS) == keys.RMS_EPSILON
    assert llama(Keys.Attention.SLIDING_WINDOW) == keys.SLIDING_WINDOW
    assert llama(Keys.Rope.FREQ_BASE) == keys.ROPE_FREQ_BASE
    assert llama(Keys.Rope.DIMENSION_COUNT) == keys.ROPE_DIMENSION_COUNT
    assert llama(Keys.LLM.EXPERT_USED_COUNT) == keys.EXPERT_USED_COUNT
    assert llama(Keys.LLM.FEED_FORWARD_LENGTH) == keys.FEED_FORWARD_LENGTH
    assert Keys.Tokenizer.EOT_ID == keys.TOKENIZER_EOT
    assert Keys.Tokenizer.CHAT_TEMPLATE == keys.CHAT_TEMPLATE
    assert TENSOR_NAMES[MODEL_TENSOR.ATTN_OUT].format(bid="{}") + ".weight" == keys.ATTN_OUTPUT
    assert TENSOR_NAMES[MODEL_TENSOR.FFN_UP_EXP].format(bid="{}") + ".weight" == keys.FFN_UP_EXPS
    assert TENSOR_NAMES[MODEL_TENSOR.FFN_GATE_INP].format(bid="{}") + ".weight" == keys.FFN_GATE_INP
