"""Put the page's libraries where the chat serves them from: npm packages at pinned versions and hashes.

    python tools/web-assets.py            into python/turbosparse/chat/static/vendor/ (ignored by git)
    python tools/web-assets.py --check    only say whether they are there; exit code 1 if not
    python tools/web-assets.py --axe DIR  axe-core, which only the tests use, into DIR

A package is fetched once by the npm client (`npm pack`: nothing is installed, no script is run),
kept in the cache, and checked against its SHA-256 here; the files have theirs in packages.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from turbosparse.train.archive import members
from turbosparse.train.fetch import FetchError, Source, default_cache, fetch

VENDOR = Path(__file__).resolve().parents[1] / "python" / "turbosparse" / "chat" / "static" / "vendor"
STAMP = "packages.txt"


@dataclass(frozen=True)
class Asset:
    """Files of one package: `files` maps patterns of names in it to the folder or file they become."""

    source: Source
    files: dict[str, str]


def npm(name: str, version: str, sha256: str, licence: str) -> Source:
    """A pinned package; npm names the file after package and scope."""
    file = f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    return Source("npm", name, version, file, sha256, licence)


PAGE = (
    Asset(  # preact 10 and htm in one module
        npm("htm", "3.1.1", "2425b9bee11409177bcabc7f32e319926fc6690c1701c0b257c88bdff2d5ba90", "Apache-2.0, MIT"),
        {r"package/preact/standalone\.module\.js": "preact.js", r"package/LICENSE": "htm.LICENSE"},
    ),
    Asset(
        npm("marked", "18.2.1", "d66c5213fc203466186060105b01f51896764ba64b3797d2620d02e28e34b8ca", "MIT"),
        {r"package/lib/marked\.esm\.js": "marked.js", r"package/LICENSE": "marked.LICENSE"},
    ),
    Asset(
        npm(
            "dompurify",
            "3.4.18",
            "8b86f79c6481fec23dd81d4de32179422668912ed033c0c47e786a6e70cb3379",
            "Apache-2.0 or MPL-2.0",
        ),
        {r"package/dist/purify\.es\.mjs": "purify.js", r"package/LICENSE": "dompurify.LICENSE"},
    ),
    Asset(
        npm(
            "@highlightjs/cdn-assets",
            "11.12.0",
            "b8a006d30f45afe783072569f3d69c5b60c0e7b9ca28cd474e12f2584e2a3bd9",
            "BSD-3-Clause",
        ),
        {r"package/es/highlight\.min\.js": "highlight.js", r"package/LICENSE": "highlight.LICENSE"},
    ),
    Asset(
        npm(
            "katex", "0.19.1", "24da5a599eb2fcede2e270b99a6ff48bca816beecc95feeb84e8cccbd1bb34fd", "MIT, fonts OFL-1.1"
        ),
        {
            r"package/dist/katex\.mjs": "katex/katex.js",
            r"package/dist/katex\.min\.css": "katex/katex.css",
            r"package/dist/fonts/[\w-]+\.woff2": "katex/fonts/",
            r"package/LICENSE": "katex/LICENSE",
        },
    ),
)
AXE = Asset(
    npm("axe-core", "4.14.1", "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745", "MPL-2.0"),
    {r"package/axe\.min\.js": "axe.js"},
)


def unpack(asset: Asset, target: Path, cache: Path) -> list[Path]:
    """Write the asset's files below `target`; raises FetchError when one is missing."""
    package, written = fetch(asset.source, cache), []
    for pattern, place in asset.files.items():
        found = sorted(members(package, pattern))
        if not found:
            raise FetchError(asset.source, f"no file {pattern} in {package}")
        for name, content in found:
            path = target / (place + name.rsplit("/", 1)[-1] if place.endswith("/") else place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_without_source_map(content) if path.suffix == ".js" else content)
            written.append(path)
    return written


def _without_source_map(script: bytes) -> bytes:
    """Developer tools would ask for a map that is not there."""
    return re.sub(rb"\n//# sourceMappingURL=\S+\s*\Z", b"\n", script)


def manifest() -> str:
    """What the folder should hold: one line per package, and how many files were wanted from it."""
    lines = [f"{a.source.name} {a.source.version} {a.source.sha256} {a.source.licence}" for a in PAGE]
    return "\n".join(lines) + "\n"


def is_current(target: Path) -> bool:
    """Whether `target` holds exactly these packages, every file as it was written."""
    stamp = target / STAMP
    if not stamp.is_file() or not stamp.read_text().startswith(manifest()):
        return False
    sums = [line.split("  ", 1) for line in stamp.read_text().removeprefix(manifest()).splitlines() if line]
    return all((target / name).is_file() and _sum(target / name) == digest for digest, name in sums)


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def install(target: Path, cache: Path) -> None:
    """Fetch and unpack everything, then write the stamp."""
    files = [path for asset in PAGE for path in unpack(asset, target, cache)]
    sums = "".join(f"{_sum(path)}  {path.relative_to(target).as_posix()}\n" for path in files)
    (target / STAMP).write_text(manifest() + "\n" + sums)


def main() -> int:
    """Exit code 0 when the files are there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="only say whether the files are there")
    parser.add_argument("--axe", type=Path, metavar="DIR", help="put axe-core there instead")
    parser.add_argument("--cache", type=Path, default=default_cache().with_name("web"), help="where packages are kept")
    options = parser.parse_args()
    try:
        if options.axe:
            unpack(AXE, options.axe, options.cache)
        elif not is_current(VENDOR):
            if options.check:
                raise SystemExit(f"the page's libraries are not in {VENDOR}; run: python tools/web-assets.py")
            install(VENDOR, options.cache)
    except FetchError as error:
        print(f"web-assets: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
