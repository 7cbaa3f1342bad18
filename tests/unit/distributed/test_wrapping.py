"""Two processes are one: gradients and weights, not only losses, for replicas and shards, with few and odd rows."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support import two_ranks
from support.errors import raises
from support.toy_training import ToyPolicy
from tiltlm.core import ConfigError
from tiltlm.distributed.parallelism import Parallelism
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.wrapping import wrap

pytestmark = pytest.mark.slow
NUM_RANKS = 2


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes found, by title."""
    folder, port = tmp_path_factory.mktemp("two"), str(free_port())
    shared = {"WORLD_SIZE": str(NUM_RANKS), "LOCAL_WORLD_SIZE": str(NUM_RANKS), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "support.two_ranks", str(folder)],
            cwd=Path(two_ranks.__file__).parents[1],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(NUM_RANKS)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    found = {}
    for key, value in load_file(folder / "results.safetensors").items():
        title, name = key.split("|")
        found.setdefault(title, {})[name] = value
    return found


def assert_same(found, expected, tolerance):
    """Equal up to `tolerance` of the largest gradient (or weight): some true gradients are 0."""
    assert found.keys() == expected.keys()
    on_own_scale = {"loss", "losses", "metrics"}
    largest = max(float(value.abs().max()) for name, value in expected.items() if name not in on_own_scale)
    for name, value in expected.items():
        scale = float(value.abs().max()) if name in on_own_scale else largest
        assert (found[name] - value).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
@pytest.mark.parametrize(("name", "num"), two_ranks.STEPS)
def test_two_ranks_have_the_gradient_of_one(together, name, num, parallel):
    """5 rows on 2 ranks: unequal shares. 1 row: one rank only repeats a forward with weight zero."""
    assert_same(together[f"{parallel} {name} {num}"], two_ranks.step(Ranks(), name, num), 1e-12)


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
@pytest.mark.parametrize(("tied", "lora"), two_ranks.MODELS)
def test_two_ranks_have_the_gradient_of_one_with_a_real_architecture(together, tied, lora, parallel):
    """Tied or not, full or adapter, recomputed in the backward. RoPE tables are float32 whatever the weights are."""
    assert_same(together[f"{parallel} model {tied} {lora}"], two_ranks.model_step(Ranks(), tied, lora), 1e-7)


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
@pytest.mark.parametrize("name", two_ranks.RUNS)
def test_two_ranks_balance_experts_as_one(together, name, parallel):
    """Loads are those of the whole step; RoPE tables are float32 whatever the weights are."""
    expected = two_ranks.routed_step(Ranks(), name)
    assert expected["loss"][1] > 2
    assert_same(together[f"{parallel} routed {name}"], expected, 1e-7)


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
@pytest.mark.parametrize("name", two_ranks.RUNS)
def test_two_ranks_end_with_the_weights_of_one(together, tmp_path, name, parallel):
    assert_same(together[f"{parallel} run {name}"], two_ranks.train(Ranks(), tmp_path / "run", name), 1e-9)


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
@pytest.mark.parametrize("lora", [False, True])
def test_two_ranks_have_the_gradient_of_one_for_a_reward_model(together, lora, parallel):
    assert_same(together[f"{parallel} scorer {lora}"], two_ranks.score_step(Ranks(), lora), 1e-7)


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
@pytest.mark.parametrize("lora", [False, True])
def test_a_moving_reference_is_the_same_on_two_ranks(together, tmp_path, lora, parallel):
    found, expected = together[f"{parallel} moving {lora}"], two_ranks.moving(Ranks(), tmp_path / "run", lora)
    assert_same(found, expected, 1e-7)
    own = [name for name in found if not name.startswith("reference")]
    assert any((found[name] - found[f"reference {name}"]).abs().max() > 1e-3 for name in own), "it did not just follow"


def test_a_call_past_the_wrapper_would_have_been_found(together):
    """The error this guards against is large: each rank then follows its own rows."""
    expected = two_ranks.step(Ranks(), "dpo", 5)
    with pytest.raises(AssertionError, match="gradient of"):
        assert_same(together["past the wrapper"], expected, 0.1)


def test_a_signal_to_one_process_stops_all_and_the_run_goes_on(together):
    assert_same(together["resumed"], together["shard run dpo"], 0.0)


def test_an_error_of_the_first_process_reaches_all(together):
    assert together["refused"]["everywhere"]


def test_one_process_needs_no_wrapper():
    policy = ToyPolicy()
    assert wrap(policy, Ranks(), Parallelism()) is policy
    for parallel in ("shard", "hybrid"):
        with raises(ConfigError, "needs_several_processes", key="training.parallel"):
            wrap(policy, Ranks(), Parallelism(parallel))


def test_one_process_joins_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Ranks.join(cpu=True) == Ranks.single("score") == Ranks()
    assert not torch.distributed.is_initialized()


def test_a_command_for_one_process_refuses_a_launcher(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with raises(ConfigError, "several_processes", mentions=["4", "tiltlm score"]):
        Ranks.single("score")


def test_one_process_sums_and_gathers_itself():
    ranks = Ranks()
    assert ranks.sum([1.0, 2.0]) == [1.0, 2.0]
    assert ranks.gather("a") == ["a"]
    assert ranks.map(str, [1, 2, 3]) == ["1", "2", "3"]
    assert ranks.map(str, []) == []
    assert ranks.first(lambda: 3) == 3
    assert ranks.any(True)
    assert not ranks.any(False)
    assert torch.equal(ranks.sum_tensor(torch.ones(2)), torch.ones(2))
