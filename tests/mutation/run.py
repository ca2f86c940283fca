"""Prove the suite: plant known mistakes in copies of the sources; for each, a fast part of the suite must turn red.

    python tests/mutation/run.py [-k TEXT] [--keep]

The tree itself is never touched: library, packages and build lie in a temporary directory, and the tests run against
those. Fails when a patch no longer matches exactly one place, when the unchanged copy is not green, or when a
mistake survives.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.mutation.mutations import MUTATIONS, Mutation  # noqa: E402

SUBSET = (
    "tests/ggml_sparse/test_logits.py::test_prefill",
    "tests/ggml_sparse/test_logits.py::test_decode_after_prefill",
    "tests/ggml_sparse/test_masks.py",
)
# Editable installs come first on sys.meta_path, so their finders go; then the copy is on the path.
BOOT = """
import sys
site, root, *args = sys.argv[1:]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__]
sys.path[:0] = [site, root]
import turbosparse
assert turbosparse.__file__.startswith(site), turbosparse.__file__
import pytest
sys.exit(pytest.main(args))
"""


class Copy:
    """Sources, build directory and importable package of one working copy."""

    def __init__(self, root: Path) -> None:
        self.root, self.site, self.build_dir = root, root / "site", root / "build"
        self.sound = root / "libggml-sparse.so"  # the first build, kept for mistakes in Python alone
        for name in ("ggml_sparse", "convert"):
            shutil.copytree(ROOT / name, root / name)
        ignore = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / "python" / "turbosparse", self.site / "turbosparse", ignore=ignore)
        spec = importlib.util.find_spec("turbosparse._native._ffi")
        assert spec is not None, "install turbosparse first: make setup"
        assert spec.origin is not None
        shutil.copy(spec.origin, self.native)

    @property
    def native(self) -> Path:
        return self.site / "turbosparse" / "_native"

    def configure(self) -> None:
        command = ["cmake", "-S", str(self.root / "ggml_sparse"), "-B", str(self.build_dir)]
        call([*command, "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"])

    def refresh(self, rebuild: bool) -> None:
        """Bring the importable package up to date with the sources."""
        shutil.rmtree(self.site / "turbosparse" / "convert", ignore_errors=True)
        shutil.copytree(self.root / "convert", self.site / "turbosparse" / "convert")
        if rebuild:
            call(["cmake", "--build", str(self.build_dir), "--parallel", str(len(os.sched_getaffinity(0)))])
            if not self.sound.exists():
                shutil.copy(self.build_dir / self.sound.name, self.sound)
        shutil.copy(self.build_dir / self.sound.name if rebuild else self.sound, self.native)

    def restore(self, mutation: Mutation) -> None:
        for patch in mutation.patches:
            shutil.copyfile(ROOT / patch.file, self.root / patch.file)  # a new mtime, so that it is compiled again

    def test(self, *tests: str) -> tuple[int, str]:
        """Exit code of pytest (negative: a signal) and the first thing that failed."""
        options = ["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider"]
        command = [sys.executable, "-c", BOOT, str(self.site), str(ROOT), *options, *tests]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        failed = re.search(r"^(?:FAILED|ERROR) \S*?([^/\s]+::\S+)", done.stdout, re.M)
        return done.returncode, failed.group(1) if failed else (done.stdout + done.stderr)[-2000:]


def call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def survives(copy: Copy, mutation: Mutation) -> bool:
    """Plant, test, take back. True when the tests stayed green."""
    began = time.monotonic()
    for patch in mutation.patches:
        patch.apply(copy.root)
    copy.refresh(mutation.native)
    code, failed = copy.test(*SUBSET)
    copy.restore(mutation)
    if code > 1:
        sys.exit(f"pytest could not run ({code}): {failed}")
    verdict = "SURVIVED" if code == 0 else "caught by" if code == 1 else f"killed by signal {-code}"
    detail = failed if code == 1 else ""
    print(f"{mutation.kind}: {mutation.name}: {verdict} {detail} ({time.monotonic() - began:.0f} s)", flush=True)
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", metavar="TEXT", default="", help="only mutations whose name contains TEXT")
    parser.add_argument("--keep", action="store_true", help="leave the working copy behind")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if options.k in f"{m.kind}: {m.name}"]
    if not chosen:
        sys.exit(f"no mutation contains {options.k!r}")
    root = Path(tempfile.mkdtemp(prefix="mutation-"))
    try:
        copy = Copy(root)
        copy.configure()
        copy.refresh(rebuild=True)
        code, failed = copy.test(*SUBSET)
        if code != 0:
            sys.exit(f"the unchanged copy is not green ({code}): {failed}")
        survivors = [m for m in chosen if survives(copy, m)]
    finally:
        if not options.keep:
            shutil.rmtree(root)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mistakes were caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
