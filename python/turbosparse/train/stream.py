"""Token streams of the corpus and the batches cut from them. A batch is a pure function of (seed, step)."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import numpy as np
import numpy.typing as npt

from turbosparse.train.data import Corpus, Dialogue
from turbosparse.train.tokenizer import BOS, Tokenizer, chatml

Tokens = npt.NDArray[np.uint16]


def dialogue_text(turns: Dialogue) -> str:
    """ChatML of a dialogue; the first speaker is the user."""
    return chatml(zip(cycle(("user", "assistant")), turns, strict=False))


def build_streams(corpus: Corpus, tokenizer: Tokenizer) -> dict[str, Tokens]:
    """One long token array per group, every document and dialogue behind a BOS."""
    texts = {**corpus.prose, "chat": [dialogue_text(talk) for talk in corpus.chat]}
    return {group: join(docs, tokenizer) for group, docs in texts.items()}


def join(docs: list[str], tokenizer: Tokenizer) -> Tokens:
    """BOS doc BOS doc ..."""
    parts = [np.array([BOS, *tokenizer.encode(doc)], dtype=np.uint16) for doc in docs]
    return np.concatenate(parts)


def save_streams(streams: dict[str, Tokens], file: Path) -> None:
    """Writes the streams as one .npz."""
    np.savez(file, **streams)  # type: ignore[arg-type]  # numpy's stub takes the group names for options


def load_streams(file: Path) -> dict[str, Tokens]:
    """Reads what `save_streams` wrote."""
    with np.load(file) as stored:
        return {group: stored[group] for group in stored.files}


def batch_at(
    streams: dict[str, Tokens], mix: dict[str, float], shape: tuple[int, int], seed: int, step: int
) -> npt.NDArray[np.int64]:
    """Windows [batch, n_tokens + 1] from groups drawn by `mix`; the same for the same seed and step."""
    rng = np.random.default_rng((seed, step))
    groups = sorted(mix)
    weights = np.array([mix[g] for g in groups])
    n_rows, n_tokens = shape
    rows = []
    for g in rng.choice(len(groups), size=n_rows, p=weights / weights.sum()):
        stream = streams[groups[g]]
        at = int(rng.integers(0, len(stream) - n_tokens))
        rows.append(stream[at : at + n_tokens + 1])
    return np.stack(rows).astype(np.int64)
