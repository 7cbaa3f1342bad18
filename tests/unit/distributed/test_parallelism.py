"""Which processes can share a model, and which settings only a sharded model reads."""

import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.distributed.parallelism import Parallelism
from tiltlm.training.training_settings import TrainingSettings


def test_sizes_are_copies_and_the_processes_of_each():
    assert Parallelism("shard").sizes(4) == (1, 4)
    assert Parallelism("hybrid", 2).sizes(8) == (4, 2)


def test_a_hybrid_copy_lies_on_one_machine_by_default(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Parallelism("hybrid").sizes(8) == (2, 4)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_copies_must_have_equal_sizes_above_one(size):
    with raises(ConfigError, "wrong_shard_size", key="training.shard_size"):
        Parallelism("hybrid", size).check(8)


@pytest.mark.parametrize("parallel", ["shard", "hybrid"])
def test_one_process_cannot_share(parallel):
    with raises(ConfigError, "needs_several_processes", key="training.parallel"):
        Parallelism(parallel).check(1)


def test_offloading_from_a_cpu_has_no_effect():
    with raises(ConfigError, "no_effect", key="training.cpu_offload"):
        Parallelism("shard", cpu_offload=True).check(2, on_cpu=True)
    Parallelism("shard", cpu_offload=True).check(2)


@pytest.mark.parametrize(
    ("settings", "code", "key"),
    [
        ({"shard_size": 2}, "no_effect", "shard_size"),
        ({"parallel": "shard", "shard_size": 2}, "no_effect", "shard_size"),
        ({"parallel": "hybrid", "shard_size": 0}, "not_positive", "shard_size"),
        ({"cpu_offload": True}, "no_effect", "cpu_offload"),
        ({"parallel": "hybrid", "optimizer": "adamw_8bit"}, "conflict", "optimizer"),
        ({"parallel": "both"}, "unknown_name", "parallel"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, code, key):
    with raises(ConfigError, code, key=f"training.{key}"):
        TrainingSettings(**settings)
