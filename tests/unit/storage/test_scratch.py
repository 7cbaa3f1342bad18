"""A temporary folder is gone when its block ends, and after a kill when the next one is made."""

import signal
import subprocess
import sys
import tempfile
import threading

import pytest

from tiltlm.storage.scratch import LOCK, remove_leftovers, scratch_folder

HOLD = """
import tempfile, sys
tempfile.tempdir = sys.argv[1]
from tiltlm.storage.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "inner").mkdir()
    (folder / "inner/rows.arrow").write_bytes(b"half")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_folder_of_a_killed_process_is_removed_and_one_in_use_stays(temporary):
    command = [sys.executable, "-c", HOLD, str(temporary)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    killed, using = processes
    folders = [temporary / process.stdout.readline().strip() for process in processes]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert all(folder.is_dir() for folder in folders)
    with scratch_folder() as own:
        assert sorted(path for path in temporary.iterdir()) == sorted([folders[1], own])
    using.communicate("")
    assert list(temporary.iterdir()) == []


def test_what_is_not_ours_stays(temporary):
    for name in ("tiltlm-notes", "other"):
        (temporary / name).mkdir()
    (temporary / "other" / LOCK).touch()
    remove_leftovers()
    assert len(list(temporary.iterdir())) == 2


def test_many_at_once_each_have_their_own(temporary):
    seen, errors = [], []

    def use():
        try:
            for _ in range(20):
                with scratch_folder() as folder:
                    (folder / "mine").touch(exist_ok=False)
                    seen.append(folder)
                    assert (folder / "mine").exists()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(seen)) == 80
    assert list(temporary.iterdir()) == []
