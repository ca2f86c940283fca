"""A TurboSparse GGUF file as PowerInfer reads it, to run both engines on the same weights.

    python tools/powerinfer_file.py model.gguf -o model.powerinfer.gguf

The matrices are copied bit for bit. PowerInfer's sparse kernels know F16 and Q4_0 only, so other FFN types are
refused. Its predictors read the residual before RMSNorm, ours the normalised input times 1/w: the logits differ by
the factor 1/rms > 0, so their signs, and with threshold 0 the selected neurons, are the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from gguf.constants import GGUFValueType as V
from turbosparse.convert.errors import ConvertError, UsageError
from turbosparse.convert.export import KV, write_gguf
from turbosparse.convert.ggufile import GGUFFile, Info
from turbosparse.convert.plan import Planned
from turbosparse.convert.quantize import T, type_name
from turbosparse.convert.requantize import FileRows, TypedArray

MAGIC = b"PWRI"  # instead of GGUF: what switches PowerInfer to sparse execution
ARCH = "bamboo"  # its name for dReLU in a Mistral graph
RENAMED = {"ffn_pred_fc1.weight": "fc1.weight", "ffn_pred_fc2.weight": "fc2.weight"}
LEFT_OUT = ("ffn_pred_in_scale", "ffn_neuron_freq", "ffn_neuron_perm")
SPARSE = ("ffn_gate.weight", "ffn_up.weight", "ffn_down_t.weight")
COPIED = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.", "rope.")


def planned(file: GGUFFile, info: Info) -> Planned | None:
    """The tensor under PowerInfer's name; None if it has none there."""
    if info.name.endswith(LEFT_OUT):
        return None
    if info.name.endswith(SPARSE) and info.qtype not in (T.F16, T.Q4_0):
        raise UsageError(f"{info.name} is {type_name(info.qtype)}; PowerInfer's sparse kernels read f16 and q4_0 only")
    if info.name.endswith("ffn_pred_fc2_t.weight"):
        raise UsageError(
            f"{info.name} lies by hidden unit; PowerInfer reads it by neuron: make the file with --fc2-by-neuron"
        )
    name = info.name
    for ours, theirs in RENAMED.items():
        name = name.replace(ours, theirs)
    return Planned(name, info.shape, info.qtype, FileRows(file, info, info.qtype))


def header(file: GGUFFile) -> KV:
    """The keys that PowerInfer reads: its architecture's and the tokenizer's."""
    kv: KV = {"general.name": (V.STRING, "turbosparse export")}
    for key, value in file.values.items():
        prefix, _, rest = key.partition(".")
        raw: Any = TypedArray(value.value, value.sub_type) if value.vtype is V.ARRAY else value.value
        if prefix == "turbosparse" and rest.startswith(COPIED):
            kv[f"{ARCH}.{rest}"] = (value.vtype, raw)
        elif key.startswith("tokenizer.ggml."):
            kv[key] = (value.vtype, raw)
    return kv


def export(src: Path, out: Path, *, force: bool) -> None:
    """Writes `out`; raises ConvertError."""
    with GGUFFile(src) as file:
        tensors = [t for t in (planned(file, info) for info in file.tensors.values()) if t]
        write_gguf(out, header(file), tensors, architecture=ARCH, force=force)
    with out.open("r+b") as f:
        f.write(MAGIC)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()
    try:
        export(args.model, args.out, force=args.force)
    except ConvertError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
