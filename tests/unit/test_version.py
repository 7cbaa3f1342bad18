"""The version is known with and without an installed package."""

import tomllib
from importlib.metadata import PackageNotFoundError

import pytest

from support.pages import ROOT
from tiltlm import version as module
from tiltlm.recipes.train import model_card, versions
from tiltlm.report import RunReport


@pytest.fixture
def not_installed(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("tiltlm.version.version", missing)
    monkeypatch.setattr("tiltlm.storage.versions.version", missing)


def test_sources_that_are_not_installed_have_the_version_of_their_project(not_installed, tmp_path):
    expected = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert module.find_version(ROOT / "src" / "tiltlm") == expected
    assert module.find_version(tmp_path / "src" / "tiltlm") == "unknown"
    (tmp_path / "pyproject.toml").write_text("[project\n")
    assert module.find_version(tmp_path / "src" / "tiltlm") == "unknown"


def test_a_model_card_needs_no_installed_package(not_installed):
    assert module.__version__ in model_card(RunReport("a run", versions=versions()))
