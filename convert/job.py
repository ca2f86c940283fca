"""One conversion: a checkpoint, the plan made for it, and the keys. Nothing is written until write()."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from .arch import Family, Hparams, hparams, recognise
from .arch.base import TOKEN_EMBD
from .checkpoint import STORAGE, Checkpoint, open_checkpoint
from .errors import MissingPackageError, UsageError
from .export import KV, Progress, Written, write_gguf
from .metadata import general_kv, model_kv
from .neurons import load_stats
from .plan import Plan, Types, build_plan
from .predictor import Predictors, load_directory
from .quantize import parse_type
from .tokenizer import load_tokenizer


@dataclass
class Job:
    """An open conversion; a context manager, because it holds the shards open."""

    checkpoint: Checkpoint
    family: Family
    hp: Hparams
    types: Types
    plan: Plan
    kv: KV
    predictors: Predictors | None = None
    notes: list[str] = field(default_factory=list)

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.checkpoint.close()

    @property
    def n_bytes_in(self) -> int:
        """Bytes of the tensors that will be read."""
        tensors = {**self.checkpoint.tensors, **(self.predictors.tensors if self.predictors else {})}
        names = {name for t in self.plan.tensors for name in t.origin}
        return sum(math.prod(tensors[n].shape) * STORAGE[tensors[n].dtype].itemsize for n in names)

    def write(
        self, out: Path, *, force: bool = False, threads: int | None = None, progress: Progress | None = None
    ) -> Written:
        """Write the file; see export.write_gguf for the errors."""
        return write_gguf(out, self.kv, self.plan.tensors, force=force, threads=threads, progress=progress)


@dataclass(frozen=True)
class Options:
    """What the user chose. Types by name; `predictors` is a directory, `stats` a safetensors file."""

    outtype: str = "f16"
    predictor_type: str | None = None
    predictors: Path | None = None
    no_predictors: bool = False
    stats: Path | None = None
    pure: bool = False
    allow_pickle: bool = False
    fc2_by_unit: bool | None = None  # None: where predictors are quantised


def open_job(src: str | Path, options: Options) -> Job:
    """Open `src` (a directory or a hub id), check it whole and plan the file."""
    types = Types(
        parse_type(options.outtype),
        parse_type(options.predictor_type) if options.predictor_type else None,
        options.pure,
        options.fc2_by_unit,
    )
    checkpoint = open_checkpoint(locate(src), allow_pickle=options.allow_pickle)
    try:
        return plan_job(checkpoint, types, options)
    except BaseException:
        checkpoint.close()
        raise


def plan_job(checkpoint: Checkpoint, types: Types, options: Options) -> Job:
    """Everything that will be written for an opened checkpoint. Raises ConvertError."""
    family = recognise(checkpoint)
    hp, notes = _hparams(checkpoint, family)
    predictors = _predictors(checkpoint, family, options, notes)
    stats = load_stats(options.stats, hp) if options.stats else None
    plan = build_plan(checkpoint.tensors, family, hp, types, predictors=predictors, stats=stats)
    tokenizer = load_tokenizer(checkpoint.path, checkpoint.config, hp.n_vocab)
    notes += tokenizer.notes
    if plan.ignored:
        notes.append(f"not written, recomputed at run time: {len(plan.ignored)} buffers ({plan.ignored[0]}, ...)")
    kv = general_kv(checkpoint.path, types.out)
    kv |= model_kv(family, hp, plan, types, predictors, stats)
    kv |= tokenizer.kv()
    return Job(checkpoint, family, hp, types, plan, kv, predictors, notes)


def _hparams(checkpoint: Checkpoint, family: Family) -> tuple[Hparams, list[str]]:
    """Hyperparameters, with the vocabulary as the embedding has it: checkpoints pad it and forget to say."""
    hp = hparams(checkpoint.config, moe=bool(family.ffn.router))
    embedding = checkpoint.tensors.get(TOKEN_EMBD)
    if embedding is None or not embedding.shape or embedding.shape[0] == hp.n_vocab:
        return hp, []
    note = f"vocabulary: {embedding.shape[0]} embedding rows, config.json says {hp.n_vocab}; the rows count"
    return replace(hp, n_vocab=embedding.shape[0]), [note]


def _predictors(checkpoint: Checkpoint, family: Family, options: Options, notes: list[str]) -> Predictors | None:
    if options.no_predictors:
        if options.predictors:
            raise UsageError("--predictors and --no-predictors contradict each other")
        embedded = [n for n in checkpoint.tensors if ".predictor.fc" in n]
        for name in embedded:
            del checkpoint.tensors[name]
        notes.append(f"--no-predictors: {len(embedded)} predictor tensors left out")
        return None
    if options.predictors is None:
        return None
    return load_directory(options.predictors, family, checkpoint.fds, allow_pickle=options.allow_pickle)


def locate(src: str | Path) -> Path:
    """`src` as a directory; a hub id (org/name) is downloaded by huggingface_hub, if that is installed."""
    path = Path(src)
    if path.exists() or str(src).count("/") != 1 or str(src).startswith((".", "/", "~")):
        if path.is_file():
            raise UsageError(f"{path} is a file; name the checkpoint's directory", path=str(path))
        return path
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise MissingPackageError(
            f"{src} is no directory here. To fetch it as a hub id, pip install huggingface_hub; or download it and "
            "name the directory",
            package="huggingface_hub",
        ) from None
    patterns = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja", "README.md", "LICENSE*"]
    return Path(hub.snapshot_download(str(src), allow_patterns=patterns))
