"""Models side by side on held-out text: `python -m turbosparse.train.heldout --data SHARDS teacher=T.gguf student=DIR`.

Each NAME=PATH is a SwiGLU model (Hugging Face directory or GGUF file) or a dReLU checkpoint, of the shards'
vocabulary. Prints, as Markdown, perplexities per held-out stream (a dReLU model dense, and with its predictors' mask if
it has any), then zero rate and predictor recall per layer of each dReLU model; --json also writes them. Weights are as
stored, arithmetic is F32.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from turbosparse.torch import load
from turbosparse.torch.decoder import CausalLM
from turbosparse.torch.layers import Run
from turbosparse.train.drelu_report import loss, windows
from turbosparse.train.evaluate import Counter, layer_table, predictor_ranks
from turbosparse.train.faults import SettingsError, reported
from turbosparse.train.shards import Shards
from turbosparse.train.surgery import TEACHER

BATCH = 8


def open_model(path: Path) -> tuple[CausalLM, bool]:
    """A model of either kind in eval mode, and whether it is a dReLU one."""
    from turbosparse.train.source import open_source

    config = path / "config.json"
    if config.is_file() and json.loads(config.read_text("utf-8")).get("hidden_act") == "relu":
        return load(path), True
    return open_source(path).model().eval(), False


def measure(model: CausalLM, is_drelu: bool, streams: dict[str, Tensor]) -> dict[str, Any]:
    """Perplexity per way of running and stream, over all streams together, and the layers' counts."""
    counter = Counter(model.config.num_hidden_layers)
    runs = {"": TEACHER}
    if is_drelu:
        runs = {"dense": Run(dense=True)}
        if any(predictor_ranks(model)):
            runs["predicted"] = Run(observer=counter)
        else:
            runs["dense"] = Run(dense=True, observer=counter)
    out: dict[str, Any] = {"perplexity": {}, "layers": []}
    for name, run in runs.items():
        losses = {stream: loss(model, rows, run, BATCH) for stream, rows in streams.items()}
        mean = sum(losses[s] * rows.shape[0] for s, rows in streams.items()) / sum(map(len, streams.values()))
        out["perplexity"][name] = {s: math.exp(v) for s, v in (losses | {"together": mean}).items()}
    if is_drelu:
        out["layers"] = [counts.rates() for counts in counter.layers]
        out["table"] = layer_table(counter, predictor_ranks(model))
    return out


def perplexity_rows(name: str, found: dict[str, Any], streams: list[str]) -> list[str]:
    """Lines of the Markdown table."""
    return [
        f"| {name}{', ' + way if way else ''} | " + " | ".join(f"{values[s]:.1f}" for s in streams) + " |"
        for way, values in found["perplexity"].items()
    ]


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="turbosparse.train.heldout", description=__doc__, formatter_class=raw)
    p.add_argument("models", nargs="+", metavar="NAME=PATH")
    p.add_argument("--data", type=Path, required=True, help="directory of token shards")
    p.add_argument("--streams", nargs="+", metavar="NAME", help="held-out streams; default: all")
    p.add_argument("--windows", type=int, default=16, help="per stream")
    p.add_argument("--seq", type=int, default=256, help="tokens per window")
    p.add_argument("--json", type=Path, help="file to write")
    p.add_argument("--device", default="auto")
    p.add_argument("--threads", type=int, default=1)
    return p


def run(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """The command; what it found, by model."""
    torch.set_num_threads(args.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    shards = Shards(args.data)
    names = args.streams or shards.heldout_names
    streams = {name: windows(shards.heldout(name), args.seq, args.windows) for name in names}
    streams = {name: rows for name, rows in streams.items() if len(rows)}
    columns = [*streams, "together"]
    say("| model | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    found: dict[str, Any] = {}
    for text in args.models:
        name, _, path = text.partition("=")
        model, is_drelu = open_model(Path(path))
        if model.config.vocab_size != shards.n_vocab:
            raise SettingsError(f"{path}: vocabulary of {model.config.vocab_size}, the shards have {shards.n_vocab}")
        found[name] = measure(model.to(device), is_drelu, streams)
        say("\n".join(perplexity_rows(name, found[name], columns)))
    for name, result in found.items():
        if result["layers"]:
            say(f"\n{name}\n\n{result.pop('table')}")
    return found


def main() -> int:
    """Command line."""
    args = _parser().parse_args()

    def command() -> int:
        found = run(args, lambda line: print(line, flush=True))
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0

    return reported(command)


if __name__ == "__main__":
    sys.exit(main())
