"""The sdist and the wheel hold the whole package, and run away from the repository."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_wheel_and_sdist_pass_the_quickstart_in_an_environment_of_their_own(tmp_path):
    """The dependencies are those of the tests; the workflow `wheel` installs them from the index."""
    command = [sys.executable, ROOT / "scripts" / "check_distributions.py", tmp_path / "dist"]
    command += ["--dependencies-of", sysconfig.get_path("purelib")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.suffix for path in (tmp_path / "dist").iterdir()} == {".whl", ".gz"}
