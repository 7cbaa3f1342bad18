"""Two processes measure as one does: every held-out pass and every sample, of whole and of sharded models."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from support import measuring_ranks
from support.launching import launch
from tiltlm.distributed import Ranks

pytestmark = pytest.mark.slow
PATH = os.pathsep.join([str(Path(measuring_ranks.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
"""Where the processes find the modules of the tests."""


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> dict[Any, Any]:
    """Return what two processes found; they check that both found the same."""
    folder = tmp_path_factory.mktemp("measured")
    ended = launch(["-m", "support.measuring_ranks", folder], folder, PYTHONPATH=PATH, OMP_NUM_THREADS="1")
    assert ended.codes == [0, 0], "\n".join(ended.err)
    return pickle.loads((folder / "found.pickle").read_bytes())  # written by this test


@pytest.fixture(scope="module")
def alone() -> dict[Any, Any]:
    """Return what one process finds."""
    found: dict[Any, Any] = {kind: measuring_ranks.measured(Ranks(), *kind, None) for kind in measuring_ranks.KINDS}
    return found | {"scorer": measuring_ranks.scored(Ranks(), None)}


def tokens(samples: Any) -> list[Any]:
    return [[(ids, ended) for ids, ended, _ in own] for own in samples]


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
@pytest.mark.parametrize("kind", measuring_ranks.KINDS)
def test_two_processes_measure_as_one(together, alone, kind, parallel):
    """Forwards are packed as in one process, so their numbers are equal; samples are decoded in other batches."""
    found, expected = together[parallel, *kind], alone[kind]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name in ("rows", "one row", "mean_ches", "top", "logps", "ref_logps", "kl", "third", "token_logps"):
            assert found[name] == value, name
            continue
        assert tokens(found[name]) == tokens(value), name
        for own, other in zip(found[name], value, strict=True):
            for one, another in zip(own, other, strict=True):
                assert one[2] == pytest.approx(another[2], abs=1e-6), name


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_two_processes_measure_a_reward_model_as_one(together, alone, parallel):
    assert together[parallel, "scorer"] == alone["scorer"]


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_numbers_that_are_not_finite_are_found_by_all_processes(together, parallel):
    """The fixture checks that both raised the same."""
    of_samples, of_rows = together[parallel, "not finite"]
    assert "log-probability nan" in of_samples
    assert "row 1" in of_rows


def test_samples_say_which_weights_drew_them(alone):
    """Otherwise equal samples would prove nothing."""
    drawn = [tokens(found["samples"]) for kind, found in alone.items() if kind != "scorer"]
    assert all(one != other for i, one in enumerate(drawn) for other in drawn[:i])
    assert any(len(ids) < 9 for own in drawn[0] for ids, _ in own)
    assert any(len(ids) == 9 for own in drawn[0] for ids, _ in own)
