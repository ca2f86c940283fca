"""Is the engine's student torch's? `python -m turbosparse.train.student_check DIR`.

Converts the dReLU checkpoint DIR to an F32 file, lets the engine compute the logits of a short text in the exact and in
the predicted mode, and compares them with the torch module's. Exit code 1 if they differ by more than --tolerance of
their range. Scratch space: four bytes per weight.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

TEXT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
TOLERANCE = 1e-4  # of the logits' range


def logit_errors(directory: Path, gguf: Path, text: str = TEXT) -> dict[str, float]:
    """Per mode the largest difference as a share of the logits' range; `gguf` is the checkpoint as F32."""
    import numpy as np
    import torch

    from turbosparse import Model
    from turbosparse.torch import load
    from turbosparse.torch.layers import Run

    model: Any = load(directory)
    out: dict[str, float] = {}
    with Model(gguf, n_threads=1, kv_type="f32", flash_attn="off") as engine:  # flash attention rounds to F16
        tokens = engine.tokenize(text, parse_special=True)
        for mode, run in (("exact", Run(dense=True)), ("predicted", Run())):
            with torch.no_grad():
                expected = model(torch.tensor([tokens]), run)[0].numpy()
            out[mode] = float(np.abs(engine.logits(tokens, mode=mode) - expected).max() / np.ptp(expected))
    return out


def main() -> int:
    """Command line."""
    from turbosparse.convert import convert

    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="turbosparse.train.student_check", description=__doc__, formatter_class=raw)
    p.add_argument("checkpoint", type=Path, help="directory of a dReLU model with predictors")
    p.add_argument("--text", default=TEXT)
    p.add_argument("--tolerance", type=float, default=TOLERANCE)
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        gguf = convert(args.checkpoint, Path(scratch) / "f32.gguf", outtype="f32")
        found = logit_errors(args.checkpoint, gguf, args.text)
    for mode, error in found.items():
        print(f"{mode}: logits differ by {error:.1e} of their range; {args.tolerance:.0e} is allowed")
    return 0 if max(found.values()) <= args.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
