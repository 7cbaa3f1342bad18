"""A run directory has one writer, is never overwritten by accident, and its files are whole."""

import json
import os
import socket
import subprocess
import sys

import pytest

from support.errors import raises
from tiltlm.core import ConfigError, RunError
from tiltlm.runs.directory import RunDirectory
from tiltlm.runs.lock import LOCK
from tiltlm.storage.files import write_json


def test_a_run_in_the_way_is_refused_and_the_ways_out_are_named(tmp_path):
    RunDirectory.open(tmp_path / "run").close()
    with raises(ConfigError, "already_holds_run", key="output", mentions=["--resume", "--overwrite"]) as refusal:
        RunDirectory.open(tmp_path / "run")
    assert refusal.value.exit_code == 2


def test_resume_keeps_and_overwrite_deletes(tmp_path):
    with RunDirectory.open(tmp_path / "run") as run:
        run.write_json("config.json", {"a": 1})
        run.checkpoints.mkdir()
    with RunDirectory.open(tmp_path / "run", resume=True) as run:
        assert json.loads((run.path / "config.json").read_text()) == {"a": 1}
    with RunDirectory.open(tmp_path / "run", overwrite=True) as run:
        assert not (run.path / "config.json").exists()
        assert not run.checkpoints.exists()
    with raises(ConfigError, "already_holds_run", key="output"):
        RunDirectory.open(tmp_path / "run")


def test_a_folder_that_is_no_run_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with raises(ConfigError, "not_empty", key="output", mentions=["thesis.tex"]):
            RunDirectory.open(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_wrong_uses_are_refused(tmp_path):
    with raises(ConfigError, "conflict", key="--resume", mentions=["--overwrite"]):
        RunDirectory.open(tmp_path, resume=True, overwrite=True)
    with raises(ConfigError, "no_run", key="--resume"):
        RunDirectory.open(tmp_path / "nothing", resume=True)
    (tmp_path / "file").touch()
    with raises(ConfigError, "not_a_folder", key="output"):
        RunDirectory.open(tmp_path / "file")


def test_a_second_writer_is_refused_by_name(tmp_path):
    with RunDirectory.open(tmp_path / "run"):
        with raises(RunError, "in_use", key="output", mentions=[str(os.getpid()), socket.gethostname()]):
            RunDirectory.open(tmp_path / "run", resume=True)
        with raises(RunError, "in_use", key="output"):
            RunDirectory.open(tmp_path / "run", overwrite=True)
    RunDirectory.open(tmp_path / "run", resume=True).close()


def test_a_killed_writer_holds_no_lock(tmp_path):
    """The lock is the system's, not the mere presence of a file."""
    RunDirectory.open(tmp_path / "run").close()
    script = (
        "import sys, time, filelock\n"
        "lock = filelock.FileLock(sys.argv[1])\n"
        "lock.acquire()\n"
        "print('locked', flush=True)\n"
        "time.sleep(600)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run" / LOCK)], stdout=subprocess.PIPE)
    with writer:
        assert writer.stdout.readline() == b"locked\n"
        with raises(RunError, "in_use", key="output"):
            RunDirectory.open(tmp_path / "run", resume=True)
        writer.kill()
    RunDirectory.open(tmp_path / "run", resume=True).close()


@pytest.mark.parametrize("name", ["run.json", ".writer.json"])
def test_a_kill_while_the_first_files_are_written_does_not_block_the_next_run(tmp_path, name):
    left = tmp_path / "run" / f".{name}.tmp"
    left.parent.mkdir()
    left.write_text("half")
    RunDirectory.open(tmp_path / "run").close()
    assert not left.exists()


def test_a_file_is_whole_or_what_it_was(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with raises(RunError, "not_writable", mentions=[str(path), "No space left on device"]):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_run_that_an_error_of_ours_ends_before_its_first_record_is_removed(tmp_path):
    def begin(error, record, options):
        with RunDirectory.open(tmp_path / "run", **options) as run:
            run.write_json("config.json", {})
            if record:
                run.metrics.write_text('{"step": 0}\n')
            raise error

    def attempt(error, record=False, **options):
        with pytest.raises(type(error)):
            begin(error, record, options)

    refusal = RunError("it cannot be", code="any")
    attempt(refusal)
    assert not (tmp_path / "run").exists()
    attempt(KeyError("a defect keeps what may explain it"))
    assert (tmp_path / "run").exists()
    attempt(refusal, resume=True)
    assert (tmp_path / "run/config.json").exists()
    attempt(refusal, overwrite=True, record=True)
    assert (tmp_path / "run/config.json").exists()
