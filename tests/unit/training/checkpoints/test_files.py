"""A checkpoint is complete or absent: damage is found, and a full disk or a kill leaves the last one intact."""

import dataclasses
import json
import os
import resource
import shutil

import pytest
import torch

from support.errors import raises
from tiltlm.core import RunError
from tiltlm.training.checkpoints import files as checkpoint
from tiltlm.training.checkpoints.files import (
    Checkpoint,
    commit,
    damage,
    folder_of,
    load,
    newest_valid,
    others_in,
    rotate,
    steps_in,
)


def content(value=1.0, size=3):
    weights = {"layer.weight": torch.full((size, 2), value), "layer.scale": torch.full((), value, dtype=torch.bfloat16)}
    return Checkpoint(weights, {"layer.weight.exp_avg": torch.full((size, 2), -value)}, {"progress": {"step": 7}})


def test_what_is_read_is_what_was_written(tmp_path):
    path = commit(tmp_path / "checkpoints", 7, content(1.5))
    assert damage(path) is None
    found = load(path)
    assert found.state == {"progress": {"step": 7}}
    for kind in ("policy", "optimizer"):
        expected = getattr(content(1.5), kind)
        assert getattr(found, kind).keys() == expected.keys()
        for name, tensor in getattr(found, kind).items():
            assert torch.equal(tensor, expected[name])
            assert tensor.dtype == expected[name].dtype


def test_nothing_is_pickled(tmp_path):
    path = commit(tmp_path, 1, content())
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json", ".sha256"}
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["files"]) == {"policy.safetensors", "optimizer.safetensors", "state.json"}
    assert {"torch", "transformers", "num_threads", "cpu_capability"} <= set(manifest["environment"])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


FILES = ("policy.safetensors", "optimizer.safetensors", "state.json")
MANIFEST = ("manifest.json", "manifest.sha256")


@pytest.mark.parametrize("name", [*FILES, *MANIFEST])
@pytest.mark.parametrize(("harm", "mention"), [(flip, "sha256"), (truncate, "bytes"), (os.unlink, "")])
def test_damage_is_found_and_the_one_before_is_used(tmp_path, name, harm, mention):
    mention = "" if name in MANIFEST else mention
    good, bad = commit(tmp_path, 10, content()), commit(tmp_path, 20, content())
    harm(bad / name)
    notes = []
    assert newest_valid(tmp_path, notes.append) == good
    (note,) = notes
    assert str(bad) in note
    assert name in note
    assert mention in note


@pytest.mark.parametrize("name", MANIFEST)
def test_every_bit_of_the_manifest_is_covered(tmp_path, name):
    """One bit of every third byte is exchanged, each time another one."""
    path = commit(tmp_path, 1, content())
    whole = (path / name).read_bytes()
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        (path / name).write_bytes(changed)
        assert damage(path) is not None, place
    (path / name).write_bytes(whole)
    assert damage(path) is None


@pytest.mark.parametrize("part", ["policy", "optimizer", "reference"])
def test_what_is_not_finite_is_never_written(tmp_path, part):
    good = commit(tmp_path, 1, content())
    tensors = {"layer.weight": torch.tensor([1.0, float("nan")])}
    with raises(RunError, "checkpoint_not_finite", mentions=["layer.weight", "step 2", "output=NEW_FOLDER"]):
        commit(tmp_path, 2, dataclasses.replace(content(), **{part: tensors}))
    assert [p.name for p in tmp_path.iterdir()] == [good.name]


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with raises(RunError, "not_writable", mentions=["checkpoints"]):
        commit(tmp_path / "checkpoints", 1, content())


def test_only_damaged_checkpoints_are_an_error_and_none_is_not(tmp_path):
    assert newest_valid(tmp_path / "checkpoints", print) is None
    (commit(tmp_path, 1, content()) / "optimizer.safetensors").unlink()
    with raises(RunError, "damaged", mentions=[str(tmp_path), "--overwrite"]):
        newest_valid(tmp_path, lambda note: None)


def test_a_kill_while_writing_leaves_nothing_that_looks_whole(tmp_path):
    good = commit(tmp_path, 1, content())
    shutil.copytree(good, tmp_path / ".step-00000002.tmp")
    assert newest_valid(tmp_path, print) == good
    assert not (tmp_path / ".step-00000002.tmp").exists()


def test_a_kill_between_the_two_renames_of_a_second_commit_loses_nothing(tmp_path):
    good = commit(tmp_path, 1, content())
    good.rename(tmp_path / f".replaced-{good.name}")
    assert newest_valid(tmp_path, print) == good


class Killed(BaseException):
    """Stands for SIGKILL: from then on nothing that was patched runs, in no handler either."""


@pytest.mark.parametrize("same_step", [False, True])
def test_a_kill_at_any_moment_of_a_commit_leaves_a_whole_checkpoint(tmp_path, monkeypatch, same_step):
    """The commit is killed before its n-th call that changes the disk, for every n, until it succeeds."""
    calls = {"left": 0}

    def deadly(act):
        def call(*args, **kwargs):
            if calls["left"] == 0:
                raise Killed
            calls["left"] -= 1
            return act(*args, **kwargs)

        return call

    survived = []
    for moment in range(30):
        folder = tmp_path / str(moment)
        commit(folder, 1, content(1.0))
        with monkeypatch.context() as patch:
            calls["left"] = moment
            for owner, name in [(checkpoint, "sync"), (checkpoint, "save_file"), (shutil, "rmtree"),
                                (checkpoint.Path, "rename"), (checkpoint.Path, "write_text")]:  # fmt: skip
                patch.setattr(owner, name, deadly(getattr(owner, name)))
            try:
                commit(folder, 1 if same_step else 2, content(2.0))
            except Killed:
                pass
            else:
                survived.append(moment)
        path = newest_valid(folder, pytest.fail)
        value = float(load(path).policy["layer.scale"])
        assert (path.name[-1], value) in ([("1", 1.0), ("1", 2.0)] if same_step else [("1", 1.0), ("2", 2.0)])
    assert survived[0] > 8, "the commit was killed at many moments"
    assert survived[-1] == 29, "and succeeded in the end"


def test_the_same_step_may_be_committed_again(tmp_path):
    commit(tmp_path, 1, content(1.0))
    path = commit(tmp_path, 1, content(2.0))
    assert load(path).policy["layer.weight"][0, 0] == 2
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_rotation_keeps_the_newest_and_the_protected(tmp_path):
    for step in (1, 2, 3, 4, 9):
        commit(tmp_path, step, content())
    rotate(tmp_path, step=4, keep=2, protect={1})  # 9 was damaged when this run was resumed from 3
    assert steps_in(tmp_path) == [1, 3, 4]


def test_too_little_space_is_found_before_writing(tmp_path, monkeypatch):
    good = commit(tmp_path, 1, content())
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
    with raises(RunError, "not_writable", mentions=[str(folder_of(tmp_path, 2)), "GB", "step 1", "--resume"]):
        commit(tmp_path, 2, content())
    assert [p.name for p in tmp_path.iterdir()] == [good.name]
    assert damage(good) is None


@pytest.fixture
def small_files():
    """No file may grow beyond 20 kB: the write fails in the middle, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_while_writing_leaves_the_last_checkpoint(tmp_path, small_files):
    good = commit(tmp_path, 1, content())
    with raises(RunError, "not_writable", mentions=[str(folder_of(tmp_path, 2)), "step 1", "--resume"]):
        commit(tmp_path, 2, content(size=100_000))
    assert [p.name for p in tmp_path.iterdir()] == [good.name]
    assert damage(good) is None


def test_another_machine_is_told(tmp_path):
    path = commit(tmp_path, 1, content(), {"num_processes": 1})
    assert checkpoint.changes(path, {"num_processes": 1}) == []
    assert checkpoint.changes(path, {"num_processes": 2}) == ["num_processes 1 → 2"]


def test_only_exact_names_are_checkpoints(tmp_path):
    """A copy made by hand is left alone, by steps, by resuming and by rotation."""
    good = commit(tmp_path, 2, content())
    copies = [".bak", "0", "-old"]
    for copy in copies:
        shutil.copytree(good, tmp_path / f"{good.name}{copy}")
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-00000004").write_text("a file")
    assert steps_in(tmp_path) == [2]
    assert newest_valid(tmp_path, print) == good
    rotate(tmp_path, 2, 1, ())
    assert others_in(tmp_path) == sorted([*(good.name + copy for copy in copies), "step-2", "step-00000004"])


def test_folders_sort_by_step(tmp_path):
    assert folder_of(tmp_path, 99).name < folder_of(tmp_path, 100).name
