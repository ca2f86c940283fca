"""Files over a narrow bridge: packs a folder into pieces of limited size, and puts them together again, verified.

    python -m turbosparse.train.parcel pack ROOT -o DIR [--names NAME ...] [--max-bytes N] [--apart] [--plain]
    python -m turbosparse.train.parcel unpack DIR ... -o ROOT
    python -m turbosparse.train.parcel check DIR --files 8 --file-bytes N --bytes N

Needs nothing but Python, so that it runs on a bare machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "parcel.json"
BLOCK = 1 << 20
MAX_PIECE = 48 << 20


class ParcelError(Exception):
    """Pieces that are missing, broken or too large. `data` holds what the message says; exit code 4."""

    exit_code = 4

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = data


def pack(
    root: Path, out: Path, names: Sequence[str] = (), max_bytes: int = MAX_PIECE, apart: bool = False,
    plain: bool = False,
) -> list[Path]:  # fmt: skip
    """Writes `names` (default: all) under `root` as pieces of equal size, none above `max_bytes`, and a manifest.

    With `apart` every piece gets a folder of its own, 0, 1, ..., with its copy of the manifest. `plain` does not
    compress. Returns the pieces.
    """
    chosen = sorted(root / name for name in names) if names else sorted(root.iterdir())
    missing = [path for path in chosen if not path.exists()]
    if missing or not chosen:
        raise ParcelError(f"{missing[0] if missing else root}: nothing to pack", path=str(root))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        archive = Path(scratch) / "parcel.tar"
        with tarfile.open(archive, "w") if plain else tarfile.open(archive, "w:xz", preset=6) as tar:
            for path in chosen:
                tar.add(path, arcname=str(path.relative_to(root)), filter=_anonymous)
        for old in [*out.glob("*/piece-*.part"), *out.glob("piece-*.part")]:
            old.unlink()
        return _split(archive, out, max_bytes, apart)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """No owner and no time: the same files give the same pieces."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _split(archive: Path, out: Path, max_bytes: int, apart: bool) -> list[Path]:
    total = archive.stat().st_size
    count = max(1, -(-total // max_bytes))
    size = -(-total // count)
    pieces: list[Path] = []
    entries: list[dict[str, Any]] = []
    with archive.open("rb") as source:
        for k in range(count):
            folder = out / str(k) if apart else out
            folder.mkdir(exist_ok=True)
            piece = folder / f"piece-{k:03}.part"
            piece.write_bytes(source.read(size))
            pieces.append(piece)
            entries.append({"file": piece.name, "bytes": piece.stat().st_size, "sha256": sha256(piece)})
    manifest = json.dumps({"bytes": total, "sha256": sha256(archive), "pieces": entries}, indent=1) + "\n"
    for folder in {piece.parent for piece in pieces}:
        (folder / MANIFEST).write_text(manifest, encoding="ascii")
    return pieces


def sha256(path: Path) -> str:
    """Digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def missing_pieces(folders: Iterable[Path]) -> list[str]:
    """Pieces of the manifest that no folder holds whole; empty when all are there."""
    manifest, found = _gather(folders)
    return [entry["file"] for entry in manifest["pieces"] if entry["file"] not in found]


def unpack(folders: Iterable[Path], root: Path) -> None:
    """Joins the pieces lying in `folders`, compares every sha256, and extracts into `root`."""
    folders = list(folders)
    manifest, found = _gather(folders)
    lacking = [entry["file"] for entry in manifest["pieces"] if entry["file"] not in found]
    if lacking:
        have = f"{len(found)} of {len(manifest['pieces'])} pieces"
        raise ParcelError(f"{lacking[0]} is missing or broken ({have} are here); send it again", missing=lacking)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        archive = Path(scratch) / "parcel.tar"
        with archive.open("wb") as out:
            for entry in manifest["pieces"]:
                with found[entry["file"]].open("rb") as piece:
                    shutil.copyfileobj(piece, out, BLOCK)
        if sha256(archive) != manifest["sha256"]:
            raise ParcelError(f"{MANIFEST}: the joined pieces are not what was packed", expected=manifest["sha256"])
        with tarfile.open(archive) as tar:
            tar.extractall(root, filter="data")


def _gather(folders: Iterable[Path]) -> tuple[dict[str, Any], dict[str, Path]]:
    """The manifest, the same in all folders, and the sound pieces by name."""
    folders = list(folders)
    manifests = {path.read_text(encoding="ascii") for f in folders for path in f.glob(MANIFEST)}
    if len(manifests) != 1:
        why = "pieces of different parcels are mixed" if manifests else f"no {MANIFEST}"
        raise ParcelError(f"{', '.join(map(str, folders)) or 'no folder'}: {why}", found=len(manifests))
    manifest: dict[str, Any] = json.loads(manifests.pop())
    found: dict[str, Path] = {}
    for entry in manifest["pieces"]:
        for path in (folder / entry["file"] for folder in folders):
            if path.is_file() and path.stat().st_size == entry["bytes"] and sha256(path) == entry["sha256"]:
                found[entry["file"]] = path
    return manifest, found


def check(folder: Path, files: int, file_bytes: int, total_bytes: int) -> tuple[int, int]:
    """(count, bytes) of what lies under `folder`; ParcelError where a bridge with these limits would drop some."""
    paths = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
    sizes = {path: path.lstat().st_size for path in paths}
    for path, size in sizes.items():
        parts = path.relative_to(folder).parts
        if path.is_symlink() or len(parts) > 3 or not all(re.fullmatch(r"[\w.-]+", part, re.ASCII) for part in parts):
            raise ParcelError(f"{path}: links, deep folders and odd names are left behind", path=str(path))
        if size > file_bytes:
            raise ParcelError(
                f"{path}: {size} bytes, at most {file_bytes} come through", expected=file_bytes, found=size
            )
    if len(paths) > files or sum(sizes.values()) > total_bytes:
        raise ParcelError(
            f"{folder}: {len(paths)} files of {sum(sizes.values())} bytes, only {files} of {total_bytes} come through",
            found=[len(paths), sum(sizes.values())],
        )
    return len(paths), sum(sizes.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("pack")
    verb.add_argument("root", type=Path)
    verb.add_argument("-o", "--out", type=Path, required=True)
    verb.add_argument("--names", nargs="+", default=())
    verb.add_argument("--max-bytes", type=int, default=MAX_PIECE)
    verb.add_argument("--apart", action="store_true")
    verb.add_argument("--plain", action="store_true")
    verb = verbs.add_parser("unpack")
    verb.add_argument("folders", nargs="+", type=Path)
    verb.add_argument("-o", "--out", type=Path, required=True)
    verb = verbs.add_parser("missing")
    verb.add_argument("folders", nargs="+", type=Path)
    verb = verbs.add_parser("check")
    verb.add_argument("folder", type=Path)
    verb.add_argument("--files", type=int, default=8)
    verb.add_argument("--file-bytes", type=int, default=16 << 20)
    verb.add_argument("--bytes", type=int, default=64 << 20)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line; `missing` prints the pieces that are not there and succeeds when there are none."""
    args = _parser().parse_args(argv)
    try:
        if args.verb == "pack":
            for piece in pack(args.root, args.out, args.names, args.max_bytes, args.apart, args.plain):
                print(f"{piece} {piece.stat().st_size}")
        elif args.verb == "unpack":
            unpack(args.folders, args.out)
        elif args.verb == "missing":
            lacking = missing_pieces(args.folders)
            print("\n".join(lacking), end="\n" if lacking else "")
            return 1 if lacking else 0
        else:
            print("{} files, {} bytes".format(*check(args.folder, args.files, args.file_bytes, args.bytes)))
    except (ParcelError, OSError, ValueError, tarfile.TarError) as error:
        print(f"error: {error}", file=sys.stderr)
        return int(getattr(error, "exit_code", 4))
    return 0


if __name__ == "__main__":
    sys.exit(main())
