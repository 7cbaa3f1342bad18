"""A run says how it ended: finished, stopped by a signal, or failed with its error."""

import json
import signal

import pytest

from tiltlm.core import ConfigError, RunError
from tiltlm.runs.directory import RunDirectory
from tiltlm.runs.ending import ENDED, ending_of, read_ending
from tiltlm.training.guards import Interrupted


@pytest.mark.parametrize(
    ("error", "state", "exit_code", "code"),
    [
        (None, "finished", 0, ""),
        (RunError("too many", code="too_many_bad_steps"), "failed", 1, "too_many_bad_steps"),
        (ConfigError("no", code="conflict"), "failed", 2, "conflict"),
        (Interrupted(signal.SIGTERM), "stopped", 143, "interrupted"),
        (Interrupted(signal.SIGINT), "stopped", 130, "interrupted"),
        (KeyboardInterrupt(), "stopped", 130, "KeyboardInterrupt"),
        (SystemExit(143), "stopped", 143, "SystemExit"),
        (SystemExit(3), "failed", 3, "SystemExit"),
        (ZeroDivisionError("division by zero"), "failed", 1, "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_the_ending_follows_the_error(error, state, exit_code, code):
    ending = ending_of(error)
    assert (ending.state, ending.exit_code, ending.code) == (state, exit_code, code)
    assert bool(ending.message) == (state != "finished")


def fail(folder, error: Exception, *blocked: str) -> None:
    """Have a run fail that has a checkpoint; folders with the `blocked` names are in its way."""

    def run() -> None:
        with RunDirectory.open(folder) as run:
            for name in ("checkpoints", *blocked):
                (run.path / name).mkdir()
            raise error

    with pytest.raises(type(error)):
        run()


def test_a_run_notes_its_end_and_forgets_it_when_it_goes_on(tmp_path):
    fail(tmp_path / "run", ZeroDivisionError())
    assert read_ending(tmp_path / "run").state == "failed"
    with RunDirectory.open(tmp_path / "run", resume=True) as run:
        assert read_ending(run.path) is None
    assert read_ending(tmp_path / "run").state == "finished"


def test_a_finished_run_that_is_not_continued_stays_finished(tmp_path):
    with RunDirectory.open(tmp_path / "run"):
        pass
    refused = ConfigError("another objective", code="other_run")
    with pytest.raises(ConfigError), RunDirectory.open(tmp_path / "run", resume=True):
        raise refused
    assert read_ending(tmp_path / "run").state == "finished"
    with pytest.raises(ZeroDivisionError), RunDirectory.open(tmp_path / "run", resume=True):
        raise ZeroDivisionError
    assert read_ending(tmp_path / "run").state == "failed"


def test_an_end_that_cannot_be_written_hides_no_error(tmp_path):
    fail(tmp_path / "run", ZeroDivisionError(), f".{ENDED}.tmp")  # the temporary file cannot be made
    assert read_ending(tmp_path / "run") is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"state": "lost", "at": ""}', '{"state": "failed"'])
def test_a_damaged_note_is_none(tmp_path, content):
    (tmp_path / ENDED).write_text(content)
    assert read_ending(tmp_path) is None


def test_the_note_is_plain_json(tmp_path):
    fail(tmp_path / "run", RunError("the disk is full", code="not_writable", key="output"))
    found = json.loads((tmp_path / "run" / ENDED).read_text())
    assert (found["state"], found["code"], found["key"]) == ("failed", "not_writable", "output")
    assert found["message"] == "the disk is full"
