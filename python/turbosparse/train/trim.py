"""A smaller vocabulary for a byte-level BPE model: which ids to keep, and the GGUF file with only those rows.

Text whose tokens are all kept is tokenised exactly as before: the kept set is closed under merges (both halves of
every kept token are kept), so every merge on the way to a kept token remains, and no other applied.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf.constants import GGUFValueType as V

from turbosparse.convert.ggufile import GGUFFile, Info

TOKENS = "tokenizer.ggml.tokens"
TYPES = "tokenizer.ggml.token_type"
SCORES = "tokenizer.ggml.scores"
MERGES = "tokenizer.ggml.merges"
ROWS_BY_TOKEN = ("token_embd.weight", "output.weight")
NORMAL = 1  # llama.cpp's token type

KV = dict[str, tuple[V, Any, "V | None"]]


class TrimError(Exception):
    """A vocabulary that cannot be cut as asked. `data` holds expected and found; exit code 3."""

    exit_code = 3

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = data


def kept_ids(file: GGUFFile, counts: npt.NDArray[np.float64], n: int) -> list[int]:
    """The `n` ids to keep, ascending: special and byte tokens, then by falling count, each with its merge halves."""
    tokens: list[str] = file.get(TOKENS) or []
    merges: list[str] | None = file.get(MERGES)
    if merges is None or file.get("tokenizer.ggml.model") != "gpt2":
        raise TrimError(f"{file.path}: only byte-level BPE vocabularies (tokenizer.ggml.model gpt2) can be cut")
    if len(counts) != len(tokens):
        raise TrimError(f"{len(tokens)} tokens, but {len(counts)} counts", expected=len(tokens), found=len(counts))
    ids = {token: i for i, token in enumerate(tokens)}
    halves = _halves(merges, ids)
    types = file.get(TYPES) or [NORMAL] * len(tokens)
    keep = {i for i, token in enumerate(tokens) if types[i] != NORMAL or i not in halves}
    if not len(keep) <= n <= len(tokens):
        raise TrimError(f"--trim {n}: expected {len(keep)} to {len(tokens)}", expected=len(keep), found=n)
    for i in np.argsort(-counts, kind="stable"):
        new = _closure(int(i), halves) - keep
        if len(keep) + len(new) <= n:
            keep |= new
        if len(keep) == n:
            break
    return sorted(keep)


def _halves(merges: Sequence[str], ids: dict[str, int]) -> dict[int, tuple[int, int]]:
    out: dict[int, tuple[int, int]] = {}
    for merge in merges:
        left, right = merge.split(" ", 1)
        made = ids.get(left + right)
        if made is not None:
            out.setdefault(made, (ids[left], ids[right]))
    return out


def _closure(i: int, halves: dict[int, tuple[int, int]]) -> set[int]:
    out: set[int] = set()
    todo = [i]
    while todo:
        token = todo.pop()
        if token not in out:
            out.add(token)
            todo += halves.get(token, ())
    return out


def copy_kv(file: GGUFFile) -> KV:
    """Every key of a file as `write_gguf` takes it."""
    return {key: (v.vtype, v.value, v.sub_type) for key, v in file.values.items() if key != "general.alignment"}


def trimmed_kv(file: GGUFFile, keep: Sequence[int]) -> KV:
    """The keys of `file` for the vocabulary `keep`: lists cut, merges filtered, special ids renumbered."""
    kv = copy_kv(file)
    new = {old: i for i, old in enumerate(keep)}
    tokens = [file.get(TOKENS)[i] for i in keep]
    kept = set(tokens)
    for key in (TOKENS, TYPES, SCORES):
        if key in kv:
            vtype, items, sub_type = kv[key]
            kv[key] = (vtype, [items[i] for i in keep], sub_type)
    merges = [m for m in file.get(MERGES) if m.replace(" ", "", 1) in kept and kept.issuperset(m.split(" ", 1))]
    kv[MERGES] = (V.ARRAY, merges, V.STRING)
    for key, (vtype, value, sub_type) in list(kv.items()):
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            if value not in new:
                raise TrimError(f"{file.path}: {key} {value} is not among the kept ids", key=key, found=value)
            kv[key] = (vtype, new[value], sub_type)
        elif key.endswith(".vocab_size"):
            kv[key] = (vtype, len(keep), sub_type)
    return kv


def trim_gguf(source: Path, out: Path, keep: Sequence[int], tensors: bool = True) -> None:
    """Writes `source` with the vocabulary `keep`; rows are copied as stored, so no weight changes."""
    with GGUFFile(source) as file:
        kv = trimmed_kv(file, keep)
        write_gguf(out, kv, file if tensors else None, np.asarray(keep, dtype=np.int64))


def write_gguf(out: Path, kv: KV, file: GGUFFile | None = None, keep: npt.NDArray[np.int64] | None = None) -> None:
    """A GGUF file of keys and, with `file`, its tensors; `keep` selects the rows of the token matrices."""
    writer = write_kv(out, kv)
    alignment = file.get("general.alignment") if file else None
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for info in file.tensors.values() if file else ():
        assert file is not None
        rows = file.rows(info, 0, info.n_rows)
        if keep is not None and info.name in ROWS_BY_TOKEN:
            rows = rows[keep]
        _add_tensor(writer, info, rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_kv(out: Path, kv: KV) -> gguf.GGUFWriter:
    """A writer that has the keys and no tensors yet."""
    arch = str(kv["general.architecture"][1]) if "general.architecture" in kv else "llama"
    writer = gguf.GGUFWriter(out, arch)
    for key, (vtype, value, sub_type) in kv.items():
        if key != "general.architecture" and value != []:  # the writer refuses empty lists
            writer.add_key_value(key, _bytes(value), vtype, sub_type)
    return writer


def _bytes(value: Any) -> Any:
    """Strings as the bytes they came from."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return [_bytes(item) for item in value] if isinstance(value, list) else value


def _add_tensor(writer: gguf.GGUFWriter, info: Info, rows: npt.NDArray[np.uint8]) -> None:
    """Bytes [n_rows, row_bytes] as the tensor they are; dimensions beyond two keep their order."""
    outer = [*reversed(info.shape[1:])]
    shape = [len(rows)] if len(outer) == 1 else outer  # a token matrix may have fewer rows than before
    data = np.ascontiguousarray(rows).reshape([*shape, info.row_bytes])
    writer.add_tensor(info.name, data, raw_dtype=info.qtype)


def save_map(path: Path, keep: Sequence[int]) -> None:
    """vocab-map.json: {"keep": [old ids in new order]}."""
    path.write_text(json.dumps({"keep": list(keep)}) + "\n", encoding="utf-8")


def load_map(path: Path) -> list[int]:
    """What `save_map` wrote."""
    return [int(i) for i in json.loads(path.read_text(encoding="utf-8"))["keep"]]


def main(argv: list[str] | None = None) -> int:
    """`python -m turbosparse.train.trim SRC.gguf vocab-map.json -o OUT.gguf`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("map", type=Path, help="vocab-map.json of turbosparse.train.data --trim")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args(argv)
    trim_gguf(args.source, args.out, load_map(args.map))
    print(f"{args.out}: {args.out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
