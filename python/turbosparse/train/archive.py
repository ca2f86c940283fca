"""Files inside packages: Debian packages, wheels, npm tarballs. Read without unpacking, nothing is run."""

from __future__ import annotations

import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

MAX_MEMBER = 64 << 20  # bytes; larger files in a package are not text


class ArchiveError(RuntimeError):
    """A package that cannot be read. Carries `path`."""

    def __init__(self, path: Path | None, why: str) -> None:
        super().__init__(f"{path}: {why}" if path else why)
        self.path = path


def ar_member(archive: bytes, prefix: str) -> bytes:
    """One file of an ar archive (a .deb is one): 60-byte headers with name and decimal size, bodies at even offsets."""
    at = len(b"!<arch>\n")
    while at + 60 <= len(archive):
        name = archive[at : at + 16].decode("ascii", "replace").rstrip(" /")
        size = int(archive[at + 48 : at + 58])
        if name == prefix or (prefix.endswith(".") and name.startswith(prefix)):
            return archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ArchiveError(None, f"no member {prefix}")


def members(package: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the regular files whose whole name matches `pattern`; .gz and .dz are decompressed.

    Names are relative, without a leading `./`. Raises ArchiveError for a package of another kind or a broken one.
    """
    wanted = re.compile(pattern)
    try:
        for name, content in _files(package, wanted):
            yield name, gzip.decompress(content) if name.endswith((".gz", ".dz")) else content
    except (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error) as error:
        raise ArchiveError(package, f"cannot be read: {error}") from error


def _files(package: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    if package.suffix in (".whl", ".zip"):
        yield from _zipped(package, wanted)
    elif package.suffix == ".deb":
        with tarfile.open(fileobj=io.BytesIO(ar_member(package.read_bytes(), "data.tar."))) as archive:
            yield from _tarred(archive, wanted)
    elif package.name.endswith((".tgz", ".tar.gz")):
        with tarfile.open(package) as archive:
            yield from _tarred(archive, wanted)
    else:
        raise ArchiveError(package, "expected a .whl, .zip, .deb, .tgz or .tar.gz")


def _zipped(package: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(package) as archive:
        for info in archive.infolist():
            if wanted.fullmatch(info.filename) and info.file_size <= MAX_MEMBER:
                yield info.filename, archive.read(info)


def _tarred(archive: tarfile.TarFile, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        name = member.name.removeprefix("./")
        if not (member.isreg() and wanted.fullmatch(name) and member.size <= MAX_MEMBER):
            continue
        file = archive.extractfile(member)
        if file is not None:
            yield name, file.read()
