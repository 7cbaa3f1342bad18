"""One process prints an error and all end with its exit code; the store decides which, without long waits."""

import sys
import threading

import pytest
import torch.distributed as dist

from support.errors import raises
from tiltlm.cli import launched
from tiltlm.cli.main import described
from tiltlm.core import ConfigError, RunError
from tiltlm.distributed import Ranks, watchdog
from tiltlm.distributed.board import Board
from tiltlm.distributed.watchdog import Watchdog


class ThisOneOf:
    """One of two processes, with only what `fail_together` reads."""

    def __init__(self, rank: int) -> None:
        self.rank, self.size, self.left = rank, 2, False

    def leave(self) -> None:
        self.left = True


@pytest.fixture
def store(monkeypatch):
    """The store of two processes, and short waits. The watchdogs of the test end with it."""
    for name, seconds in {"GRACE": 0.3, "SILENCE": 1.0, "LEAD": 0.3, "PATIENCE": 3.0, "INTERVAL": 0.05}.items():
        monkeypatch.setattr(watchdog, name, seconds)
    monkeypatch.setattr(launched.signal, "signal", lambda *given: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    yield dist.HashStore()
    watchdog.unwatch()


@pytest.fixture
def other(store):
    """Return a function that starts the watchdog of the other process, in this one."""
    started = []

    def start(rank: int) -> Watchdog:
        found = Watchdog(Board(store, rank, 2), 60.0)
        found.exchange.start()
        started.append(found)
        return found

    yield start
    for each in started:
        each.exchange.stop()


@pytest.fixture
def end(store, monkeypatch):
    """Return a function that ends process `rank` with an error, and returns its exit code and what it prints."""

    def act(rank: int, error: BaseException) -> tuple[object, list[str]]:
        printed: list[str] = []
        monkeypatch.setattr(Ranks, "join", lambda: ThisOneOf(rank))
        watchdog.unwatch()
        dog = Watchdog(Board(store, rank, 2), 60.0)
        dog.exchange.start()  # its own watch would end the process of the test
        monkeypatch.setattr(watchdog, "_active", [dog])
        monkeypatch.setattr(watchdog, "end_process", sys.exit)
        with pytest.raises(SystemExit) as ended, launched.fail_together(described, printed.append):
            raise error
        return ended.value.code, printed

    return act


def test_rank_0_prints_its_own_error(end, other):
    other(1)
    assert end(0, RunError("mine", code="mine")) == (1, ["mine"])


def test_rank_0_prints_the_error_of_another_rank_in_place_of_its_consequence(end, other):
    other(1).exchange.report(2, "no such file", True)
    assert end(0, RuntimeError("connection closed by peer")) == (2, ["rank 1: no such file"])


def test_the_same_error_in_all_is_printed_once(end, other):
    other(1).exchange.report(2, "the same", True)
    assert end(0, ConfigError("the same", code="same")) == (2, ["the same"])


def test_another_rank_prints_nothing_and_ends_with_the_code_that_rank_0_decided(end, other):
    first = other(0).exchange
    threading.Timer(0.5, first.decide, [2]).start()
    assert end(1, RunError("mine", code="mine")) == (2, [])


def test_another_rank_prints_where_rank_0_is_lost(end, store):
    Board(store, 0, 2).write_beat(watchdog.Beat(1, 1, "elsewhere", 42, "train, step 3", "", False))
    code, printed = end(1, RuntimeError("connection closed by peer"))
    assert code == 1
    assert printed[0].startswith("rank 0 (")


def test_a_rank_that_ended_without_a_report_is_named(end, store):
    Board(store, 1, 2).write_beat(watchdog.Beat(1, 1, "elsewhere", 42, "train, step 3", "", False))
    code, printed = end(0, RuntimeError("connection closed by peer"))
    assert code == 1
    assert printed[0].startswith("rank 1 (process 42 on elsewhere)")


def test_a_defect_is_printed_with_its_traceback(end, other):
    other(1)
    code, (printed,) = end(0, KeyError("bug"))
    assert code == 1
    assert "Traceback" in printed
    assert "KeyError: 'bug'" in printed


def test_a_signal_to_one_process_ends_all_without_a_message(end, other):
    second = other(1)
    assert end(0, SystemExit(143)) == (143, [])
    assert second.exchange.decision == 143


def test_a_process_that_ends_without_an_error_leaves_the_group(store, monkeypatch):
    ranks = ThisOneOf(0)
    monkeypatch.setattr(Ranks, "join", lambda: ranks)
    with pytest.raises(SystemExit), launched.fail_together(described, print):
        sys.exit(0)
    assert ranks.left
    ranks.left = False
    with launched.fail_together(described, print):
        pass
    assert ranks.left


def test_one_process_joins_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(Ranks, "join", lambda: pytest.fail("joined"))
    with launched.fail_together(described, print):
        pass
    with raises(RunError, "mine"), launched.fail_together(described, print):
        raise RunError("mine", code="mine")
