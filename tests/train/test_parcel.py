"""Pieces: what is packed comes out the same; whatever is missing, broken, mixed or too large is said."""

from __future__ import annotations

import os

import numpy as np
import pytest
from turbosparse.train.parcel import MANIFEST, ParcelError, check, main, missing_pieces, pack, unpack


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "noise.bin").write_bytes(np.random.default_rng(0).bytes(100_000))
    (folder / "sub" / "text.txt").write_text("hello " * 1000)
    return folder


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_there_and_back(root, tmp_path, plain, apart):
    pieces = pack(root, tmp_path / "out", max_bytes=30_000, apart=apart, plain=plain)
    assert len(pieces) >= 4
    assert all(piece.stat().st_size <= 30_000 for piece in pieces)
    folders = sorted({piece.parent for piece in pieces})
    assert len(folders) == (len(pieces) if apart else 1)
    unpack(folders, tmp_path / "back")
    for name in ("noise.bin", "sub/text.txt"):
        assert (tmp_path / "back" / name).read_bytes() == (root / name).read_bytes()


def test_names_choose(root, tmp_path):
    pack(root, tmp_path / "out", names=["sub"])
    unpack([tmp_path / "out"], tmp_path / "back")
    assert [p.name for p in (tmp_path / "back").iterdir()] == ["sub"]
    with pytest.raises(ParcelError, match="gone: nothing to pack"):
        pack(root, tmp_path / "out", names=["gone"])


def test_packing_is_reproducible(root, tmp_path):
    first = [p.read_bytes() for p in pack(root, tmp_path / "a", max_bytes=30_000)]
    os.utime(root / "noise.bin", (1, 1))
    assert [p.read_bytes() for p in pack(root, tmp_path / "b", max_bytes=30_000)] == first


def test_packing_again_leaves_no_old_pieces(root, tmp_path):
    pack(root, tmp_path / "out", max_bytes=10_000)
    pack(root, tmp_path / "out", max_bytes=60_000)
    assert len(list((tmp_path / "out").glob("piece-*"))) == 2


def test_pieces_may_come_one_by_one(root, tmp_path):
    pieces = pack(root, tmp_path / "out", max_bytes=40_000, apart=True)
    folders = [piece.parent for piece in pieces]
    assert missing_pieces(folders[:1]) == [piece.name for piece in pieces[1:]]
    assert missing_pieces(folders) == []
    with pytest.raises(ParcelError, match=r"piece-001\.part is missing or broken \(1 of 3 pieces are here\)"):
        unpack(folders[:1], tmp_path / "back")


def test_a_broken_piece_is_as_good_as_none(root, tmp_path):
    pieces = pack(root, tmp_path / "out", max_bytes=40_000)
    data = bytearray(pieces[1].read_bytes())
    data[7] ^= 1
    pieces[1].write_bytes(bytes(data))
    assert missing_pieces([tmp_path / "out"]) == [pieces[1].name]
    with pytest.raises(ParcelError, match="missing or broken"):
        unpack([tmp_path / "out"], tmp_path / "back")


def test_pieces_of_two_parcels_do_not_mix(root, tmp_path):
    pack(root, tmp_path / "a", max_bytes=40_000)
    (root / "noise.bin").write_bytes(b"other")
    pack(root, tmp_path / "b", max_bytes=40_000)
    with pytest.raises(ParcelError, match="pieces of different parcels are mixed"):
        unpack([tmp_path / "a", tmp_path / "b"], tmp_path / "back")
    with pytest.raises(ParcelError, match=f"no {MANIFEST}"):
        unpack([root], tmp_path / "back")


def test_limits_are_checked(tmp_path):
    for i in range(8):
        (tmp_path / f"f{i}").write_bytes(b"x" * 10)
    assert check(tmp_path, 8, 10, 80) == (8, 80)
    for limits in ((7, 10, 80), (8, 9, 80), (8, 10, 79)):
        with pytest.raises(ParcelError, match="come through"):
            check(tmp_path, *limits)


@pytest.mark.parametrize("name", ["a b", "a/b/c/d", "\u00e9"])
def test_names_that_are_left_behind(tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("x")
    with pytest.raises(ParcelError, match="left behind"):
        check(tmp_path / "out", 8, 10, 80)


def test_links_are_left_behind(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "x")
    with pytest.raises(ParcelError, match="left behind"):
        check(tmp_path, 8, 10, 80)


def test_the_command_line(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["pack", str(root), "-o", str(out), "--max-bytes", "60000", "--apart"]) == 0
    assert main(["missing", str(out / "0")]) == 1
    assert capsys.readouterr().out.strip().endswith("piece-001.part")
    assert main(["missing", str(out / "0"), str(out / "1")]) == 0
    assert main(["unpack", str(out / "0"), "-o", str(tmp_path / "back")]) == 4
    assert "send it again" in capsys.readouterr().err
    assert main(["unpack", str(out / "0"), str(out / "1"), "-o", str(tmp_path / "back")]) == 0
    assert main(["check", str(out)]) == 0
