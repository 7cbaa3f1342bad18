"""Several processes give the same examples, counts and errors as one, from any script."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.errors import raises
from support.plain_data import everything
from support.tokenizers_and_templates import pair
from tiltlm.core.errors import DataError, RunError
from tiltlm.data import DataSettings, load_data, workers

OPPOSED = pair(3, chosen=" no 3", rejected=" yes 3")
ROWS = [
    *(pair(i) for i in range(90)),
    "{broken", pair(chosen=""), pair(rejected=None), OPPOSED, pair(weight=-1),
    *(pair(i, weight=i, source=f"lab {i}") for i in range(90, 180)),
    pair(chosen=" yes" * 40),
]  # fmt: skip


@pytest.fixture
def load(encoder, jsonl, monkeypatch):
    monkeypatch.setattr(workers, "BLOCK_ROWS", 16)

    def run(processes, rows=ROWS, **more):
        settings = DataSettings(
            train=jsonl(rows), max_bad=0.1, max_length=60, eval_fraction=0.2, processes=processes, **more
        )
        return load_data(settings, encoder, "pairs")

    return run


def test_processes_change_nothing(load, monkeypatch):
    several, one = load(2), load(1)
    assert everything(several) == everything(one)
    assert several.accounting.losses["malformed_json"].examples[0].startswith("data.jsonl:91: ")
    (note,) = {*several.notes} - {*load(1, [row for row in ROWS if row is not OPPOSED]).notes}
    assert "1" in note  # the number of contradictions
    monkeypatch.setattr(workers, "BLOCK_ROWS", 1000)
    assert everything(load(1)) == everything(one)  # the size of blocks changes nothing either


def test_an_error_in_a_process_is_the_error(load):
    with raises(DataError, "too_long", key="data.max_length", row="data.jsonl:186", mentions=["data.truncation=error"]):
        load(2, truncation="error")


def test_a_process_that_dies(load, monkeypatch):
    monkeypatch.setattr(workers, "_work_on", os._exit)
    monkeypatch.setattr(workers, "blocks_of", lambda rows: iter([3]))
    monkeypatch.setattr(workers.ProcessPoolExecutor, "submit", lambda self, f, code, _: SUBMIT(self, f, code))
    with raises(RunError, "process_ended", key="data.processes", mentions=["data.processes"]):
        load(2)


SUBMIT = workers.ProcessPoolExecutor.submit


def test_a_script_without_a_main_guard_runs_once(tmp_path, jsonl):
    """New processes must not run the caller's script again."""
    jsonl([pair(i) for i in range(40)])
    script = tmp_path / "script.py"
    script.write_text(
        "from support.tokenizers_and_templates import byte_level\n"
        "from tiltlm.data import DataSettings, Encoder, load_data\n"
        "print('once')\n"
        "tokenizer = byte_level(bos=True)\n"
        "settings = DataSettings(train='data.jsonl', processes=2)\n"
        "print(len(load_data(settings, Encoder(tokenizer, tokenizer.eos_token_id), 'pairs').train))\n"
    )
    root = Path(__file__).parents[2]
    temporary = tmp_path / ("long" * 30)  # longer than the name of a socket may be
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.fspath(root), *sys.path]), "TMPDIR": str(temporary)},
        capture_output=True,
        timeout=120,
    )
    assert done.stdout.decode().split() == ["once", "40"], done.stderr.decode()
    assert list(temporary.iterdir()) == []


def test_without_a_short_folder_the_error_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.setattr(workers.tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    monkeypatch.setattr(workers.os, "access", lambda *_: False)
    with raises(RunError, "path_too_long", key="TMPDIR", mentions=["data.processes=1"]):
        workers._short_folder()


def test_a_process_ends_with_the_one_that_started_it(monkeypatch):
    """It waits for the end of its parent in a thread of its own, and is not stopped by one that was killed."""
    killed, ends = threading.Event(), []

    class Parent:
        @staticmethod
        def join():
            killed.wait()

    monkeypatch.setattr(workers, "parent_process", Parent)
    monkeypatch.setattr(workers.os, "_exit", ends.append)
    monkeypatch.setattr(workers.signal, "signal", lambda *_: None)  # this process still listens to Ctrl-C
    monkeypatch.setattr(workers, "_work", None, raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    before = set(threading.enumerate())
    workers._begin(None)
    (waiting,) = set(threading.enumerate()) - before
    assert ends == []
    killed.set()
    waiting.join()
    assert ends == [1]
