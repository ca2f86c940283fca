"""Options that several subcommands share, and how they read files and print numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FileError
from ..options import FlashAttn, KvType, Memory, Mode
from ..summary import show_bytes as show_bytes

if TYPE_CHECKING:
    from ..model import Model

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="TurboSparse GGUF file.", show_default=False)]
ModeOption = Annotated[
    Mode | None,
    typer.Option(
        "--mode",
        help="How FFNs run: every neuron, only the active ones (same text), those that the "
        "predictor selects, or slow scalar code. [default: as the file says]",
        show_default=False,
    ),
]
KvTypeOption = Annotated[KvType, typer.Option("--kv-type", help="Type of the KV cache.")]
FlashAttnOption = Annotated[FlashAttn, typer.Option("--flash-attn", help="Flash attention.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option("-t", "--threads", min=1, help="Threads. [default: physical cores]", show_default=False),
]
MemoryOption = Annotated[
    Memory,
    typer.Option("--memory", help="Where the weights lie: mapped, copied into large pages, or as there is room."),
]
IgnoreSwaOption = Annotated[
    bool, typer.Option("--ignore-swa", help="Allow a context above the model's sliding window.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def open_model(file: Path, **given: Any) -> Model:
    """The model of a command, which owns its process: the host's log is dropped."""
    from ..model import Model, silence_host

    silence_host()
    model = Model(file, **given)
    if model.n_ctx > model.info.n_ctx_train > 0:
        print(
            f"note: {model.n_ctx} tokens of context are more than the {model.info.n_ctx_train} that the model was "
            "trained with; text beyond them may make no sense",
            file=sys.stderr,
        )
    return model


def read_text(path: str | Path) -> str:
    """Text of a UTF-8 file, "-" for standard input. Raises FileError."""
    try:
        if str(path) == "-":
            return sys.stdin.read()
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"{path} cannot be read: {error.strerror}. Check the name and its permissions.",
            where=str(path),
            expected="a readable file",
            found=str(error.strerror),
        ) from error
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path} is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}.",
            where=str(path),
            expected="UTF-8",
            found=error.reason,
        ) from error
