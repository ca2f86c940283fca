"""The mixture file: what it may say, and which licences are read."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from turbosparse.train.mixture import MixtureError, load_mixture

from tests.train.fakes import mixture_yaml, source, wheel


@pytest.fixture
def package(tmp_path):
    return source(wheel(tmp_path / "p-1.0.whl", {"a.txt": "x"}))


def written(tmp_path, origin, **stream):
    entry = {"package": "p", "reader": "text", **stream}
    return mixture_yaml(tmp_path / "m.yaml", {"p": origin}, {"s": entry})


def test_the_reference_mixture_is_sound():
    mixture = load_mixture()
    assert len(mixture.streams) >= 15
    assert {plan.name for plan in mixture.refused()} == {"wordnet", "postgresql-doc"}
    assert mixture.refused(["WordNet", "PostgreSQL"]) == []
    assert all(len(plan.source.sha256) == 64 for plan in mixture.streams)
    assert any(plan.heldout for plan in mixture.streams)


def test_values_and_defaults(tmp_path, package):
    (plan,) = load_mixture(written(tmp_path, package, weight=2, files="a.*")).streams
    assert (plan.weight, plan.files, plan.heldout, plan.source) == (2.0, "a.*", 0.02, package)


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [("PD", True), ("CC0-1.0", True), ("BSD-3-Clause", True), ("Apache-2.0 AND MIT", True), ("PSF-2.0", True),
     ("GPL-2.0", False), ("CC-BY-SA-3.0", False), ("MIT AND GPL-2.0", False), ("MITX", False), ("", False)],
)  # fmt: skip
def test_only_permissive_licences_are_read(tmp_path, package, licence, allowed):
    mixture = load_mixture(written(tmp_path, dataclasses.replace(package, licence=licence)))
    assert (mixture.refused() == []) == allowed
    assert mixture.refused([licence]) == [] or " AND " in licence


@pytest.mark.parametrize(
    ("stream", "message"),
    [({"reader": "pdf"}, r"streams\.s\.reader: expected one of .*found 'pdf'"),
     ({"package": "q"}, r"streams\.s\.package: expected one of p, found 'q'"),
     ({"weight": -1}, r"streams\.s\.weight: expected a number from 0"),
     ({"weight": "much"}, r"streams\.s\.weight"),
     ({"weight": True}, r"streams\.s\.weight"),
     ({"heldout": 0.9}, r"streams\.s\.heldout: expected a number from 0 to 0\.5, found 0\.9"),
     ({"files": "("}, r"streams\.s\.files is no regular expression"),
     ({"wieght": 1}, r"streams\.s: expected only the keys .*found 'wieght'")],
)  # fmt: skip
def test_mistakes_in_a_stream_are_named(tmp_path, package, stream, message):
    with pytest.raises(MixtureError, match=message):
        load_mixture(written(tmp_path, package, **stream))


@pytest.mark.parametrize(
    ("key", "value"),
    [("sha256", "abc"), ("client", "curl"), ("name", "--index-url=x"), ("file", "../../x.whl"), ("file", "a/b.whl")],
)
def test_mistakes_in_a_package_are_named(tmp_path, package, key, value):
    with pytest.raises(MixtureError, match=rf"packages\.p\.{key}: expected"):
        load_mixture(written(tmp_path, dataclasses.replace(package, **{key: value})))


def test_incomplete_files(tmp_path, package):
    file = tmp_path / "m.yaml"
    for content in ("", "- 1", "packages: {}\nstreams: {}", "packages: [", "\x00"):
        file.write_text(content)
        with pytest.raises(MixtureError):
            load_mixture(file)
    content = {"packages": {"p": {"client": "pip"}}, "streams": {"s": {}}}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(MixtureError, match=r"packages\.p has no `name`"):
        load_mixture(file)
    with pytest.raises(MixtureError, match="cannot be read"):
        load_mixture(tmp_path / "none.yaml")


def test_a_choice_of_streams(tmp_path):
    mixture = load_mixture()
    assert [p.name for p in mixture.only(["sotu", "chat"]).streams] == ["chat", "sotu"]
    with pytest.raises(MixtureError, match="no stream 'web'"):
        mixture.only(["web"])
