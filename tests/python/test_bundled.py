"""Bundled models: found in a checkout and in a wheel, converted once, anew when they change."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from turbosparse import ArgumentError, FileError, Model, bundled

from tests.python.sources import MICRO


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package's `models`, empty, and an empty cache."""
    monkeypatch.setattr(bundled, "_roots", lambda: [tmp_path / "models"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_here() -> None:
    assert {"turbosparse-micro", "turbosparse-micro-moe"} <= set(bundled.names())
    assert bundled.names() == sorted(bundled.names(), key=bundled.PREFERRED.index)


def test_a_checkpoint_is_converted_once(package: Path) -> None:
    shutil.copytree(MICRO, package / "turbosparse-micro")
    path = bundled.default_model()
    stamp = path.stat().st_mtime_ns
    assert bundled.default_model() == path
    assert path.stat().st_mtime_ns == stamp
    assert path.parent == bundled.cache_directory()
    with Model(path, n_ctx=32, n_threads=1) as model:
        assert model.generate("She", max_tokens=2, ignore_eos=True).tokens


def test_a_changed_checkpoint_is_converted_anew(package: Path) -> None:
    copy = shutil.copytree(MICRO, package / "turbosparse-micro")
    old = bundled.default_model()
    os.utime(copy / "config.json", ns=(1, 1))
    new = bundled.default_model()
    assert new != old
    assert list(new.parent.glob("*.gguf")) == [new], "the stale one is gone"


def test_a_ready_file_is_taken_as_it_is(package: Path) -> None:
    (package / "turbosparse-micro").mkdir()
    ready = package / "turbosparse-micro" / "model.gguf"
    ready.touch()
    assert bundled.default_model() == ready
    assert not bundled.cache_directory().exists()


def test_the_best_comes_first(package: Path) -> None:
    for name in bundled.PREFERRED:
        (package / name).mkdir()
        (package / name / "model.gguf").touch()
    assert bundled.names() == list(bundled.PREFERRED)
    assert bundled.default_model().parent.name == bundled.PREFERRED[0]


def test_none_and_others(package: Path) -> None:
    assert bundled.names() == []
    with pytest.raises(FileError, match="no bundled model"):
        bundled.default_model()
    for name in ("turbosparse-micro", "../models/x", ""):
        with pytest.raises(ArgumentError, match="no bundled model"):
            bundled.path(name)


def test_a_cache_that_cannot_be_written(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(MICRO, package / "turbosparse-micro")
    (package / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(package / "file"))
    with pytest.raises(FileError, match="XDG_CACHE_HOME"):
        bundled.default_model()


def test_two_at_once(package: Path) -> None:
    shutil.copytree(MICRO, package / "turbosparse-micro")
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(bundled.default_model())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert found[0].stat().st_size > 1_000_000
