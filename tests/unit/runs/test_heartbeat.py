"""Who writes to a run directory can be seen without the lock: by a sign of life."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from tiltlm.runs import heartbeat
from tiltlm.runs.directory import RunDirectory
from tiltlm.runs.heartbeat import SILENT, WRITER, Writer, is_alive, read_writer


def note(folder, pid: int, host: str, age: float = 0.0) -> Writer:
    """Write the note of a process that gave its last sign of life `age` seconds ago."""
    (folder / WRITER).write_text(json.dumps({"pid": pid, "host": host, "since": "2026-01-01T00:00:00+00:00"}))
    then = time.time() - age
    os.utime(folder / WRITER, (then, then))
    return read_writer(folder)


def test_an_open_run_names_its_process_and_a_closed_one_nobody(tmp_path):
    with RunDirectory.open(tmp_path / "run") as run:
        writer = read_writer(run.path)
        assert (writer.pid, writer.host) == (os.getpid(), socket.gethostname())
        assert is_alive(run.path, writer)
    assert read_writer(tmp_path / "run") is None


def test_it_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT", 0.01)
    with RunDirectory.open(tmp_path / "run") as run:
        os.utime(run.path / WRITER, (0, 0))
        deadline = time.monotonic() + 30
        while (run.path / WRITER).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            os.sched_yield()


def test_a_process_of_this_machine_that_is_gone_is_not_alive(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not is_alive(tmp_path, note(tmp_path, process.pid, socket.gethostname()))


@pytest.mark.parametrize(("age", "alive"), [(0, True), (SILENT - 10, True), (SILENT + 10, False)])
def test_a_process_of_another_machine_is_alive_while_it_gives_signs(tmp_path, age, alive):
    assert is_alive(tmp_path, note(tmp_path, 1, "another-machine", age)) is alive


def test_a_process_that_got_the_id_of_a_dead_one_is_not_taken_for_it(tmp_path):
    assert not is_alive(tmp_path, note(tmp_path, os.getpid(), socket.gethostname(), SILENT + 10))


def test_a_damaged_note_names_nobody(tmp_path):
    (tmp_path / WRITER).write_text('{"pid": 1')
    assert read_writer(tmp_path) is None
