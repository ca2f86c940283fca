"""Small packages and a small byte-level BPE model, made on the spot: no test downloads anything."""

from __future__ import annotations

import hashlib
import io
import itertools
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import gguf
import numpy as np
import yaml
from turbosparse.train.fetch import Source

TEXT = """the a river house of and to small great tree walks under over bright morning letter reads writes about old
new friend answer question city garden winter summer road stone light paper number engine table window water"""
WORDS = TEXT.split()


def sentence(rng: np.random.Generator, n: int = 14) -> str:
    return " ".join(rng.choice(WORDS, n)).capitalize() + "."


def paragraphs(seed: int, n: int = 12) -> str:
    rng = np.random.default_rng(seed)
    return "\n\n".join(" ".join(sentence(rng) for _ in range(4)) for _ in range(n))


def wheel(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def tar(files: dict[str, bytes], mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{mode}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def deb(path: Path, files: dict[str, bytes]) -> Path:
    body = tar({f"./{name}": content for name, content in files.items()}, "xz")
    out = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("data.tar.xz", body)):
        out += f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    path.write_bytes(out)
    return path


def source(path: Path, licence: str = "MIT", client: str = "pip") -> Source:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Source(client, path.stem, "1.0", path.name, digest, licence)


def mixture_yaml(path: Path, sources: dict[str, Source], streams: dict[str, dict]) -> Path:
    packages = {name: vars(s) for name, s in sources.items()}
    path.write_text(yaml.safe_dump({"packages": packages, "streams": streams}))
    return path


def byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(other)) for b in range(256)]


def bpe_model(path: Path, n_merges: int = 120, n_embd: int = 32) -> Path:
    """A GGUF file with a BPE vocabulary learned from WORDS, and two matrices with a row per token."""
    letters = byte_letters()
    words = Counter({tuple(letters[b] for b in f" {word}".encode()): 1 + i for i, word in enumerate(WORDS)})
    merges: list[tuple[str, str]] = []
    for _ in range(n_merges):
        pairs = Counter(pair for word, n in words.items() for pair in itertools.pairwise(word) for _ in range(n))
        if not pairs:
            break
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        words = Counter({_merged(word, merges[-1]): n for word, n in words.items()})
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = special + letters + [left + right for left, right in merges]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(special) + [1] * (len(tokens) - len(special)))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_vocab_size(len(tokens))
    rows = np.arange(len(tokens) * n_embd, dtype=np.float32).reshape(len(tokens), n_embd)
    writer.add_tensor("token_embd.weight", rows)
    writer.add_tensor("output_norm.weight", np.ones(n_embd, np.float32))
    writer.add_tensor("blk.0.ffn_gate_exps.weight", np.ones((2, 3, n_embd), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for letter in word:
        if out and (out[-1], letter) == pair:
            out[-1] += letter
        else:
            out.append(letter)
    return tuple(out)
