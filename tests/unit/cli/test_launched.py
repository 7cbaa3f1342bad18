"""One process prints an error and all end with its exit code; the store decides which, without long waits."""

import json
import sys

import pytest
import torch.distributed as dist

from support.errors import raises
from tiltlm.cli import launched
from tiltlm.core import ConfigError, RunError
from tiltlm.distributed import Ranks


class ThisOneOf:
    """One of two processes, with only what `fail_together` reads."""

    def __init__(self, rank: int) -> None:
        self.rank, self.size, self.left = rank, 2, False

    def leave(self) -> None:
        self.left = True


@pytest.fixture
def store(monkeypatch):
    store = dist.HashStore()
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(launched, "WAIT_FOR_OTHERS", 0.1)
    monkeypatch.setattr(launched, "LEAD", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    return store


def end(monkeypatch, rank: int, error: Exception) -> None:
    """End process `rank` with an error."""
    monkeypatch.setattr(Ranks, "join", lambda: ThisOneOf(rank))
    with launched.fail_together():
        raise error


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_that_no_other_process_has_is_raised_where_it_is(store, monkeypatch, rank):
    with raises(RunError, "mine"):
        end(monkeypatch, rank, RunError("mine", code="mine"))


@pytest.mark.parametrize(
    ("rank", "error"),
    [
        (1, ConfigError("the same", code="same")),
        (1, RunError("another", code="another")),
        (0, RuntimeError("connection closed")),
    ],
    ids=["the same", "another", "its consequence"],
)
def test_the_lowest_rank_with_an_error_of_ours_raises_it_and_the_others_end_with_its_exit_code(
    store, monkeypatch, rank, error
):
    store.set(f"tiltlm/failed/{1 - rank}", json.dumps(2))
    with pytest.raises(SystemExit) as ended:
        end(monkeypatch, rank, error)
    assert ended.value.code == 2


def test_the_first_process_raises_its_own(store, monkeypatch):
    store.set("tiltlm/failed/1", json.dumps(2))
    with raises(RunError, "mine"):
        end(monkeypatch, 0, RunError("mine", code="mine"))


def test_an_unexpected_error_is_raised_everywhere(store, monkeypatch):
    """A bug needs its traceback."""
    store.set("tiltlm/failed/0", json.dumps(None))
    with pytest.raises(KeyError):
        end(monkeypatch, 1, KeyError("bug"))


def test_without_a_store_each_process_raises_its_own(store, monkeypatch):
    def gone():
        raise RuntimeError("connection refused")

    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", gone)
    with raises(RunError, "mine"):
        end(monkeypatch, 1, RunError("mine", code="mine"))


@pytest.mark.parametrize(("code", "leaves"), [(0, True), (143, False)])
def test_a_process_that_ends_without_an_error_leaves_the_group(store, monkeypatch, code, leaves):
    ranks = ThisOneOf(0)
    monkeypatch.setattr(Ranks, "join", lambda: ranks)
    with pytest.raises(SystemExit), launched.fail_together():
        sys.exit(code)
    assert ranks.left is leaves


def test_one_process_joins_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(Ranks, "join", lambda: pytest.fail("joined"))
    with launched.fail_together():
        pass
    with raises(RunError, "mine"), launched.fail_together():
        raise RunError("mine", code="mine")
