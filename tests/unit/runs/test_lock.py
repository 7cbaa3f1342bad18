"""A run directory has one writer at a time, also where the lock of a lost machine stays."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from support.errors import has_event, raises
from tiltlm.core import ConfigError, RunError
from tiltlm.runs import check_start, lock
from tiltlm.runs.directory import RunDirectory

WRITES = """
import sys, pathlib
from tiltlm.core import RunError
from tiltlm.runs import heartbeat
from tiltlm.runs.directory import RunDirectory
heartbeat.BEAT = 0.05
with RunDirectory.open(sys.argv[1]) as run:
    print("writes", flush=True)
    sys.stdin.readline()
    try:
        run.write_json("late.json", {})
    except RunError as error:
        print(error.code, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def frozen(tmp_path, monkeypatch):
    """Return a process that writes to a run directory and is frozen, as a machine that hangs; its lock stays."""
    monkeypatch.setattr(lock, "STALE", 1.0)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "writes\n"
        process.send_signal(signal.SIGSTOP)
        yield process
        process.kill()


def wait_until_stale(run: Path) -> None:
    until = time.monotonic() + 30
    while not lock.is_stale(run):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_frozen_writer_is_taken_over_and_then_writes_nothing_more(frozen, tmp_path, caplog):
    run = tmp_path / "run"
    wait_until_stale(run)
    with RunDirectory.open(run, resume=True) as taken:
        assert has_event(caplog, "takes_over")
        frozen.send_signal(signal.SIGCONT)
        frozen.stdin.write("\n")
        frozen.stdin.flush()
        assert frozen.stdout.readline() == "taken_over\n"
        assert not (run / "late.json").exists()
        frozen.communicate("\n")
        taken.check_writer()  # the end of the other changes nothing
        with raises(RunError, "in_use", key="output", mentions=[str(os.getpid())]):
            RunDirectory.open(run, resume=True)
    RunDirectory.open(run, resume=True).close()


def test_a_writer_that_gives_signs_of_life_is_not_taken_over(frozen, tmp_path):
    frozen.send_signal(signal.SIGCONT)
    until = time.monotonic() + 2.0  # twice what makes a writer stale
    while time.monotonic() < until:
        with raises(RunError, "in_use", key="output"):
            RunDirectory.open(tmp_path / "run", resume=True)


def test_a_restart_waits_for_the_earlier_writer_to_end(tmp_path, caplog):
    caplog.set_level("INFO")
    earlier = RunDirectory.open(tmp_path / "run")
    threading.Timer(0.5, earlier.close).start()
    with RunDirectory.open(tmp_path / "run", resume=True, waits=True) as run:
        run.check_writer()
    assert has_event(caplog, "waits")


def test_patience_ends(tmp_path):
    with RunDirectory.open(tmp_path / "run"), raises(RunError, "in_use", key="output"):
        lock.take(tmp_path / "run", patience=0.2)


def test_a_writer_leaves_no_files(tmp_path):
    RunDirectory.open(tmp_path / "run").close()
    assert {p.name for p in (tmp_path / "run").iterdir()} <= {RunDirectory.MARKER, lock.LOCK}


def test_a_writer_says_who_it_is(tmp_path):
    with RunDirectory.open(tmp_path / "run"):
        found = json.loads((tmp_path / "run" / lock.WRITER).read_text())
    assert found["pid"] == os.getpid()
    assert {"host", "since", "token"} <= found.keys()


class TestResumeIfExists:
    def test_it_starts_a_run_and_continues_it(self, tmp_path):
        run = tmp_path / "run"
        assert check_start(run, False, False, True) is False
        RunDirectory.open(run).close()
        assert check_start(run, False, False, True) is True

    def test_a_folder_that_a_killed_process_had_only_locked_is_a_start(self, tmp_path):
        (tmp_path / lock.LOCK).touch()
        (tmp_path / lock.WRITER).write_text("{}")
        assert check_start(tmp_path, False, False, True) is False

    def test_something_else_in_the_folder_is_refused(self, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with raises(ConfigError, "not_empty", key="output"):
            check_start(tmp_path, False, False, True)

    @pytest.mark.parametrize("other", ["resume", "overwrite"])
    def test_it_excludes_the_other_two(self, other, tmp_path):
        given = {"resume": False, "overwrite": False} | {other: True}
        with raises(ConfigError, "conflict", key="--resume-if-exists", mentions=[f"--{other}"]):
            check_start(tmp_path, **given, resume_if_exists=True)

    def test_plain_resume_still_needs_a_run(self, tmp_path):
        with raises(ConfigError, "no_run", key="--resume"):
            check_start(tmp_path / "run", True, False, False)
