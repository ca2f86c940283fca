"""Templates are tokenised without libllama on the training machine: the same ids as libllama gives."""

from __future__ import annotations

import gguf
import pytest
from turbosparse.train.source_tokenizer import tokenizer_from_gguf
from turbosparse.train.vocabulary import Vocabulary

from tests.train.fakes import bpe_model

TEXTS = (
    "<|im_start|>user\nthe old friend writes a letter<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou are a helpful friend named River, under the bridge<|im_end|>\n",
    "\n",
    "Number, paper; light!",
)


@pytest.mark.parametrize("text", TEXTS)
def test_plain_words_give_libllamas_ids(tmp_path, text):
    file = bpe_model(tmp_path / "tiny.gguf")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
    found = tokenizer_from_gguf(fields).encode_plain(text)
    assert found == Vocabulary(file).encode(text, special=True).tolist()
    assert len(found) < len(text) or text == "\n"
