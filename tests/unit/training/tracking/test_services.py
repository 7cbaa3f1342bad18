"""The real trackers, offline: curves can be read while a run grows, and a resumed run continues them."""

import contextvars
import json
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tiltlm.distributed.ranks import Ranks
from tiltlm.runs.directory import RunDirectory
from tiltlm.training.recorder import Listener, Recorder
from tiltlm.training.tracking.services import SERVICES

Points = list[tuple[int, float]]


def of_tensorboard(folder: Path, name: str) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(e.step, e.value) for e in events.Scalars(name)] if name in events.Tags()["scalars"] else []


def of_trackio(folder: Path, name: str) -> Points:
    from trackio.sqlite_storage import SQLiteStorage

    found = [run for run in SQLiteStorage.get_runs("tiltlm") if run.startswith(folder.name)]
    return [(r["step"], r[name]) for run in found for r in SQLiteStorage.get_logs("tiltlm", run) if name in r]


def records_of(file: Path) -> Iterator[bytes]:
    """Yield the records of a file of W&B: LevelDB's log format after seven bytes, in blocks of 32 KiB."""
    content, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def of_wandb(folder: Path, name: str) -> Points:
    """Read the history in the files of offline runs, which `wandb sync` sends in this order."""
    from wandb.proto import wandb_internal_pb2

    found: Points = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in records_of(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            values = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            if name in values:
                found.append((int(values["_step"]), float(json.loads(values[name]))))
    return found


READERS: dict[str, Callable[[Path, str], Points]] = {
    "tensorboard": of_tensorboard,
    "trackio": of_trackio,
    "wandb": of_wandb,
}


@pytest.fixture(params=READERS)
def tracker(request, tmp_path, monkeypatch) -> str:
    """Return each tracker whose package is installed, set to stay on this machine."""
    pytest.importorskip(
        request.param, reason=f"{request.param} is not one of the test dependencies, because it is large"
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    if request.param == "trackio":
        monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio")
        monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    return request.param


def wait_for(read: Callable[[], Points], expected: Points) -> None:
    deadline = time.monotonic() + 60
    while (found := read()) != [(step, pytest.approx(value)) for step, value in expected]:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_curves_grow_during_a_run_and_go_on_when_it_is_resumed(tracker, tmp_path):
    read = READERS[tracker]
    with RunDirectory.open(tmp_path / "run") as run:
        recorder = Recorder(run, (tracker,), {"seed": 0}, Ranks(), Listener())
        recorder.add({"step": 0, "eval_loss": 0.7})
        recorder.add({"step": 1, "loss": 0.5})
        recorder.add({"step": 2, "loss": 0.25, "skipped": True})
        recorder.add({"step": 3, "loss": 0.125})
        wait_for(lambda: read(run.path, "train/loss")[:2], [(1, 0.5), (2, 0.25)])  # W&B keeps a step until the next
        recorder.close()
    wait_for(lambda: read(run.path, "train/loss"), [(1, 0.5), (2, 0.25), (3, 0.125)])
    assert read(run.path, "train/skipped") == [(2, 1.0)]
    with RunDirectory.open(tmp_path / "run", resume=True) as run:
        recorder = Recorder(run, (tracker,), {"seed": 0}, Ranks(), Listener())
        recorder.rewind(step=2, evaluated_at=0)
        recorder.add({"step": 3, "loss": 0.125})
        recorder.add({"step": 4, "loss": 0.0625})
        recorder.close()
    wait_for(lambda: read(run.path, "train/loss"), [(1, 0.5), (2, 0.25), (3, 0.125), (4, 0.0625)])
    assert read(run.path, "eval/loss") == [(0, pytest.approx(0.7))]


def test_trackio_has_nothing_to_end_when_the_process_exits(tmp_path, monkeypatch):
    """It would end the run once more, and print that on stdout, where the results of a command are."""
    current = contextvars.ContextVar("current", default=None)
    stub = ModuleType("trackio")
    stub.init = lambda **_: current.set("a run")
    monkeypatch.setitem(sys.modules, "trackio", stub)
    SERVICES["trackio"](tmp_path, "0", {})
    assert current.get() is None
