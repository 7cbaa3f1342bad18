"""A function in another process: its errors, crashes and hangs belong to one response."""

import os
import sys
from pathlib import Path

import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.judging import Item, build_judge

CHECKS = """
import os, sys, time

def check(prompt, response, row):
    print("this is no reply")
    if response == "slow":
        time.sleep(60)
    if response == "crash":
        os._exit(3)
    if response == "raise":
        raise ValueError("no such thing")
    if response == "none":
        return None
    if response == "nan":
        return float("nan")
    return len(response) + len(prompt) + row.get("extra", 0)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "checks_of_a_test.py").write_text(CHECKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def judge(**settings):
    return build_judge({"kind": "verifier", "function": "checks_of_a_test:check", **settings})


def test_each_response_has_its_own_score_or_error(folder):
    texts = ["good", "raise", "crash", "none", "nan", "slow", "well"]
    found = list(judge(timeout=1.0).score([Item("pp", text, {"extra": 10}) for text in texts]))
    assert [score.value for score in found] == [16, None, None, None, None, None, 16]
    assert [bool(score.error) for score in found] == [False, True, True, True, True, True, False]
    assert "ValueError: no such thing" in found[1].error


def test_a_late_response_may_have_a_score(folder):
    found = list(judge(timeout=0.5, timeout_score=-1.0).score([Item("p", "slow"), Item("p", "x")]))
    assert [(score.value, score.error) for score in found] == [(-1.0, ""), (2.0, "")]


def test_the_column_that_is_read_is_the_only_one_that_is_given(folder):
    item = Item("p", "x", {"extra": 5})
    assert [score.value for score in judge(column="other").score([item])] == [2]
    assert [score.value for score in judge(column="extra").score([item])] == [7]
    assert judge(column="extra").reads == ("extra",)
    assert judge().reads is None


def test_another_version_of_the_function_is_another_judge(folder):
    before = judge().digest
    assert judge().digest == before
    (folder / "checks_of_a_test.py").write_text(CHECKS + "\n# changed\n")
    assert judge().digest != before
    assert judge(timeout_score=0.0).digest != judge().digest


@pytest.mark.parametrize("name", ["checks_of_a_test:nothing", "no_such_module_here:f"])
def test_a_function_that_is_not_there(folder, name):
    with raises(ConfigError, "function_not_loaded", key="judge.function"):
        build_judge(f"verifier:{name}")


def test_a_name_of_another_form():
    with raises(ConfigError, "wrong_type", key="judge.function"):
        build_judge({"kind": "verifier", "function": "checks"})


def test_nothing_is_left_running(folder):
    scores = judge(timeout=60.0).score([Item("p", "x"), Item("p", "y")])
    next(scores)
    scores.close()
    if sys.platform == "linux":
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        commands = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
        assert not any("function_process" in command for command in commands)
