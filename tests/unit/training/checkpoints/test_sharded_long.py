"""Faults of sharded checkpoints that take longer: four processes, kills at random moments, a disk that fills up."""

import random
import subprocess

import pytest

from support.sharded_checkpoints import assert_close, assert_equal, made
from tiltlm.training.checkpoints.files import damage, folder_of, steps_in

pytestmark = pytest.mark.long
EVERY = {"log_every": 4}
HYBRID = EVERY | {"parallel": "hybrid", "shard_size": 2}
CASES = [
    {"name": "whole", "num": 2, "settings": EVERY},
    {"name": "cut", "num": 2, "settings": EVERY, "stop_after": 3},
    {"name": "four", "num": 4, "settings": EVERY, "copy": "cut", "resume": True},
    {"name": "hybrid", "num": 4, "settings": HYBRID},
    {"name": "hybrid cut", "num": 4, "settings": HYBRID | {"async_checkpoints": True}, "stop_after": 3},
    {"name": "hybrid again", "num": 4, "settings": HYBRID, "copy": "hybrid cut", "resume": True},
    {"name": "two of hybrid", "num": 2, "settings": EVERY, "copy": "hybrid cut", "resume": True},
    {"name": "moving", "num": 2, "model": "moving"},
    {"name": "moving cut", "num": 2, "model": "moving", "settings": {"async_checkpoints": True}, "stop_after": 3},
    {"name": "moving again", "num": 2, "model": "moving", "copy": "moving cut", "resume": True},
    {"name": "moving alone", "num": 1, "model": "moving", "copy": "moving cut", "resume": True},
]
"""A moving reference has moved before the checkpoint from which the last two go on."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return made(CASES, tmp_path_factory.mktemp("long"))


def test_four_processes_go_on_with_the_shards_of_two(runs):
    assert_close(runs, "four", "whole")
    assert any("num_processes 2 → 4" in note for note in runs["four"]["notes"])


def test_one_of_several_copies_of_a_shard_is_written(runs):
    path = folder_of(runs.run("hybrid") / "checkpoints", 6)
    written = sum(file.stat().st_size for file in path.glob("policy/*"))
    expected = sum(file.stat().st_size for file in folder_of(runs.run("whole") / "checkpoints", 6).glob("policy/*"))
    assert written < 1.5 * expected, "two copies would be twice as much"


def test_a_hybrid_run_goes_on_bit_for_bit_and_as_two_shards(runs):
    assert_equal(runs, "hybrid again", "hybrid")
    assert_close(runs, "two of hybrid", "hybrid")


def test_a_moving_reference_goes_on(runs):
    assert_equal(runs, "moving again", "moving")
    assert_close(runs, "moving alone", "moving")


@pytest.mark.parametrize("in_thread", [False, True], ids=["waiting", "thread"])
@pytest.mark.parametrize("victims", ["one", "all"])
def test_kills_at_random_moments_lose_nothing(tmp_path, in_thread, victims):
    """One run is killed again and again while it saves at each step, and goes on; it ends as the run that was not."""
    rng = random.Random(f"{in_thread} {victims}")
    settings = {"save_every": 1, "num_epochs": 14, "async_checkpoints": in_thread}
    kills = [{"victims": victims, "after": rng.uniform(0.0, 0.4)} for _ in range(8)]
    cases = [
        {"name": "whole", "num": 2, "width": 64, "settings": settings},
        {"name": "killed", "num": 2, "width": 64, "settings": settings, "kills": kills},
    ]
    found = made(cases, tmp_path)
    assert_equal(found, "killed", "whole")
    outcome = found["killed"]
    assert outcome["num_killed"] >= 5, "most kills came before the end"
    assert outcome["damaged"] == [], "after each kill every checkpoint with its name was whole"
    folder = found.run("killed") / "checkpoints"
    assert [path.name for path in folder.iterdir() if not path.name.startswith("step-")] == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("is_blind", [False, True], ids=["found before", "found while writing"])
@pytest.mark.parametrize("in_thread", [False, True], ids=["waiting", "thread"])
def test_a_full_disk_leaves_the_last_checkpoint_and_one_error_everywhere(tmp_path, small_disk, is_blind, in_thread):
    settings = {"async_checkpoints": in_thread, "keep_checkpoints": 9}
    case = {"name": "full", "folder": str(small_disk / "run"), "num": 2, "width": 300, "blind": is_blind}
    found = made([case | {"settings": settings}], tmp_path)
    errors = found["full"]["errors"]
    assert [error["code"] for error in errors] == ["not_writable"] * 2
    assert errors[0] == errors[1]
    folder = small_disk / "run/checkpoints"
    steps = steps_in(folder)
    assert steps
    assert 6 not in steps
    assert f"the checkpoint of step {steps[-1]} is unchanged" in errors[0]["message"]
    assert ("No space left" if is_blind else "GB are free") in errors[0]["message"]
    assert [damage(folder_of(folder, step)) for step in steps] == [None] * len(steps)
    assert sorted(path.name for path in folder.iterdir()) == [folder_of(folder, step).name for step in steps]
