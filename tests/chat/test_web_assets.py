"""tools/web-assets.py: what it takes from a package, and what it refuses. No network."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from turbosparse.train.fetch import FetchError

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "web-assets.py"


@pytest.fixture
def assets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("web_assets", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "web_assets", module)
    spec.loader.exec_module(module)
    return module


def package(cache: Path, name: str, files: dict[str, bytes]) -> str:
    """An npm tarball in the cache; its SHA-256."""
    cache.mkdir(exist_ok=True)
    with tarfile.open(cache / name, "w:gz") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return hashlib.sha256((cache / name).read_bytes()).hexdigest()


def test_takes_files_and_drops_source_maps(assets: ModuleType, tmp_path: Path) -> None:
    script = b"export const a = 1;\n//# sourceMappingURL=a.js.map\n"
    digest = package(
        tmp_path / "cache", "thing-1.0.0.tgz", {"package/dist/a.js": script, "package/fonts/f.woff2": b"font"}
    )
    asset = assets.Asset(
        assets.npm("thing", "1.0.0", digest, "MIT"),
        {r"package/dist/a\.js": "a.js", r"package/fonts/[\w-]+\.woff2": "fonts/"},
    )
    assets.unpack(asset, tmp_path / "out", tmp_path / "cache")
    assert (tmp_path / "out" / "a.js").read_bytes() == b"export const a = 1;\n"
    assert (tmp_path / "out" / "fonts" / "f.woff2").read_bytes() == b"font"


def test_another_hash_is_refused(assets: ModuleType, tmp_path: Path) -> None:
    package(tmp_path / "cache", "thing-1.0.0.tgz", {"package/a.js": b""})
    asset = assets.Asset(assets.npm("thing", "1.0.0", "0" * 64, "MIT"), {r"package/a\.js": "a.js"})
    with pytest.raises(FetchError, match="sha256: expected"):
        assets.unpack(asset, tmp_path / "out", tmp_path / "cache")


def test_a_missing_file_is_said(assets: ModuleType, tmp_path: Path) -> None:
    digest = package(tmp_path / "cache", "thing-1.0.0.tgz", {"package/a.js": b""})
    asset = assets.Asset(assets.npm("thing", "1.0.0", digest, "MIT"), {r"package/b\.js": "b.js"})
    with pytest.raises(FetchError, match="no file"):
        assets.unpack(asset, tmp_path / "out", tmp_path / "cache")


def test_a_changed_file_is_noticed(assets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = package(tmp_path / "cache", "thing-1.0.0.tgz", {"package/a.js": b"let a;"})
    asset = assets.Asset(assets.npm("thing", "1.0.0", digest, "MIT"), {r"package/a\.js": "a.js"})
    monkeypatch.setattr(assets, "PAGE", (asset,))
    out = tmp_path / "out"
    assert not assets.is_current(out)
    assets.install(out, tmp_path / "cache")
    assert assets.is_current(out)
    (out / "a.js").write_text("let evil;")
    assert not assets.is_current(out)


def test_every_package_is_pinned(assets: ModuleType) -> None:
    for asset in (*assets.PAGE, assets.AXE):
        assert len(asset.source.sha256) == 64
        assert asset.source.client == "npm"
        assert any("LICENSE" in place for place in asset.files.values()) or asset is assets.AXE
