"""Mistakes to plant: each is one or more textual patches of uniquely matched lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SRC, CONVERT = "ggml_sparse/src/", "convert/"


@dataclasses.dataclass(frozen=True)
class Patch:
    """`old` occurs exactly once in `file` (relative to the repository) and becomes `new`."""

    file: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        assert text.count(self.old) == 1, self
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Mutation:
    """`kind` groups them as the issue lists them."""

    kind: str
    name: str
    patches: Sequence[Patch]

    @property
    def native(self) -> bool:
        """The library must be built anew."""
        return any(p.file.startswith(SRC) for p in self.patches)


def mutation(kind: str, name: str, *patches: tuple[str, str, str]) -> Mutation:
    return Mutation(kind, name, [Patch(*p) for p in patches])


REQUIRED = ("gate and up swapped", "mask dropped", "permutation off by one", "last row skipped", "> turned to >=")

MUTATIONS = [
    mutation(
        "gate and up swapped", "in the loader",
        (SRC + "contract.cpp", "matrix(blk + keys::ffn_gate + weight", "matrix(blk + keys::ffn_swap + weight"),
        (SRC + "contract.cpp", "matrix(blk + keys::ffn_up + weight", "matrix(blk + keys::ffn_gate + weight"),
        (SRC + "contract.cpp", "matrix(blk + keys::ffn_swap + weight", "matrix(blk + keys::ffn_up + weight"),
    ),
    mutation(
        "gate and up swapped", "in the converter, dense layout",
        (CONVERT + "arch/base.py", 'gate=LAYER + "mlp.gate_proj.weight"', 'gate=LAYER + "mlp.swap_proj.weight"'),
        (CONVERT + "arch/base.py", 'up=LAYER + "mlp.up_proj.weight"', 'up=LAYER + "mlp.gate_proj.weight"'),
        (CONVERT + "arch/base.py", 'gate=LAYER + "mlp.swap_proj.weight"', 'gate=LAYER + "mlp.up_proj.weight"'),
    ),
    mutation(
        "gate and up swapped", "in the converter, experts",
        (CONVERT + "arch/mixtral.py", 'gate=EXPERT + "w1.weight"', 'gate=EXPERT + "w0.weight"'),
        (CONVERT + "arch/mixtral.py", 'up=EXPERT + "w3.weight"', 'up=EXPERT + "w1.weight"'),
        (CONVERT + "arch/mixtral.py", 'gate=EXPERT + "w0.weight"', 'gate=EXPERT + "w3.weight"'),
    ),
    mutation(
        "mask dropped", "gate and up run for every neuron",
        (SRC + "few.cpp", "= predicted_ ? col.mask : nullptr;", "= nullptr;"),
    ),
    mutation(
        "mask dropped", "the first token's mask for all of a batch",
        (SRC + "batch.cpp", "!predicted_ || mask_of(c)[j] != 0;", "!predicted_ || mask_of(0 * c)[j] != 0;"),
    ),
    mutation(
        "permutation off by one", "rows of down",
        (CONVERT + "sources.py", "self.perm[start:stop], axis=1", "self.perm[start:stop] - 1, axis=1"),
    ),
    mutation(
        "permutation off by one", "outputs of fc2",
        (CONVERT + "plan.py", "Rows(t, _perm(order, e)) for e, t in enumerate(fc2)",
         "Rows(t, np.roll(_perm(order, e), 1) if order else None) for e, t in enumerate(fc2)"),
    ),
    mutation(
        "permutation off by one", "the map in the file",
        (CONVERT + "plan.py", "order.perm if moe else order.perm[0])",
         "np.roll(order.perm if moe else order.perm[0], 1, -1))"),
    ),
    mutation(
        "last row skipped", "of down",
        (SRC + "neurons.cpp", "list_rows(list, j0_, std::min(n_ff_, j0_ + stretch_), wanted_);",
         "list_rows(list, j0_, std::min(n_ff_ - 1, j0_ + stretch_), wanted_);"),
    ),
    mutation(
        "last row skipped", "of fc2",
        (SRC + "select.cpp", "j < std::min(n_ff, (u + 1) * SELECT_ROWS)",
         "j < std::min(n_ff - 1, (u + 1) * SELECT_ROWS)"),
    ),
    mutation(
        "last row skipped", "of fc1",
        (SRC + "select.cpp", "i < std::min(r, (u + 1) * SELECT_ROWS)", "i < std::min(r - 1, (u + 1) * SELECT_ROWS)"),
    ),
    mutation(
        "> turned to >=", "in the kernels' threshold",
        (SRC + "select.cpp", "N_AHEAD)) > threshold", "N_AHEAD)) >= threshold"),
        (SRC + "batch.cpp", "product > ffn_.threshold", "product >= ffn_.threshold"),
    ),
    mutation(
        "> turned to >=", "in the reference's threshold",
        (SRC + "reference.cpp", "logits[j] > static_cast<double>(ffn.threshold)",
         "logits[j] >= static_cast<double>(ffn.threshold)"),
    ),
    mutation(
        "others", "predictor reads x instead of x / w",
        (SRC + "few.cpp", "col.pred.prepare(scale ? col.x_scaled : col.x, n_embd_);",
         "col.pred.prepare(col.x, n_embd_);"),
        (SRC + "few.cpp", "col.pred.get(call_.ffn.pred_in_scale ? col.x_scaled : col.x)", "col.pred.get(col.x)"),
    ),
    mutation(
        "others", "up without its ReLU",
        (SRC + "neurons.cpp", "= ffn.activation == GGML_SPARSE_DRELU;", "= false;"),
    ),
    mutation(
        "others", "experts numbered from one",
        (SRC + "block.cpp", "session.ffn(il, e)", "session.ffn(il, (e + 1) % session.n_set())"),
    ),
    mutation(
        "others", "q and k left in Hugging Face's order",
        (CONVERT + "sources.py", "halves.swapaxes(1, 2).reshape(rows.shape)", "halves.reshape(rows.shape)"),
    ),
    mutation(
        "others", "active neurons counted before the second branch",
        (SRC + "neurons.cpp", "counts.active += active;", "counts.active += 1;"),
    ),
]  # fmt: skip
