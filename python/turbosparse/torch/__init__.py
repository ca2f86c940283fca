"""Reference modules of TurboSparse in plain torch: the Hugging Face semantics and layouts, nothing hidden.

`load` reads a checkpoint directory into `BambooForCausalLM` (TurboSparse-Mistral) or
`TurboSparseMixtralForCausalLM`; both are ordinary `nn.Module`s, so any framework can fine-tune them; `save` writes
the same layout back. Needs the extra `turbosparse[train]`; nothing else in turbosparse imports this package.
"""

from __future__ import annotations

from turbosparse.torch.checkpoint import load, save
from turbosparse.torch.config import Config, LayoutError
from turbosparse.torch.generate import generate
from turbosparse.torch.layers import Observer, Place
from turbosparse.torch.mistral import BambooForCausalLM
from turbosparse.torch.mixtral import TurboSparseMixtralForCausalLM

__all__ = [
    "BambooForCausalLM",
    "Config",
    "LayoutError",
    "Observer",
    "Place",
    "TurboSparseMixtralForCausalLM",
    "generate",
    "load",
    "save",
]
