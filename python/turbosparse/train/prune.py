"""Which layers a smaller model keeps: `python -m turbosparse.train.prune SRC --data SHARDS --keep 11`.

Removes one layer at a time, always the one whose absence changes the model's distribution least: mean
KL(whole model || model without it) over calibration windows, in nats per token. Prints what was removed and, last, the
argument for `turbosparse.train.drelu --keep-layers`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import rope_tables
from turbosparse.train.drelu import layer_list
from turbosparse.train.faults import reported
from turbosparse.train.surgery import TEACHER


class Pruner:
    """A SwiGLU model and calibration tokens int64 [B, T] on its device."""

    def __init__(self, model: CausalLM, tokens: Tensor) -> None:
        self.model, self.tokens = model, tokens
        self.layers: list[Any] = list(model.model.layers)
        with torch.no_grad():
            start = model.model.embed_tokens(tokens)
            self.tables = rope_tables(tokens.shape[1], model.config.head_dim, model.config.rope_theta, start)
            self.target = self._log_probs(self._states(range(len(self.layers)))[-1])

    def divergence(self, keep: Sequence[int]) -> float:
        """KL(whole || layers `keep`) in nats per token."""
        with torch.no_grad():
            return self._kl(self._states(keep)[-1])

    def cheapest(self, keep: Sequence[int]) -> tuple[int, float]:
        """The layer of `keep` to do without, and the KL without it. Shares the layers before it among the tries."""
        with torch.no_grad():
            states = self._states(keep)
            tries = [(self._kl(self._run(states[i], keep[i + 1 :])), layer) for i, layer in enumerate(keep)]
        kl, layer = min(tries)
        return layer, kl

    def _states(self, keep: Sequence[int]) -> list[Tensor]:
        """The residual stream [B, T, E] before each layer of `keep`, and after the last."""
        states = [self.model.model.embed_tokens(self.tokens)]
        for layer in keep:
            states.append(self._run(states[-1], [layer]))
        return states

    def _run(self, h: Tensor, layers: Sequence[int]) -> Tensor:
        for layer in layers:
            h = self.layers[layer](h, self.tables, TEACHER)
        return h

    def _log_probs(self, h: Tensor) -> Tensor:
        return functional.log_softmax(self.model.lm_head(self.model.model.norm(h)).float(), dim=-1)

    def _kl(self, h: Tensor) -> float:
        ours = self._log_probs(h).flatten(0, 1)
        return float(functional.kl_div(ours, self.target.flatten(0, 1), log_target=True, reduction="batchmean"))


def prune(pruner: Pruner, n_keep: int, say: Callable[[str], None] = print, without: Sequence[int] = ()) -> list[int]:
    """The layers left when all but `n_keep` were removed, in order; those of `without` are gone from the start."""
    keep = [i for i in range(len(pruner.layers)) if i not in set(without)]
    while len(keep) > n_keep:
        layer, kl = pruner.cheapest(keep)
        keep.remove(layer)
        say(f"{len(keep):3} layers, without {layer:3}: KL {kl:.4f}")
    return keep


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="turbosparse.train.prune", description=__doc__, formatter_class=raw)
    p.add_argument("source", type=Path, help="Hugging Face directory or GGUF file of a SwiGLU model")
    p.add_argument("--data", type=Path, required=True, help="directory of token shards")
    p.add_argument("--keep", type=int, required=True, help="number of layers to keep")
    p.add_argument("-o", "--out", type=Path, help="file for the argument alone")
    p.add_argument("--without", type=layer_list, default=[], metavar="3-5,9", help="layers to remove first")
    p.add_argument("--windows", type=int, default=4, help="calibration windows")
    p.add_argument("--seq", type=int, default=128, help="tokens per window")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", default="auto")
    p.add_argument("--threads", type=int, default=1)
    return p


def run(args: argparse.Namespace) -> int:
    """The command."""
    from turbosparse.train.shards import Shards
    from turbosparse.train.source import open_source

    torch.set_num_threads(args.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    source, shards = open_source(args.source), Shards(args.data)
    shards.check(source.config.vocab_size, source.tokenizer.sha256 if source.tokenizer else None)
    rows = shards.sample(np.random.default_rng(args.seed), args.windows, args.seq)[:, :-1]
    model = source.model().to(device).eval()
    pruner = Pruner(model, torch.from_numpy(rows).to(device))
    keep = prune(pruner, args.keep, lambda line: print(line, flush=True), args.without)
    kept = ",".join(map(str, keep))
    print("--keep-layers " + kept)
    if args.out:
        args.out.write_text(kept + "\n", encoding="utf-8")
    return 0


def main() -> int:
    """Command line."""
    args = _parser().parse_args()
    return reported(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
