"""What a file says about its model and layers, and how often its neurons were not zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ModelInfo:
    """What the file says about the model. Sizes in bytes; -1 is no such token.

    Attributes:
        version: turbosparse.version.
        base_architecture: the libllama graph that hosts the model.
        activation: drelu, reglu or relu.
        default_mode: of the FFN.
        hot_first: whether neurons are stored by falling activation frequency.
        has_predictor: whether at least one layer has one.
        n_expert, n_expert_used: 0, 0 for a dense FFN.
        sliding_window: tokens, 0 = none.
        bytes_dense_token: what a dense graph reads for one token.
        ffn_bytes_read_at_load: counted; 0 is the promise.
    """

    version: int
    base_architecture: str
    activation: str
    default_mode: str
    hot_first: bool
    has_predictor: bool
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_expert: int
    n_expert_used: int
    n_vocab: int
    n_ctx_train: int
    sliding_window: int
    token_bos: int
    token_eos: int
    token_eot: int
    add_bos: bool
    bytes_file: int
    bytes_ffn: int
    bytes_predictor: int
    bytes_rest: int
    bytes_dense_token: int
    ffn_bytes_read_at_load: int

    @property
    def n_neuron(self) -> int:
        """Neurons of all layers and experts."""
        return self.n_layer * self.n_ff * max(self.n_expert, 1)

    @property
    def branches(self) -> int:
        """Weight rows per neuron: gate, up and down, or up and down."""
        return 2 if self.activation == "relu" else 3


@dataclass(frozen=True)
class LayerInfo:
    """What the file says about one layer's FFN.

    Attributes:
        rank: of the predictor, 0 = none.
        threshold: a neuron is computed iff its logit is above it.
        first_branch: "gate" or "up", the one that mode exact evaluates first.
        type_gate, type_up, type_down, type_predictor: as in GGUF ("q4_0"); None = no such tensor.
        has_frequency: whether the file states activation frequencies.
        layout_up, layout_down: how rows lie in memory: "rows" as in the file; "packed" or "sums" in their own.
        paired: whether the rows of gate and up of one neuron lie side by side there.
    """

    rank: int
    threshold: float
    first_branch: str
    type_gate: str | None
    type_up: str | None
    type_down: str | None
    type_predictor: str | None
    has_frequency: bool
    layout_up: str
    layout_down: str
    paired: bool


class LayerProfile(NamedTuple):
    """How often the neurons of one layer were not zero.

    Attributes:
        counts: int64 [max(n_expert, 1), n_ff], in stored order.
        columns: int64 [max(n_expert, 1)], FFN columns seen.
    """

    counts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
