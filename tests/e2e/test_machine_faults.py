"""Faults of the machine in real runs: full disks, no memory, two writers, and processes that a kill leaves behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import yaml

from support.errors import raises
from support.signalled import SETTINGS
from support.toy_training import without_times
from support.waiting import wait_for
from tiltlm.core import RunError
from tiltlm.storage.files import read_lines
from tiltlm.training.checkpoints import files as checkpoint
from tiltlm.training.checkpoints.files import damage, folder_of, steps_in

pytestmark = pytest.mark.usefixtures("blank_figures")
TESTS = Path(__file__).parents[1]


class SmallDisk:
    """A file system in memory that can be filled and emptied."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def leave(self, free: int) -> None:
        """Fill the disk up to this many free bytes."""
        found = os.statvfs(self.path)
        with (self.path / "filler").open("ab") as filler:
            filler.write(b"x" * (found.f_bavail * found.f_frsize - free))

    def empty(self) -> None:
        (self.path / "filler").unlink()


@pytest.fixture
def disk(tmp_path):
    """Return a disk of 24 MB; without the right to mount one, the test is skipped."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield SmallDisk(path)
    subprocess.run(["umount", "--lazy", path], check=True)


STEPS = {"objective": "dpo", "max_steps": 4, "batch_size": 4, "save_every": 1, "eval_fraction": 0.0}


def results(folder):
    return without_times(read_lines(folder / "metrics.jsonl")), (folder / "model/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(train, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder, data=data, **STEPS)
    return results(folder)


@pytest.mark.parametrize("moment", [pytest.param("before the write", marks=pytest.mark.long), "in the write"])
def test_a_disk_that_is_full_at_a_checkpoint(train, data, disk, whole, tmp_path, monkeypatch, moment):
    """The checkpoint before is intact, nothing half is left, and with space again the run is the unbroken one."""
    commit, run = checkpoint.commit, disk.path / "run"

    def fill(folder, step, *more):
        if step == 3:
            disk.leave(1_000_000)
        return commit(folder, step, *more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "commit", fill)
        if moment == "in the write":
            patch.setattr(checkpoint, "check_space", lambda *_: None)
        with raises(RunError, "not_writable", mentions=["step 2", "--resume"]) as stop:
            train(run, data=data, **STEPS)
    assert stop.value.exit_code == 1
    assert steps_in(run / "checkpoints") == [1, 2]
    assert all(damage(folder_of(run / "checkpoints", step)) is None for step in (1, 2))
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step-00000001", "step-00000002"}
    disk.empty()
    train(run, data=data, **STEPS, resume=True)
    assert results(run) == whole


@pytest.mark.long
def test_a_disk_that_is_full_when_the_model_is_written(train, data, disk, whole, monkeypatch):
    from tiltlm.recipes import train as recipe

    save, run = recipe.save_policy, disk.path / "run"

    def fill(*arguments, **options):
        disk.leave(100_000)
        return save(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "save_policy", fill)
        with raises(RunError, "not_writable", key="output", mentions=["--resume"]):
            train(run, data=data, **STEPS)
    assert not list(run.glob("*model*"))
    assert not list(run.glob(".*tmp"))
    disk.empty()
    train(run, data=data, **STEPS, resume=True)
    assert results(run) == whole


@pytest.mark.long
@pytest.mark.parametrize("setting", ["reference.store", "data.cache"])
def test_a_disk_that_is_full_at_a_cache(train, data, disk, whole, tmp_path, setting):
    """The run had not begun, so nothing of it is left; with space again the same command does it."""
    disk.leave(2_000)
    options = {"data": data, **STEPS, setting: str(disk.path / "cache")}
    with raises(RunError, "not_writable", key=setting):
        train(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    disk.empty()
    train(tmp_path / "run", **options)
    assert results(tmp_path / "run") == whole


NO_MEMORY = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from support.signalled import Signalled, train
from tiltlm.core import TiltError

class Hungry(Signalled):
    def forward(self, forest):
        responses = super().forward(forest)
        if self.num_forwards == 20 and sys.argv[2] == "tensor":
            torch.ones(1 << 28)
        if self.num_forwards == 20 and sys.argv[2] == "bytes":
            bytearray(1 << 30)
        return responses

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
try:
    train(Path(sys.argv[1]), Hungry(), save_every=2)
except TiltError as error:
    print(error.code, error.key, error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is read and set as Linux does")
@pytest.mark.parametrize("what", ["tensor", "bytes"])
def test_a_process_that_gets_no_more_memory(tmp_path, what):
    """A real limit of the address space: torch's allocator or Python's own raises, and the checkpoint is intact."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", NO_MEMORY, tmp_path / "run", what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("out_of_memory training.max_tokens")
    assert f"training.max_tokens={SETTINGS.max_tokens // 2}" in last
    (newest,) = steps_in(tmp_path / "run/checkpoints")[-1:]
    assert f"step {newest} is intact" in last
    assert damage(folder_of(tmp_path / "run/checkpoints", newest)) is None


def start(command, environment=None):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "tiltlm", *map(str, command)]
    return subprocess.Popen(command, env={**os.environ, **(environment or {})}, **pipes)


@pytest.mark.long
def test_a_second_writer_is_refused_and_changes_nothing(train, model, data, whole, tmp_path):
    """The first process stands still while the second one tries; then it goes on as if it had been alone."""
    run, config = tmp_path / "run", tmp_path / "config.yaml"
    training = {"max_steps": 4, "batch_size": 4, "save_every": 1}
    rows = {"train": str(data), "eval_fraction": 0.0}
    config.write_text(yaml.safe_dump({"model": model, "data": rows, "objective": "dpo", "training": training}))
    first = start(["train", config, f"output={run}"])
    try:
        wait_for(lambda: steps_in(run / "checkpoints"), first)
        first.send_signal(signal.SIGSTOP)
        before = contents(run)
        for how in ("resume", "overwrite"):
            with raises(RunError, "in_use", key="output", mentions=[str(first.pid)]):
                train(run, data=data, **STEPS, **{how: True})
        assert contents(run) == before
        first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=300)
    finally:
        first.kill()
    assert first.returncode == 0, errors
    assert results(run) == whole


def contents(folder):
    """Return the files of a run, besides the empty ones that writers lock."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.fixture
def short_folder():
    """Return a folder whose path is short enough for the sockets of worker processes, which are in TMPDIR."""
    with TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.long
@pytest.mark.parametrize("cache", [False, True])
def test_a_kill_while_tokenising_leaves_no_process_and_no_file_for_long(model, data, tmp_path, short_folder, cache):
    """The workers end by themselves, and the next run removes the unfinished files."""
    rows, config = tmp_path / "rows.jsonl", tmp_path / "config.yaml"
    rows.write_text(125 * data.read_text())
    temporary, folder = short_folder, tmp_path / "cache"
    given = {"train": str(rows), "processes": 2, "cache": str(folder) if cache else False}
    config.write_text(yaml.safe_dump({"model": model, "data": given, "objective": "simpo"}))
    where = {"TMPDIR": str(temporary)}
    first = start(["train", config, f"output={tmp_path / 'run'}"], where)
    workers = []
    try:
        wait_for(lambda: [*folder.glob(".*.tmp/train.arrow"), *temporary.glob("tiltlm-*/train.arrow")], first)
        process = psutil.Process(first.pid)
        wait_for(lambda: len(process.children(recursive=True)) >= 4, first)  # two workers and what starts them
        workers = process.children(recursive=True)
    finally:
        first.kill()
        first.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    left = [*folder.glob(".*.tmp"), *temporary.glob("tiltlm-*")]
    assert len(left) == 2  # the unfinished rows, and the sockets between the processes
    assert not [*temporary.glob("pymp-*")]
    rows.write_text(data.read_text())
    command = ["train", config, f"output={tmp_path / 'next'}", "training.max_steps=1", "data.processes=1"]
    following = start([*command, "data.eval_fraction=0"], where)
    _, errors = following.communicate(timeout=300)
    assert following.returncode == 0, errors
    assert not any(path.exists() for path in left)
