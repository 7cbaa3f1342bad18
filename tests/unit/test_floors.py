"""The lowest versions that pyproject.toml allows are safe ones, and each dependency has one."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FLOORS = {
    requirement.name: Version(next(iter(requirement.specifier)).version)
    for requirement in map(Requirement, PROJECT["dependencies"])
}


@pytest.mark.parametrize(
    ("package", "safe"),
    [
        ("torch", "2.10"),  # CVE-2026-24747: code of a file ran in spite of weights_only
        ("transformers", "5.3"),  # CVE-2026-4372: code of config.json ran without trust_remote_code
    ],
)
def test_no_version_is_allowed_that_runs_code_of_files(package, safe):
    assert FLOORS[package] >= Version(safe)


def test_every_dependency_has_a_lowest_version_and_no_highest():
    requirements = [
        *PROJECT["dependencies"],
        *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
    ]
    for requirement in map(Requirement, requirements):
        if requirement.name != "tiltlm":
            assert [part.operator for part in requirement.specifier] == [">="], requirement
