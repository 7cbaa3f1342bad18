"""Programs are run on tests in a process with limits; a program cannot pass by ending early."""

import pytest

from tiltlm.judging import Item, build_judge

TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]


def run(response, tests=TESTS, **settings):
    (found,) = build_judge({"kind": "tests", "timeout": 20.0, **settings}).score(
        [Item("p", response, {"tests": tests})]
    )
    return found


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("def add(a, b):\n    return a + b", 1.0),
        ("Sure:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", 1.0),
        ("def add(a, b):\n    return abs(a) + b", 0.5),
        ("def add(a, b):\n    return 0 / 0", 0.0),
        ("this is no program", 0.0),
        ("raise SystemExit(0)", 0.0),
        ("import os\nos._exit(0)", 0.0),
        ("import os\nos.kill(os.getpid(), 9)", 0.0),
        ("def add(a, b):\n    raise SystemExit", 0.0),
    ],
)
def test_the_score_is_the_share_of_tests_that_pass(response, value):
    found = run(response)
    assert (found.value, found.error) == (value, "")


def test_one_text_is_one_test():
    assert run("def add(a, b):\n    return a + b", "\n".join(TESTS)).value == 1.0
    assert run("def add(a, b):\n    return abs(a) + b", "\n".join(TESTS)).value == 0.0


@pytest.mark.parametrize("tests", [None, "", [], [1], {"a": 1}])
def test_a_row_without_tests_is_an_error(tests):
    found = run("pass", tests)
    assert found.value is None
    assert found.error


def test_a_program_that_does_not_end():
    found = run("while True:\n    pass", timeout=1.0)
    assert found.value is None
    assert found.error
    assert run("while True:\n    pass", timeout=1.0, timeout_score=0.0).value == 0.0


def test_memory_files_and_environment_are_limited(monkeypatch):
    monkeypatch.setenv("A_SECRET", "x")
    assert run("x = bytearray(3 << 30)", ["assert x"], memory=512).value == 0.0
    assert run("x = bytearray(1 << 20)", ["assert x"], memory=512).value == 1.0
    write = "file = open('f', 'wb')\nfile.write(b'x' * (32 << 20))\nfile.flush()"
    assert run(write, ["pass"]).value == 0.0
    assert run("import os", ["assert 'A_SECRET' not in os.environ", "assert os.listdir('.') == []"]).value == 1.0


def test_what_a_program_prints_or_starts_does_not_matter():
    assert run("print('x' * 10**6)", ["pass"]).value == 1.0
    started = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    assert run(started, ["pass"]).value == 1.0
