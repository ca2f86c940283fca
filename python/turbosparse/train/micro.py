"""Trains one of the bundled micro checkpoints from scratch: `python -m turbosparse.train.micro mistral|moe -o DIR`.

Keeps its state in DIR/train (tokens, state.pt, log.csv) and writes the finished Hugging Face layout into DIR.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import torch

from turbosparse.torch import save
from turbosparse.train.data import DEFAULT_CACHE, Corpus, load_corpus
from turbosparse.train.recipe import RECIPES
from turbosparse.train.stream import Tokens, build_streams, load_streams, save_streams
from turbosparse.train.tokenizer import Tokenizer, train_pieces, write_files
from turbosparse.train.trainer import Budget, CsvLog, Trainer

# Small enough that each checkpoint has two shards, as anything that reads real ones must cope with.
SHARD_BYTES = 2_500_000


def prepare(work: Path, cache: Path) -> tuple[Tokenizer, dict[str, Tokens]]:
    """Vocabulary and token streams of a run, made once and kept in `work`."""
    work.mkdir(parents=True, exist_ok=True)
    tokens = work / "tokens.npz"
    if not tokens.exists():
        corpus = load_corpus(cache)
        tokenizer = Tokenizer(train_pieces(vocabulary_text(corpus)))
        write_files(tokenizer, work)
        save_streams(build_streams(corpus, tokenizer), tokens)
    return Tokenizer.load(work), load_streams(tokens)


def vocabulary_text(corpus: Corpus) -> list[str]:
    """The lines the vocabulary is learned from: all prose, all turns."""
    prose = [line for docs in corpus.prose.values() for doc in docs for line in doc.split("\n")]
    return prose + [turn for talk in corpus.chat for turn in talk]


def train(trainer: Trainer, work: Path, log_every: int, save_every: float) -> None:
    """Runs to the end of the budget; writes the state every `save_every` seconds and at the end."""
    log = CsvLog(work / "log.csv", trainer.n_steps)
    saved = time.monotonic()
    while trainer.progress < 1.0:
        row = trainer.step()
        if trainer.n_steps % log_every == 0:
            log.write(row)
            shown = " ".join(f"{key} {row[key]:.3f}" for key in ("loss", "zero_rate", "recall", "precision"))
            print(f"{row['step']:6} {trainer.progress:6.1%} {row['phase']:6} {shown}", flush=True)
        if time.monotonic() - saved > save_every:
            trainer.save(work / "state.pt")
            saved = time.monotonic()
    trainer.save(work / "state.pt")
    log.close()


def export(trainer: Trainer, tokenizer: Tokenizer, out: Path) -> None:
    """The checkpoint directory: bf16 shards, configs, tokenizer files, and the loss log."""
    save(trainer.model, out, torch.bfloat16, SHARD_BYTES)
    write_files(tokenizer, out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=sorted(RECIPES))
    parser.add_argument("-o", "--out", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument("--minutes", type=float, default=30.0, help="training time; phases are shares of it")
    parser.add_argument("--steps", type=int, help="instead of --minutes: a fixed number of steps, reproducible")
    parser.add_argument("--resume", action="store_true", help="continue from DIR/train/state.pt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile, a fifth faster; needs a C++ compiler")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where the text packages are kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    work = args.out / "train"
    if not args.resume:
        shutil.rmtree(work, ignore_errors=True)
    tokenizer, streams = prepare(work, args.cache)
    trainer = Trainer(RECIPES[args.family], streams, Budget(args.steps, args.minutes * 60), args.compile)
    if args.resume and (work / "state.pt").exists():
        trainer.resume(work / "state.pt")
    train(trainer, work, log_every=50, save_every=60)
    export(trainer, tokenizer, args.out)


if __name__ == "__main__":
    main()
