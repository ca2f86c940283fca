"""From a mixture to token shards: fetch, read, deduplicate, hold out, count, trim the vocabulary, tokenise, write.

    python -m turbosparse.train.data SRC -o SHARDS [--mixture FILE] [--trim N]

SRC is the model whose tokenizer is used. Only public-domain text and text under CC0, MIT, BSD, Apache or PSF
licences is read; other licences must be named: --licences PostgreSQL WordNet.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from turbosparse.train.archive import ArchiveError
from turbosparse.train.corpora import Document, read
from turbosparse.train.dedupe import Deduplicator
from turbosparse.train.fetch import FetchError, default_cache, fetch
from turbosparse.train.mixture import PERMISSIVE, REFERENCE, Mixture, MixtureError, StreamPlan, load_mixture
from turbosparse.train.shards import META, ShardWriter
from turbosparse.train.trim import TrimError, kept_ids, save_map, trim_gguf
from turbosparse.train.vocabulary import Vocabulary, VocabularyError, open_vocabulary

MAP, COUNTS, REPORT = "vocab-map.json", "vocab-counts.json", "report.json"
MIN_TOKENS = 1000  # less text than this trains nothing
Say = Callable[[str], None]


class PrepareError(Exception):
    """Text or licences that do not do; exit code 4. `data` holds what the message says."""

    exit_code = 4

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = data


@dataclass
class Stream:
    """A stream's clean documents, trained on and held out."""

    plan: StreamPlan
    train: list[Document] = field(default_factory=list)
    heldout: list[Document] = field(default_factory=list)
    raw_chars: int = 0

    @property
    def chars(self) -> int:
        """Clean characters, held-out ones included."""
        return sum(map(_chars, [*self.train, *self.heldout]))


def _chars(document: Document) -> int:
    return len(document.text) + sum(map(len, document.turns))


def load_streams(mixture: Mixture, cache: Path, share: float = 1.0, say: Say = print) -> list[Stream]:
    """Fetches and reads every stream, holds out its last documents, and removes what occurs twice anywhere.

    All held-out parts are deduplicated first: training text that repeats one of them is dropped. `share` keeps only
    that part of each stream, for trials.
    """
    streams = [_read_stream(plan, cache, share) for plan in mixture.streams]
    dedupe = Deduplicator()
    for stream in streams:
        stream.heldout = list(_unseen(stream.heldout, dedupe))
    for stream in streams:
        stream.train = list(_unseen(stream.train, dedupe))
        say(f"{stream.plan.name:14} {stream.raw_chars / 1e6:7.2f} MB read, {stream.chars / 1e6:7.2f} MB clean")
    return streams


def _read_stream(plan: StreamPlan, cache: Path, share: float) -> Stream:
    package = fetch(plan.source, cache)
    documents = list(read(plan.reader, package, plan.files))
    documents = documents[: max(1, round(len(documents) * share))]
    if not documents:
        raise PrepareError(
            f"stream {plan.name}: reader {plan.reader} found no text in {plan.source.file} with files {plan.files!r}",
            stream=plan.name,
        )
    n_heldout = round(len(documents) * plan.heldout)
    cut = len(documents) - n_heldout
    return Stream(plan, documents[:cut], documents[cut:], sum(map(_chars, documents)))


def _unseen(documents: list[Document], dedupe: Deduplicator) -> Iterator[Document]:
    for document in documents:
        if document.kind == "chat":
            if dedupe.text("\n\n".join(document.turns)):
                yield document  # whole or not at all: a dialogue with a turn missing makes no sense
            continue
        text = dedupe.code(document.text) if document.kind == "code" else dedupe.text(document.text)
        if len(text) >= 100:
            yield Document(text, document.kind)


def count_tokens(streams: list[Stream], vocabulary: Vocabulary, threads: int = 2) -> npt.NDArray[np.float64]:
    """How often each id occurs in the mixture: shares of each stream's tokens, weighted; float64 [n_vocab]."""
    counts = np.zeros(vocabulary.n_vocab)
    for stream in streams:
        ids = vocabulary.join(stream.train, threads)
        found = np.bincount(ids, minlength=vocabulary.n_vocab).astype(np.float64)
        counts += found * (stream.plan.weight / max(len(ids), 1))
    return counts


def write_shards(
    streams: list[Stream], vocabulary: Vocabulary, out: Path, threads: int = 2, say: Say = print
) -> dict[str, Any]:
    """Tokenises and writes; returns the report: clean MB, tokens and characters per token by stream."""
    writer = ShardWriter(out, vocabulary.sha256, vocabulary.n_vocab, vocabulary.separator)
    report: dict[str, Any] = {}
    for stream in streams:
        plan, name = stream.plan, stream.plan.name
        train, heldout = (vocabulary.join(docs, threads).astype(np.uint32) for docs in (stream.train, stream.heldout))
        package = f"{plan.source.client}:{plan.source.name}=={plan.source.version}"
        writer.add(name, train, heldout, licence=plan.source.licence, package=package, weight=plan.weight)
        _write_heldout(out / f"heldout-{name}.txt", stream.heldout, vocabulary)
        report[name] = {
            "clean_mb": round(stream.chars / 1e6, 3), "tokens": len(train), "heldout_tokens": len(heldout),
            "licence": plan.source.licence, "package": package, "weight": plan.weight,
        }  # fmt: skip
        say(f"{name:14} {len(train) / 1e6:7.3f} M tokens, {len(heldout) / 1e3:6.1f} k held out")
    total = sum(entry["tokens"] for entry in report.values())
    if total < MIN_TOKENS:
        raise PrepareError(f"the text is too short: {total} tokens, at least {MIN_TOKENS} are needed", found=total)
    writer.close()
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    say(f"{'together':14} {total / 1e6:7.3f} M tokens")
    return report


def _write_heldout(path: Path, documents: list[Document], vocabulary: Vocabulary) -> None:
    """The held-out text itself, for `turbosparse perplexity` and models with another vocabulary."""
    path.unlink(missing_ok=True)
    texts = [vocabulary.render(d.turns) if d.kind == "chat" else d.text for d in documents]
    if texts:
        path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")


def prepare(
    source: Path, out: Path, mixture: Mixture, cache: Path, trim: int = 0, share: float = 1.0, threads: int = 2,
    say: Say = print,
) -> None:  # fmt: skip
    """The whole way; also heldout-NAME.txt. With `trim` > 0 also vocab-map.json, and shards in the new ids."""
    vocabulary = open_vocabulary(source)
    streams = load_streams(mixture, cache, share, say)
    out.mkdir(parents=True, exist_ok=True)
    counts = count_tokens(streams, vocabulary, threads)
    _write_counts(out / COUNTS, counts)
    (out / MAP).unlink(missing_ok=True)
    if trim:
        keep = _trim_map(source, counts, trim)
        save_map(out / MAP, keep)
        lost = 1.0 - counts[keep].sum() / counts.sum()
        say(f"vocabulary {vocabulary.n_vocab} -> {len(keep)}: {lost:.3%} of the weighted tokens are spelled in parts")
        vocabulary = trimmed_vocabulary(source, keep)
    write_shards(streams, vocabulary, out, threads, say)


def _write_counts(path: Path, counts: npt.NDArray[np.float64]) -> None:
    """Coverage of the most frequent ids: {"occurring": n, "coverage": {"8192": 0.93, ...}}."""
    falling = np.sort(counts)[::-1]
    total = max(falling.sum(), 1e-300)
    sizes = [n for n in (4096, 8192, 12288, 16384, 24576, 32768) if n < len(counts)]
    coverage = {str(n): round(float(falling[:n].sum() / total), 5) for n in sizes}
    path.write_text(json.dumps({"occurring": int((counts > 0).sum()), "coverage": coverage}) + "\n", encoding="utf-8")


def _trim_map(source: Path, counts: npt.NDArray[np.float64], n: int) -> list[int]:
    from turbosparse.convert.ggufile import GGUFFile

    if not source.is_file():
        raise TrimError(f"{source}: only the vocabulary of a GGUF file can be cut; convert the checkpoint first")
    with GGUFFile(source) as file:
        return kept_ids(file, counts, n)


def trimmed_vocabulary(source: Path, keep: Sequence[int]) -> Vocabulary:
    """The vocabulary that a trimmed model will have."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "vocabulary.gguf"
        trim_gguf(source, file, keep, tensors=False)
        return Vocabulary(file)


def _permitted(mixture: Mixture, licences: list[str], skip: bool, say: Say) -> Mixture:
    """The streams that may be read; others are an error, or left out when nobody asked for them by name."""
    refused = {plan.name: plan.source.licence for plan in mixture.refused(licences)}
    if refused and not skip:
        name, licence = next(iter(refused.items()))
        raise MixtureError(
            f"stream {name} is under {licence}; without --licences only {', '.join(PERMISSIVE)} are read",
            key=f"streams.{name}",
            found=licence,
        )
    for name, licence in refused.items():
        say(f"{name:14} left out: {licence} (--licences {licence} takes it in)")
    return mixture.only(plan.name for plan in mixture.streams if plan.name not in refused)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m turbosparse.train.data", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("source", type=Path, help="GGUF file, or Hugging Face directory with tokenizer.model")
    parser.add_argument("-o", "--out", type=Path, required=True, help=f"directory to write: NAME.bin, {META}, {REPORT}")
    parser.add_argument("--mixture", type=Path, default=REFERENCE, help="YAML file, see mixtures/reference.yaml")
    parser.add_argument("--streams", nargs="+", metavar="NAME", help="only these streams of the mixture")
    parser.add_argument("--licences", nargs="+", default=[], metavar="ID", help="licences to allow beyond the default")
    parser.add_argument("--trim", type=int, default=0, metavar="N", help=f"cut the vocabulary to N ids; writes {MAP}")
    parser.add_argument("--share", type=float, default=1.0, help="share of every stream to use, for trials")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where the packages are kept")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code. Errors that a user can cause are one line."""
    args = _parser().parse_args(argv)

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        mixture = load_mixture(args.mixture)
        mixture = mixture.only(args.streams) if args.streams else mixture
        mixture = _permitted(mixture, args.licences, skip=not args.streams, say=say)
        prepare(args.source, args.out, mixture, args.cache, args.trim, args.share, args.threads, say)
    except (PrepareError, MixtureError, FetchError, ArchiveError, TrimError, VocabularyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return int(getattr(error, "exit_code", 4))
    except OSError as error:
        print(f"error: {error}; free space or name another directory", file=sys.stderr)
        return 5
    return 0
