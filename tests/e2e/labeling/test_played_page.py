"""docs/labelling.md, from two models to the verdict of an A/B test, as its script plays it in a real browser."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from support.browsers import find_chromium
from support.pages import ROOT


@pytest.mark.long
def test_the_page_about_labelling_is_played_to_its_verdict(tmp_path):
    script = [sys.executable, str(ROOT / "scripts" / "play_labelling.py"), str(tmp_path / "play"), "--prompts", "4"]
    environment = {**os.environ, "TILTLM_CHROMIUM": find_chromium()}
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "play" / "verdict" / "compare.html").is_file()
    assert "all planned votes are in" in done.stdout
    played = [
        shlex.split(line[len("$ tiltlm ") :]) for line in done.stdout.splitlines() if line.startswith("$ tiltlm ")
    ]
    section = (ROOT / "docs" / "labelling.md").read_text(encoding="utf-8").split("\n## ")[1]
    shown = re.findall(r"^tiltlm (.*?)\n```", section.replace("\\\n", ""), re.MULTILINE | re.DOTALL)
    assert len(shown) >= 4
    for command in shown:
        words = [word.rstrip("}") for word in shlex.split(command)]
        assert any(has_all(words, line) for line in played), command


def has_all(words: list[str], line: list[str]) -> bool:
    return all(any(one.startswith(word) for one in line) for word in words)
