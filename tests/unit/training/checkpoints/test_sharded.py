"""Each process writes its own shards: a resumed run is the unbroken one, whatever number of processes goes on."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from support.sharded_checkpoints import assert_close, assert_equal, made
from support.sharded_runs import harm
from tiltlm.training.checkpoints.files import damage, folder_of, load, newest_valid, steps_in

pytestmark = pytest.mark.slow
FILES = [f"{part}/shard-0000{rank}-model-00001-of-00001.safetensors" for part in ("policy", "optimizer")
         for rank in (1, 2)]  # fmt: skip
EVERY = {"log_every": 4}
"""A record of metrics covers steps before and after the checkpoint of step 2."""
CASES = [
    {"name": "whole", "num": 2, "settings": EVERY},
    {"name": "cut", "num": 2, "settings": EVERY, "stop_after": 3},
    {"name": "again", "num": 2, "settings": EVERY, "copy": "cut", "resume": True},
    {"name": "one", "num": 1, "settings": EVERY, "copy": "cut", "resume": True},
    {"name": "replicated", "num": 2, "settings": EVERY | {"parallel": "replicate"}, "copy": "cut", "resume": True},
    {"name": "sharded again", "num": 2, "settings": EVERY, "copy": "replicated cut", "resume": True},
    {"name": "harmed", "num": 2, "settings": EVERY, "copy": "thread", "resume": True,
     "harmed": {f"step-00000006/{FILES[3]}": "flipped", "step-00000004/" + FILES[0]: "missing"}},
    {"name": "thread", "num": 2, "settings": EVERY | {"async_checkpoints": True, "keep_checkpoints": 3}},
    {"name": "replicated whole", "num": 2, "settings": EVERY | {"parallel": "replicate"}},
    {"name": "replicated cut", "num": 2, "settings": EVERY | {"parallel": "replicate", "async_checkpoints": True},
     "stop_after": 3},
    {"name": "replicated again", "num": 2, "settings": EVERY | {"parallel": "replicate"}, "copy": "replicated cut",
     "resume": True},
    {"name": "blocked", "num": 2, "settings": {"async_checkpoints": True}, "blocked_at": 3},
]  # fmt: skip
CASES.sort(key=lambda case: ("copy" in case, case.get("copy", "")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return made(CASES, tmp_path_factory.mktemp("sharded"))


def test_each_process_writes_its_shards_and_nothing_is_pickled(runs):
    path = folder_of(runs.run("whole") / "checkpoints", 6)
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["files"]) == {*FILES, "state.json"}
    written = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert written == {*FILES, "state.json", "manifest.json", "manifest.sha256"}
    sizes = [sum(t.numel() for t in load_file(path / name).values()) for name in FILES[:2]]
    num_weights = sum(tensor.numel() for tensor in load(path).policy.values())
    assert sum(sizes) == num_weights
    assert max(sizes) < 0.6 * num_weights
    assert manifest["environment"]["num_processes"] == 2


def test_as_many_processes_go_on_bit_for_bit(runs):
    assert_equal(runs, "again")
    assert not any("rounding" in note for note in runs["again"]["notes"])


@pytest.mark.parametrize("name", ["one", "replicated", "sharded again"])
def test_other_processes_go_on_up_to_rounding_and_say_so(runs, name):
    assert_close(runs, name, "replicated whole" if name == "sharded again" else "whole")
    (note,) = (note for note in runs[name]["notes"] if "rounding" in note)
    assert "parallel" in note or "num_processes 2 → 1" in note


def test_a_thread_writes_the_same(runs):
    assert_equal(runs, "thread")
    for step in (2, 4, 6):
        path = folder_of(runs.run("thread") / "checkpoints", step)
        assert damage(path) is None


def test_replicas_go_on_with_the_metrics_of_all_processes(runs):
    assert_equal(runs, "replicated again", "replicated whole")


def test_damaged_shards_are_skipped_and_the_one_before_is_used(runs):
    assert_equal(runs, "harmed")
    skipped = [note for note in runs["harmed"]["notes"] if "skipped" in note]
    assert len(skipped) == 2
    assert FILES[3] in skipped[0]
    assert "sha256" in skipped[0]
    assert f"{FILES[0]} is missing" in skipped[1]


def test_an_error_of_the_thread_stops_all_processes(runs):
    errors = runs["blocked"]["errors"]
    assert [error["code"] for error in errors] == ["not_writable"] * 2
    assert "step-00000004" in errors[1]["message"]
    assert "the checkpoint of step 2 is unchanged" in errors[1]["message"]
    folder = runs.run("blocked") / "checkpoints"
    assert steps_in(folder) == [2]
    assert damage(folder_of(folder, 2)) is None


@pytest.mark.parametrize("name", [*FILES, "state.json", "manifest.json", "manifest.sha256"])
@pytest.mark.parametrize("how", ["flipped", "cut", "missing"])
def test_damage_of_any_file_is_found(runs, tmp_path, name, how):
    folder = tmp_path / "checkpoints"
    shutil.copytree(runs.run("thread") / "checkpoints", folder)
    harm(folder_of(folder, 6) / name, how)
    notes = []
    assert newest_valid(folder, notes.append) == folder_of(folder, 4)
    assert name in notes[0]


def test_a_file_that_the_manifest_does_not_name_is_not_read(runs, tmp_path):
    path = tmp_path / "step-00000006"
    shutil.copytree(folder_of(runs.run("whole") / "checkpoints", 6), path)
    shutil.copy(path / FILES[0], path / "policy/shard-00003-model-00001-of-00001.safetensors")
    assert "shard-00003" in damage(path)
