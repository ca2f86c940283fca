"""Dialogues that a chat model writes itself: `python -m turbosparse.train.instruct SRC --data SHARDS -o OUT`.

SRC is a ChatML model (the teacher), SHARDS a directory of tokens made for it. Each window is one context: half of the
talks begin with a user's first words from the permissive dialogue stream of SHARDS, half with words that the model
writes on the user's behalf; the model answers, and writes the user's next words too, for one to three exchanges; then
the next talk begins. OUT receives shards with the single stream `instruct`, and a held-out part. On a GPU about
512 rows fit at once; on a CPU 64 rows give a few hundred tokens per second.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from turbosparse.torch.decoder import CausalLM
from turbosparse.train.faults import SettingsError, reported
from turbosparse.train.lockstep import Lockstep, pick
from turbosparse.train.memory import lower_instead
from turbosparse.train.precision import add_dtype_option, dtype_for
from turbosparse.train.shards import Shards, ShardWriter
from turbosparse.train.surgery import TEACHER

PREAMBLE = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
STREAM = "instruct"
TURNS = 3  # exchanges per talk, at most
OTHER = {"user": "assistant", "assistant": "user"}


@dataclass(frozen=True)
class Markers:
    """Token ids that a dialogue is made of. `openings`: <|im_start|>ROLE newline; `closing`: <|im_end|>."""

    openings: dict[str, list[int]]
    closing: int
    newline: list[int]
    separator: int
    specials: frozenset[int]
    preamble: list[int]


class Talk:
    """One row: what it has to say next, or that the model shall say it."""

    def __init__(self, markers: Markers, seeds: Sequence[Sequence[int]], rng: np.random.Generator) -> None:
        self.markers, self.seeds, self.rng = markers, seeds, rng
        self.tokens: list[int] = []
        self._due: deque[int] = deque()
        self._begin()

    def next(self, sampled: int) -> int:
        """The row's next token: what is due, or what the model sampled. A special token ends the turn."""
        if self._due:
            token = self._due.popleft()
        elif sampled in self.markers.specials:
            token = self.markers.closing
            self._end_turn()
        else:
            token = sampled
        self.tokens.append(token)
        return token

    def _begin(self) -> None:
        m = self.markers
        self._left = int(self.rng.integers(1, TURNS + 1))
        self._role = "user"
        self._due.append(m.separator)
        if self.rng.random() < 0.5:
            self._due.extend(m.preamble)
        self._due.extend(m.openings["user"])
        if self.seeds and self.rng.random() < 0.5:
            self._due.extend([*self.seeds[int(self.rng.integers(len(self.seeds)))], m.closing])
            self._end_turn()

    def _end_turn(self) -> None:
        self._due.extend(self.markers.newline)
        if self._role == "assistant":
            self._left -= 1
            if self._left == 0:
                return self._begin()
        self._role = OTHER[self._role]
        self._due.extend(self.markers.openings[self._role])
        return None


def first_words(stream: npt.NDArray[Any], markers: Markers, limit: int = 48) -> list[list[int]]:
    """What users say first in a stream of ChatML dialogues, at most `limit` tokens each."""
    opening = [markers.separator, *markers.openings["user"]]
    found = []
    for at in np.flatnonzero(np.asarray(stream) == markers.separator):
        words = np.asarray(stream[at : at + len(opening) + limit + 1]).tolist()
        if words[: len(opening)] == opening and markers.closing in words[len(opening) :]:
            body = words[len(opening) :]
            found.append(body[: body.index(markers.closing)])
    return found


def write_talks(
    model: CausalLM,
    markers: Markers,
    seeds: Sequence[Sequence[int]],
    n_rows: int,
    n_tokens: int,
    seed: int,
    temp: float = 0.8,
    top_k: int = 50,
) -> npt.NDArray[np.int64]:
    """Contexts [n_rows, n_tokens]."""
    device = model.lm_head.weight.device
    rng = torch.Generator(device).manual_seed(seed)
    talks = [Talk(markers, seeds, np.random.default_rng((seed, i))) for i in range(n_rows)]
    lockstep = Lockstep(model, n_rows, n_tokens, TEACHER)
    sampled = [0] * n_rows
    for _ in range(n_tokens):
        taken = torch.tensor([talk.next(s) for talk, s in zip(talks, sampled, strict=True)], device=device)
        sampled = pick(lockstep.step(taken), temp, top_k, rng).tolist()
    return np.array([talk.tokens for talk in talks])


def read_markers(tokenizer: Any, encode: Callable[[str], list[int]], separator: int) -> Markers:
    """SettingsError if the model has no ChatML."""
    at = {token: i for i, token in enumerate(tokenizer.tokens)}
    if "<|im_start|>" not in at or "<|im_end|>" not in at:
        raise SettingsError("the model has no <|im_start|> and <|im_end|>: only ChatML models can write dialogues")
    openings = {role: encode(f"<|im_start|>{role}\n") for role in OTHER}
    specials = frozenset(tokenizer.special)
    return Markers(openings, at["<|im_end|>"], encode("\n"), separator, specials, encode(PREAMBLE))


def write_shards(shards: Shards, rows: npt.NDArray[np.int64], out: Path, weight: float, join: bool) -> None:
    """The talks as a stream, two percent of them held out; `join`: beside all streams of `shards`."""
    held = max(len(rows) // 50, 1)
    writer = ShardWriter(out, shards.tokenizer, shards.n_vocab, shards.meta["separator"])
    if join:
        writer.take(shards)
    about = {"licence": "as the model's", "package": "written by the teacher", "weight": weight}
    ids = rows.astype(np.uint32)
    writer.add(STREAM, ids[held:].ravel(), ids[:held].ravel(), **about)
    writer.close()


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="turbosparse.train.instruct", description=__doc__, formatter_class=raw)
    p.add_argument("source", type=Path, help="Hugging Face directory or GGUF file of a ChatML model")
    p.add_argument("--data", type=Path, required=True, help="directory of token shards of its vocabulary")
    p.add_argument("-o", "--out", type=Path, required=True, help="directory of shards to write")
    p.add_argument("--seeds", default="chat", help="the stream of SHARDS whose dialogues give users' first words")
    p.add_argument("--tokens", type=int, default=100_000, help="to write, in all")
    p.add_argument("--minutes", type=float, default=float("inf"), help="stop after that time, with what there is")
    p.add_argument("--rows", type=int, default=64, help="at once; lower it if memory runs out")
    p.add_argument("--seq", type=int, default=257, help="tokens per context")
    p.add_argument("--temp", type=float, default=0.8)
    p.add_argument("--top-k", type=int, default=50)
    p.add_argument("--join", action="store_true", help="OUT also gets the streams of SHARDS, to train on both")
    p.add_argument("--weight", type=float, default=1.0, help="of the stream in mixtures")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", default="auto")
    add_dtype_option(p)
    p.add_argument("--threads", type=int, default=1)
    return p


def run(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The command."""
    from turbosparse.train.source import open_source

    torch.set_num_threads(args.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    source, shards = open_source(args.source), Shards(args.data)
    if source.tokenizer is None:
        raise SettingsError(f"{args.source}: its tokenizer is not a byte-level BPE")
    shards.check(source.config.vocab_size, source.tokenizer.sha256)
    markers = read_markers(source.tokenizer, source.tokenizer.encode_plain, shards.meta["separator"])
    seeds = first_words(shards.streams[args.seeds], markers) if args.seeds in shards.streams else []
    say(f"{len(seeds)} first words in stream {args.seeds}")
    model = source.model().to(device, dtype_for(args.dtype, device)).eval()
    made: list[npt.NDArray[np.int64]] = []
    start = time.monotonic()
    while sum(part.size for part in made) < args.tokens and (time.monotonic() - start) / 60 < args.minutes:
        with lower_instead(f"not enough memory for {args.rows} contexts of {args.seq} tokens: lower --rows"):
            sizes = (args.rows, args.seq, args.seed + len(made))
            made.append(write_talks(model, markers, seeds, *sizes, args.temp, args.top_k))
        n = sum(part.size for part in made)
        say(f"{n} tokens, {n / (time.monotonic() - start):.0f} per second")
        write_shards(shards, np.concatenate(made), args.out, args.weight, args.join)
    return 0


def main() -> int:
    """Command line."""
    args = _parser().parse_args()
    return reported(lambda: run(args, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    sys.exit(main())
