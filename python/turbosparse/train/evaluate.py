"""Measures a checkpoint: `python -m turbosparse.train.evaluate DIR --text FILE` prints the tables of models/README.md.

Perplexity per token over windows of 256 (BOS included in each, not predicted), with the predictors' mask (as
Hugging Face runs it) and without; zero rate, predictor recall and precision per layer; sample text.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from turbosparse.torch import Place, generate, load
from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run
from turbosparse.train.tokenizer import BOS, Tokenizer, chatml

WINDOW = 256
BATCH = 16
CHAT = chatml([("user", "Hello! How are you today?")]) + "<|im_start|>assistant\n"
PROMPTS = ("She was", "The whale", "It is the duty of", CHAT)


@dataclass
class LayerCounts:
    """Neurons of one layer (all its experts), summed over tokens: seen, non-zero, kept by the predictor, both.

    `mass` and `mass_hit` are the sums of the values themselves, of all neurons and of the kept ones.
    """

    n: int = 0
    n_active: int = 0
    n_kept: int = 0
    n_hit: int = 0
    mass: float = 0.0
    mass_hit: float = 0.0

    def rates(self) -> dict[str, float]:
        """zero: no mask; masked: zero after it; recall and precision of the predictor; weighted: recall by value."""
        return {
            "zero": 1 - self.n_active / self.n,
            "masked": 1 - self.n_hit / self.n,
            "kept": self.n_kept / self.n,
            "recall": self.n_hit / max(self.n_active, 1),
            "weighted": self.mass_hit / max(self.mass, 1e-30),
            "precision": self.n_hit / max(self.n_kept, 1),
        }


class Counter:
    """An Observer that counts per layer."""

    wants_logits = True

    def __init__(self, n_layer: int) -> None:
        self.layers = [LayerCounts() for _ in range(n_layer)]

    def ffn(self, place: Place, act: Tensor, logits: Tensor | None) -> None:
        """Adds one FFN's neurons to its layer."""
        active = act > 0
        kept = torch.ones_like(active) if logits is None else logits > 0
        counts = self.layers[place.layer]
        counts.n += active.numel()
        counts.n_active += int(active.sum())
        counts.n_kept += int(kept.sum())
        counts.n_hit += int((active & kept).sum())
        counts.mass += float(act.float().sum())
        counts.mass_hit += float((act.float() * kept).sum())

    def router(self, layer: int, probs: Tensor, chosen: Tensor) -> None:
        """Routing is not counted."""


def windows(tokens: list[int]) -> Tensor:
    """[n, WINDOW] int64: BOS and WINDOW - 1 tokens of the text in each row; the incomplete last row is left out."""
    body = WINDOW - 1
    rows = [[BOS, *tokens[at : at + body]] for at in range(0, len(tokens) - body + 1, body)]
    if not rows:
        raise ValueError(f"the text has {len(tokens)} tokens, {body} are needed")
    return torch.tensor(rows)


def measure(model: CausalLM, rows: Tensor, dense: bool) -> tuple[float, Counter]:
    """Mean negative log-likelihood per predicted token in nats, and the counts."""
    counter = Counter(model.config.num_hidden_layers)
    total = 0.0
    for part in (rows[at : at + BATCH] for at in range(0, len(rows), BATCH)):
        with torch.no_grad():
            logits = model(part, Run(dense=dense, observer=counter))[:, :-1]
        total += float(functional.cross_entropy(logits.flatten(0, 1).float(), part[:, 1:].flatten(), reduction="sum"))
    return total / (rows.shape[0] * (WINDOW - 1)), counter


def perplexity_table(model: CausalLM, rows: Tensor, n_bytes: int) -> tuple[str, Counter]:
    """Markdown table of both runs, and the counts of the masked one."""
    lines = ["| run | loss (nats/token) | perplexity | bits per byte |", "|---|---|---|---|"]
    for name, dense in (("without mask (dense, exact)", True), ("with mask (predicted)", False)):
        loss, counter = measure(model, rows, dense)
        bits = loss * rows.shape[0] * (WINDOW - 1) / math.log(2) / n_bytes
        lines.append(f"| {name} | {loss:.3f} | {math.exp(loss):.2f} | {bits:.3f} |")
    return "\n".join(lines), counter


def layer_table(counter: Counter, ranks: Iterable[int]) -> str:
    """Markdown table: one row per layer and their mean, in percent."""
    columns = ("zero", "masked", "kept", "recall", "weighted", "precision")
    rows = [counts.rates() for counts in counter.layers]
    mean = {c: sum(r[c] for r in rows) / len(rows) for c in columns}
    head = "| layer | rank | zero rate | zero rate after mask | kept | recall | recall by value | precision |"
    lines = [head, "|---" * 8 + "|"]
    names = [f"| {i} | {rank} |" for i, rank in enumerate(ranks)] + ["| mean | |"]
    for name, row in zip(names, [*rows, mean], strict=True):
        lines.append(name + "".join(f" {100 * row[c]:.1f} % |" for c in columns))
    return "\n".join(lines)


def predictor_ranks(model: CausalLM) -> list[int]:
    """Rank per layer, 0 without a predictor."""
    ranks = dict.fromkeys(range(model.config.num_hidden_layers), 0)
    for name, weight in model.named_parameters():
        if name.endswith("predictor.fc1.weight"):
            ranks[int(name.split(".")[2])] = weight.shape[0]
    return list(ranks.values())


def sample(model: CausalLM, tokenizer: Tokenizer, prompt: str, n_predict: int, temp: float, dense: bool) -> str:
    """Prompt and continuation, ended by <|im_end|>."""
    start = [BOS, *tokenizer.encode(prompt)]
    made: list[int] = []
    for token in generate(model, start, n_predict, temp=temp, dense=dense):
        made.append(token)
        if token == tokenizer.im_end:
            break
    return tokenizer.decode(start[1:] + made)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--temp", type=float, default=0.7)
    parser.add_argument("-n", "--n-predict", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = load(args.model), Tokenizer.load(args.model)
    rows = windows(tokenizer.encode(args.text.read_text(encoding="utf-8")))
    n_bytes = len("".join(tokenizer.decode(row[1:]) for row in rows.tolist()).encode())
    table, counter = perplexity_table(model, rows, n_bytes)
    print(f"{rows.shape[0] * (WINDOW - 1)} tokens of {args.text.name}\n\n{table}\n")
    print(layer_table(counter, predictor_ranks(model)), "\n")
    for prompt in PROMPTS:
        for name, dense in (("with mask", False), ("without", True)):
            text = sample(model, tokenizer, prompt, args.n_predict, args.temp, dense)
            print(f"--- temp {args.temp}, {name}\n{text}\n")


if __name__ == "__main__":
    main()
