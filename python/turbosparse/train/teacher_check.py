"""Is torch's teacher the model that llama.cpp runs? `python -m turbosparse.train.teacher_check SRC.gguf`.

Writes SRC with all weights as F32 to a scratch file, lets stock llama.cpp compute the logits of a short text, and
compares them with the torch model that `train.drelu` distils from. Exit code 1 if they differ by more than
--tolerance of their range. Scratch space: four bytes per weight.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TEXT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nThe capital of France is"


def write_f32(source: Path, out: Path) -> None:
    """A GGUF file with every tensor dequantised."""
    import gguf

    from turbosparse.train.trim import copy_kv, write_kv

    with _open(source) as file:
        writer = write_kv(out, copy_kv(file))
        for tensor in gguf.GGUFReader(source).tensors:
            rows = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
            writer.add_tensor(tensor.name, rows)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _open(source: Path) -> Any:
    from turbosparse.convert.ggufile import GGUFFile

    return GGUFFile(source)


def llama_logits(model: Path, tokens: list[int]) -> npt.NDArray[np.float32]:
    """[n_tokens, n_vocab] by stock llama.cpp on the CPU, keys and values in F32, no flash attention, one thread."""
    import llama_cpp as llama

    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    loaded: Any = llama.llama_model_load_from_file(str(model).encode(), params)
    if not loaded:
        raise RuntimeError(f"{model}: llama.cpp cannot load it")
    settings = llama.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = max(len(tokens), 32)
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = 0
    settings.flash_attn_type = 0
    context = llama.llama_init_from_model(loaded, settings)
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, True
        batch.seq_id[i][0] = 0
    batch.n_tokens = len(tokens)
    try:
        if llama.llama_decode(context, batch):
            raise RuntimeError(f"{model}: llama.cpp cannot decode")
        n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(loaded))
        rows = [np.ctypeslib.as_array(llama.llama_get_logits_ith(context, i), (n_vocab,)) for i in range(len(tokens))]
        return np.array(rows, dtype=np.float32)
    finally:
        llama.llama_batch_free(batch)
        llama.llama_free(context)
        llama.llama_model_free(loaded)


def compare(source: Path, tokens: list[int]) -> float:
    """The largest difference of the two models' logits, as a share of their range."""
    import torch

    from turbosparse.train.source import open_source
    from turbosparse.train.surgery import TEACHER

    with torch.no_grad():
        ours = open_source(source).model().eval()(torch.tensor([tokens]), TEACHER)[0].numpy()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "f32.gguf"
        write_f32(source, file)
        theirs = llama_logits(file, tokens)
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


def main() -> int:
    """Command line."""
    from turbosparse.train.vocabulary import Vocabulary

    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="turbosparse.train.teacher_check", description=__doc__, formatter_class=raw)
    p.add_argument("source", type=Path, help="GGUF file of a SwiGLU model")
    p.add_argument("--text", default=TEXT)
    p.add_argument("--tolerance", type=float, default=1e-4)
    args = p.parse_args()
    tokens = Vocabulary(args.source).encode(args.text, special=True).tolist()
    error = compare(args.source, tokens)
    print(f"{len(tokens)} tokens: logits differ by {error:.1e} of their range; {args.tolerance:.0e} is allowed")
    return 0 if error <= args.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
