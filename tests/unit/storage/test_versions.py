"""Recorded versions are those of installed packages."""

import platform

import torch

from tiltlm.storage.versions import python_and_packages


def test_only_installed_packages_are_listed():
    found = python_and_packages("torch", "no-such-package")
    assert found == {"python": platform.python_version(), "torch": torch.__version__}
