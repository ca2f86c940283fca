"""The models that come with the package: found beside it or in the checkout, ready to open.

    from turbosparse import Model, bundled

    with Model(bundled.default_model()) as model:
        print(model.generate("Once upon a time", max_tokens=32).text)

A bundled model is a directory with a GGUF file, or a Hugging Face checkpoint that is converted
once into the user's cache (XDG_CACHE_HOME, else ~/.cache) and again only when it changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from .errors import ArgumentError, FileError

PREFERRED = ("turbosparse-smol", "turbosparse-micro", "turbosparse-micro-moe")  # best first
OUTTYPE = "q8_0"
STATS = "stats.safetensors"  # beside a checkpoint: activation counts, so that neurons are stored hot first


def names() -> list[str]:
    """The models that this installation has, the default first."""
    return [name for name in PREFERRED if _directory(name) is not None]


def default_model() -> Path:
    """The GGUF file of the best bundled model; the first call may convert it, which takes seconds.

    Raises:
        FileError: the installation has none, or the cache cannot be written.
    """
    found = names()
    if not found:
        raise FileError(
            f"this installation has no bundled model (looked in {_looked()}); give a file, or install turbosparse anew",
            where="models",
            expected=" or ".join(PREFERRED),
            found="none",
        )
    return path(found[0])


def path(name: str) -> Path:
    """The GGUF file of the bundled model `name`. Raises ArgumentError when there is no such model."""
    directory = _directory(name)
    if directory is None:
        expected = ", ".join(names()) or "none is installed"
        raise ArgumentError(
            f"there is no bundled model {name!r}; there is {expected}", where="name", expected=expected, found=name
        )
    ready = sorted(directory.glob("*.gguf"))
    return ready[0] if ready else _converted(directory)


def cache_directory() -> Path:
    """Where converted models are kept; not created here."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "turbosparse" / "models"


def _looked() -> str:
    return ", ".join(map(str, _roots()))


def _roots() -> list[Path]:
    """`models` in the installed package, and in the checkout that an editable install runs from."""
    package = Path(__file__).resolve().parent
    checkout = package.parent.parent
    return [package / "models", *([checkout / "models"] if (checkout / "pyproject.toml").is_file() else [])]


def _directory(name: str) -> Path | None:
    found = (root / name for root in _roots() if name in PREFERRED)
    return next((path for path in found if (path / "config.json").is_file() or any(path.glob("*.gguf"))), None)


def _converted(directory: Path) -> Path:
    out = cache_directory() / f"{directory.name}-{OUTTYPE}-{_key(directory)}.gguf"
    if out.is_file():
        return out
    with _alone(out.parent / f"{directory.name}.lock"):
        return out if out.is_file() else _convert(directory, out)


def _convert(directory: Path, out: Path) -> Path:
    from .convert import convert

    stats = directory / STATS
    convert(directory, out, outtype=OUTTYPE, stats=stats if stats.is_file() else None, force=True)
    for stale in out.parent.glob(f"{directory.name}-{OUTTYPE}-*.gguf"):
        if stale != out:
            stale.unlink(missing_ok=True)  # who has it open keeps it
    return out


def _key(directory: Path) -> str:
    """Changes with the checkpoint and with the converter."""
    from . import convert

    sources = [*directory.iterdir(), *Path(str(convert.__file__)).parent.rglob("*.py")]
    stamps = sorted(
        f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in sources if file.is_file()
    )
    return sha256("\n".join(stamps).encode()).hexdigest()[:12]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    import fcntl

    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise FileError(
            f"{lock.parent} cannot be written ({error.strerror}), where bundled models are kept once converted; "
            "set XDG_CACHE_HOME to a directory of yours",
            where=str(lock.parent),
            expected="a writable directory",
            found=str(error.strerror),
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
