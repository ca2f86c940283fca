"""What a model will need of which memory, from its file's header alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..convert.errors import GGUFError
from ..convert.ggufile import GGUFFile
from ..errors import FileError, ModelFormatError
from ..hardware import memory_available
from ..model import DEFAULT_CTX, KV_BYTES
from .engine import Advice, LoadOptions, MemoryPlan, Pool
from .runs import CHUNK

CELLS = 256  # libllama rounds a sequence's cells up to a multiple


def memory_plan(path: Path, options: LoadOptions, available: int | None = None) -> MemoryPlan:
    """Pools, and what would make them fit.

    Args:
        options: n_parallel must be set.
        available: bytes; None = of this machine now.

    Raises:
        FileError, ModelFormatError.
    """
    shape = _Shape(path)
    room = memory_available() if available is None else available
    pools = shape.pools(options)
    needed = sum(pool.needed for pool in pools)
    advice = () if needed <= room else tuple(_advice(shape, options, room))
    return MemoryPlan(pools, needed, room, needed <= room, advice)


class _Shape:
    """The numbers of a file's header that memory depends on."""

    def __init__(self, path: Path) -> None:
        try:
            with GGUFFile(path) as file:
                architecture = str(file.get("general.architecture", ""))

                def number(key: str, default: int = 0) -> int:
                    value = file.get(f"{architecture}.{key}", default)
                    return int(max(value)) if isinstance(value, list) else int(value)

                self.bytes_file = file.size
                self.n_layer, self.n_embd = number("block_count"), number("embedding_length")
                self.n_ff = number("feed_forward_length")
                self.n_ctx_train = number("context_length", DEFAULT_CTX)
                self.window = number("attention.sliding_window")
                heads = max(number("attention.head_count", 1), 1)
                self.n_head_kv = number("attention.head_count_kv", heads)
                width = self.n_embd // heads
                self.width = number("attention.key_length", width) + number("attention.value_length", width)
                self.n_vocab = next((t.shape[1] for n, t in file.tensors.items() if n == "token_embd.weight"), 0)
        except GGUFError as error:
            raise ModelFormatError(str(error), where=str(path)) from error
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror}", where=str(path)) from error

    def n_ctx(self, options: LoadOptions) -> int:
        """Tokens of one sequence, as Model chooses them."""
        if options.n_ctx is not None:
            return options.n_ctx or self.n_ctx_train
        limits = [DEFAULT_CTX, self.n_ctx_train, 0 if options.ignore_swa else self.window]
        return min(limit for limit in limits if limit > 0)

    def kv_bytes(self, options: LoadOptions) -> int:
        cells = -(-self.n_ctx(options) // CELLS) * CELLS * (options.n_parallel or 1)
        return int(cells * self.n_layer * self.n_head_kv * self.width * KV_BYTES[options.kv_type])

    def pools(self, options: LoadOptions) -> tuple[Pool, ...]:
        n_ctx, n_parallel = self.n_ctx(options), options.n_parallel or 1
        compute = 4 * (CHUNK * (8 * self.n_embd + 3 * self.n_ff + n_ctx) + (1 + n_parallel) * self.n_vocab)
        return (
            Pool(
                "weights",
                "mapped file",
                self.bytes_file,
                "the file's size; mapped, or copied into large pages where there is room",
            ),
            Pool("kv", "ram", self.kv_bytes(options), f"{n_parallel} x {n_ctx} tokens in {options.kv_type}; derived"),
            Pool("compute", "ram", compute, "activations of one batch; estimated"),
        )


def _advice(shape: _Shape, options: LoadOptions, room: int) -> Iterator[Advice]:
    """Changes that make it fit by themselves, the gentlest first; else what to expect."""
    for change in _changes(shape, options):
        changed = replace(options, **change[1])  # type: ignore[arg-type]
        needed = sum(pool.needed for pool in shape.pools(changed))
        if needed <= room:
            yield Advice(change[0], change[1], needed)
    if shape.bytes_file > room:
        needed = sum(pool.needed for pool in shape.pools(options))
        yield Advice(
            "The weights alone exceed the memory: it runs, but reads from the disk. Take a smaller file.", {}, needed
        )


def _changes(shape: _Shape, options: LoadOptions) -> Iterator[tuple[str, dict[str, object]]]:
    if (options.n_parallel or 1) > 1:
        yield "Run one request at a time.", {"n_parallel": 1}
    if options.kv_type != "q8_0":
        yield "Keep the context in 8 bits.", {"kv_type": "q8_0"}
    n_ctx = shape.n_ctx(options) // 2
    while n_ctx >= 512:
        yield f"Use a context of {n_ctx} tokens.", {"n_ctx": n_ctx}
        n_ctx //= 2
    if (options.n_parallel or 1) > 1:
        yield "One request at a time, and a context of 512 tokens.", {"n_parallel": 1, "n_ctx": 512}
