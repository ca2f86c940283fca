"""A teacher's answers on disk, so that it runs once for many students: `python -m turbosparse.train.teacher_cache`.

A directory: meta.json (TeacherCacheMeta), head.npy (the teacher's output matrix, float32 [n_vocab, n_embd]) and parts,
part-00000.npz, ..., each with `tokens` [W, T + 1] of the shards' dtype, `last` float16 [W, T, E] (the final norm's
output: with the head it gives every logit) and `states` float16 [S, W, T, E] (the residual stream at the depths that
meta.json names, clamped to float16's range). Parts are zip archives with checksums and appear whole; several processes
write one directory with --share, and training may begin while they write: a reader waits for the part that it needs.
About 1.2 kB * (1 + S) per token at width 576.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from turbosparse.torch.decoder import CausalLM
from turbosparse.train.end_to_end import Answers
from turbosparse.train.faults import SettingsError, reported
from turbosparse.train.memory import lower_instead
from turbosparse.train.precision import add_dtype_option, autocast, dtype_for
from turbosparse.train.surgery import TEACHER
from turbosparse.train.walk import walk

META, HEAD = "meta.json", "head.npy"
FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class TeacherCacheMeta:
    """`states`: the depths (layers passed) whose residual was kept. `vocabulary`: as in the shards."""

    vocabulary: str
    n_vocab: int
    n_embd: int
    n_layer: int
    n_tokens: int
    n_windows: int
    n_parts: int
    states: tuple[int, ...]

    def write(self, path: Path) -> None:
        """As JSON."""
        (path / META).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> TeacherCacheMeta:
        """SettingsError if there is none, or another version's."""
        try:
            raw = json.loads((path / META).read_text(encoding="utf-8"))
            return cls(**{**raw, "states": tuple(raw["states"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SettingsError(
                f"{path / META}: {error}; make it: python -m turbosparse.train.teacher_cache", path=str(path)
            ) from error


def part_name(k: int) -> str:
    """File of part k."""
    return f"part-{k:05}.npz"


def answer(
    teacher: CausalLM, rows: Tensor, states: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> dict[str, npt.NDArray[Any]]:
    """The members of a part for windows int64 [W, T + 1], without their tokens."""
    kept: list[npt.NDArray[Any]] = []
    with torch.no_grad(), autocast(rows.device, dtype):
        h = None
        for i, place in enumerate(walk(teacher, rows[:, :-1], TEACHER)):
            h = place.finish(TEACHER)
            if i + 1 in states:
                kept.append(_half(h))
        last = _half(teacher.model.norm(h))
    return {"last": last, "states": np.stack(kept) if kept else np.empty((0, *last.shape), np.float16)}


def _half(x: Tensor) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = x.float().clamp(-FLOAT16_MAX, FLOAT16_MAX).half().cpu().numpy()
    return found


def write_parts(
    path: Path,
    meta: TeacherCacheMeta,
    teacher: CausalLM,
    windows: Callable[[int], npt.NDArray[np.int64]],
    parts: range,
    batch: int = 8,
    dtype: torch.dtype = torch.float32,
    say: Callable[[str], None] = print,
) -> None:
    """Parts that are not there yet; `windows(k)` are those of part k, int64 [W, T + 1]."""
    device = teacher.lm_head.weight.device
    start, n = time.monotonic(), 0
    for k in parts:
        if (path / part_name(k)).exists():
            continue
        rows = windows(k)
        with lower_instead(f"not enough memory for {batch} windows of {meta.n_tokens} tokens: lower --batch or --seq"):
            pieces = torch.from_numpy(rows).split(batch)
            made = [answer(teacher, piece.to(device), meta.states, dtype) for piece in pieces]
        last = np.concatenate([m["last"] for m in made])
        states = np.concatenate([m["states"] for m in made], axis=1)
        tokens = rows.astype(np.uint16 if meta.n_vocab <= 1 << 16 else np.uint32)
        part = path / f"{part_name(k)}.{os.getpid()}.part"
        with part.open("wb") as out:
            np.savez(out, tokens=tokens, last=last, states=states)
        os.replace(part, path / part_name(k))
        n += rows.shape[0] * meta.n_tokens
        say(f"{part_name(k)}: {n} tokens, {n / (time.monotonic() - start):.0f} per second")


class TeacherCache:
    """Reads a directory; `wait_s`: how long a missing part may take to appear."""

    def __init__(self, path: Path, seed: int = 1, wait_s: float = 900.0) -> None:
        self.path, self.seed, self.wait_s = path, seed, wait_s
        self.meta = TeacherCacheMeta.read(path)
        self.head = torch.from_numpy(np.load(path / HEAD))
        self._loaded: dict[int, dict[str, npt.NDArray[Any]]] = {}

    def check(self, n_vocab: int, n_embd: int, vocabulary: str | None) -> None:
        """SettingsError unless a student of this vocabulary and width can learn from it."""
        for key, mine, theirs in (
            ("n_vocab", n_vocab, self.meta.n_vocab),
            ("n_embd", n_embd, self.meta.n_embd),
            ("vocabulary", vocabulary or self.meta.vocabulary, self.meta.vocabulary),
        ):
            if mine != theirs:
                raise SettingsError(
                    f"{self.path / META}: {key} is {theirs}, the model's is {mine}; make the cache again",
                    key=key, expected=mine, found=theirs,
                )  # fmt: skip

    def check_length(self, n_tokens: int) -> None:
        """SettingsError unless its windows have that many tokens."""
        if n_tokens != self.meta.n_tokens:
            raise SettingsError(
                f"{self.path / META}: its windows have {self.meta.n_tokens} tokens: --seq {self.meta.n_tokens}, or "
                "make the cache again", key="n_tokens", expected=n_tokens, found=self.meta.n_tokens,
            )  # fmt: skip

    def rows(self, first: int, count: int) -> Answers:
        """Windows `first`.. of an endless sequence: all in order, then again and again with the parts shuffled."""
        picked = [self._window(first + i) for i in range(count)]
        tokens = torch.from_numpy(np.stack([p["tokens"][i] for p, i in picked]).astype(np.int64))
        last = torch.from_numpy(np.stack([p["last"][i] for p, i in picked]))
        states = {
            layer: torch.from_numpy(np.stack([p["states"][s, i] for p, i in picked]))
            for s, layer in enumerate(self.meta.states)
        }
        return Answers(tokens, (last.float() @ self.head.t()).float(), {k: v.float() for k, v in states.items()})

    def _window(self, index: int) -> tuple[dict[str, npt.NDArray[Any]], int]:
        meta = self.meta
        epoch, at = divmod(index, meta.n_parts * meta.n_windows)
        place, inside = divmod(at, meta.n_windows)
        order = np.arange(meta.n_parts)
        if epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(meta.n_parts)
        return self._part(int(order[place])), inside

    def _part(self, k: int) -> dict[str, npt.NDArray[Any]]:
        if k not in self._loaded:
            self._wait(k)
            if len(self._loaded) > 1:
                self._loaded.pop(next(iter(self._loaded)))
            try:
                with np.load(self.path / part_name(k)) as stored:
                    self._loaded[k] = {name: stored[name] for name in stored.files}
            except (zipfile.BadZipFile, ValueError, EOFError) as error:
                raise SettingsError(
                    f"{self.path / part_name(k)} is damaged ({error}); delete it and make it again", path=str(self.path)
                ) from error
        return self._loaded[k]

    def _wait(self, k: int) -> None:
        end = time.monotonic() + self.wait_s
        while not (self.path / part_name(k)).exists():
            if time.monotonic() > end:
                raise SettingsError(
                    f"{self.path / part_name(k)} is missing; run turbosparse.train.teacher_cache again, it goes on "
                    "where it stopped", path=str(self.path),
                )  # fmt: skip
            time.sleep(0.2)


class CacheMix:
    """Several caches of one teacher; each batch has rows of each, by weight."""

    def __init__(self, caches: list[tuple[TeacherCache, float]]) -> None:
        self.caches = caches

    @property
    def depths(self) -> tuple[int, ...]:
        """Whose residuals all of them have."""
        return tuple(sorted(set.intersection(*(set(cache.meta.states) for cache, _ in self.caches))))

    def batch(self, step: int, n_rows: int) -> Answers:
        """A pure function of `step`."""
        total = sum(weight for _, weight in self.caches)
        edges = np.cumsum([0.0] + [weight / total for _, weight in self.caches]) * n_rows
        counts = np.diff(np.round(edges).astype(int))
        made = [cache.rows(step * int(n), int(n)) for (cache, _), n in zip(self.caches, counts, strict=True) if n]
        states = {k: torch.cat([m.states[k] for m in made]) for k in self.depths}
        return Answers(torch.cat([m.tokens for m in made]), torch.cat([m.logits for m in made]), states)


def open_caches(texts: list[str], seed: int) -> CacheMix:
    """DIR or DIR=WEIGHT each."""
    caches = []
    for text in texts:
        path, _, weight = text.partition("=")
        caches.append((TeacherCache(Path(path), seed), float(weight or 1.0)))
    return CacheMix(caches)


def _weights(text: str) -> dict[str, float]:
    made: Mapping[str, Any] = json.loads(text)
    return {str(name): float(weight) for name, weight in made.items()}


def _share(text: str) -> tuple[int, int]:
    k, n = text.split("/")
    if not 0 <= int(k) < int(n):
        raise ValueError(text)
    return int(k), int(n)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="turbosparse.train.teacher_cache", description=__doc__, formatter_class=raw)
    p.add_argument("source", type=Path, help="Hugging Face directory or GGUF file of the teacher")
    p.add_argument("--data", type=Path, required=True, help="directory of token shards")
    p.add_argument("-o", "--out", type=Path, required=True, help="directory to write, or to go on with")
    p.add_argument("--parts", type=int, default=64)
    p.add_argument("--windows", type=int, default=32, help="per part")
    p.add_argument("--seq", type=int, default=256, help="tokens per window")
    p.add_argument("--batch", type=int, default=8, help="windows at once; lower it if memory runs out")
    p.add_argument("--states", type=lambda t: tuple(map(int, t.split(","))), default=(), metavar="6,12",
                   help="numbers of layers after which the residual stream is kept")  # fmt: skip
    p.add_argument("--mix", type=_weights, metavar="JSON", help='stream weights instead of the mixture\'s: {"chat": 1}')
    p.add_argument("--share", type=_share, default=(0, 1), metavar="K/N", help="write only every N-th part, from K on")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", default="auto")
    add_dtype_option(p)
    p.add_argument("--threads", type=int, default=1)
    return p


def run(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The command."""
    from turbosparse.train.shards import Shards
    from turbosparse.train.source import open_source

    torch.set_num_threads(args.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    source, shards = open_source(args.source), Shards(args.data)
    shards.check(source.config.vocab_size, source.tokenizer.sha256 if source.tokenizer else None)
    teacher = source.model().to(device).eval().requires_grad_(False)
    args.out.mkdir(parents=True, exist_ok=True)
    config = source.config
    sizes = (config.vocab_size, config.hidden_size, config.num_hidden_layers, args.seq, args.windows, args.parts)
    meta = TeacherCacheMeta(shards.tokenizer, *sizes, tuple(args.states))
    if args.share[0] == 0:
        np.save(args.out / HEAD, teacher.lm_head.weight.detach().float().cpu().numpy())
        meta.write(args.out)

    def windows(k: int) -> npt.NDArray[np.int64]:
        return shards.sample(np.random.default_rng((args.seed, k)), args.windows, args.seq, args.mix)

    parts, dtype = range(args.share[0], args.parts, args.share[1]), dtype_for(args.dtype, device)
    write_parts(args.out, meta, teacher, windows, parts, args.batch, dtype, say)
    return 0


def main() -> int:
    """Command line."""
    args = _parser().parse_args()
    return reported(lambda: run(args, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    sys.exit(main())
