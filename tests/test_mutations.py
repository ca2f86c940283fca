"""The patches of tests/mutation still fit the sources (running them is `make test-mutation`)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.mutation.mutations import MUTATIONS, REQUIRED, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.kind}: {m.name}")
def test_every_patch_matches_exactly_one_place(mutation: Mutation, tmp_path: Path) -> None:
    """Applied in order, to copies; and something is different afterwards."""
    files = {p.file for p in mutation.patches}
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    for patch in mutation.patches:
        patch.apply(tmp_path)
    assert all((tmp_path / file).read_text() != (ROOT / file).read_text() for file in files)


def test_every_required_kind_is_there() -> None:
    assert {m.kind for m in MUTATIONS} >= set(REQUIRED)
