"""A rank that is lost, or that the others wait for, is named; one rank decides how all end."""

import os
import sys
import time

import pytest
import torch.distributed as dist

from support.errors import events, raises
from tiltlm.core import ConfigError
from tiltlm.distributed import watchdog
from tiltlm.distributed.board import Beat, Board, Failure
from tiltlm.distributed.exchange import Exchange
from tiltlm.distributed.launched import OWN_STORE, VARIABLE, check_restarts, rank_timeout
from tiltlm.distributed.position import HERE, Position, main_place
from tiltlm.distributed.watchdog import Watchdog, choose, late, overdue, store_text

LIMIT = 10.0


def beat(rank: int, waits: bool = True, done: bool = False) -> Beat:
    return Beat(1, 1, f"host{rank}", 100 + rank, f"train, step 7, row pairs.jsonl:{rank}", "poll (x.py:1)", waits, done)


def exchange(size: int = 3, rank: int = 0) -> Exchange:
    """What a rank knows, all ranks alive and at work."""
    found = Exchange(Board(dist.HashStore(), rank, size), 1.0)
    ranks = range(size) if rank == 0 else (0, rank)
    found.beats = {r: beat(r) for r in ranks}
    found.silent = dict.fromkeys(ranks, 0.0)
    found.standing = dict.fromkeys(ranks, 0.0)
    found.same_place = dict.fromkeys(ranks, 0.0)
    return found


def failure(rank: int, order: int, ours: bool, code: int = 1, text: str = "") -> Failure:
    return Failure(rank, order, code, text or f"error of {rank}", ours)


class TestOverdue:
    def test_nothing_is_wrong_while_all_beat_and_one_moves(self):
        found = exchange()
        found.standing = {0: 100.0, 1: 100.0, 2: 3.0}
        assert overdue(found, LIMIT) == ""

    def test_a_silent_rank_is_named_with_its_machine_and_place(self):
        found = exchange()
        found.silent[2] = LIMIT + 1
        text = overdue(found, LIMIT)
        assert text.startswith("rank 2 (process 102 on host2)")
        assert "rank 0 (" not in text.splitlines()[0]
        assert "step 7" in text
        assert "pairs.jsonl:2" in text

    def test_a_rank_that_stands_still_outside_a_collective_is_the_one_that_is_missing(self):
        found = exchange()
        found.standing = dict.fromkeys(range(3), LIMIT + 1)
        found.beats[1] = beat(1, waits=False)
        assert overdue(found, LIMIT).startswith("rank 1 (")

    @pytest.mark.parametrize("waits", [True, False])
    def test_where_no_rank_differs_all_are_shown(self, waits):
        found = exchange()
        found.standing = dict.fromkeys(range(3), LIMIT + 1)
        found.beats = {rank: beat(rank, waits=waits) for rank in range(3)}
        text = overdue(found, LIMIT)
        assert all(f"rank {rank} on host{rank}" in text for rank in range(3))

    def test_a_rank_that_is_done_is_not_waited_for(self):
        found = exchange()
        found.beats[1] = beat(1, done=True)
        found.standing = {0: LIMIT + 1, 1: 0.0, 2: LIMIT + 1}
        found.beats[0] = beat(0, waits=False)
        assert overdue(found, LIMIT).startswith("rank 0 (")

    def test_other_ranks_watch_rank_0_only_and_later(self):
        found = exchange(rank=2)
        found.standing = dict.fromkeys((0, 2), LIMIT + 100)
        found.silent[0] = LIMIT + 1
        assert overdue(found, LIMIT) == ""
        found.silent[0] = LIMIT + 5
        assert overdue(found, LIMIT).startswith("rank 0 (")

    def test_no_limit_means_never(self):
        found = exchange()
        found.silent = found.standing = dict.fromkeys(range(3), 1e9)
        assert overdue(found, 0.0) == ""

    def test_many_lost_ranks_are_counted(self):
        found = exchange(size=100)
        found.silent = dict.fromkeys(range(100), LIMIT + 1)
        text = overdue(found, LIMIT)
        assert len(text.splitlines()) < 25
        assert "and 83 more" in text.splitlines()[0]


class TestLate:
    """Rank 1 computes for long, and the others wait for it. It may be work for all, so nothing ends."""

    @pytest.fixture
    def found(self):
        found = exchange()
        found.beats[1] = beat(1, waits=False)
        found.standing = {0: LIMIT + 1, 1: 0.0, 2: LIMIT + 1}
        found.same_place = dict.fromkeys(range(3), LIMIT + 1)
        return found

    def test_a_warning_names_it_once(self, found, caplog):
        assert late(found, LIMIT) == [1]
        assert overdue(found, LIMIT) == ""
        dog = Watchdog(Board(dist.HashStore(), 0, 3), LIMIT)
        dog.exchange = found
        dog._look()
        dog._look()
        (warning,) = events(caplog, "ranks_late")
        assert warning.ranks == [1]
        assert warning.getMessage().startswith("rank 1 (process 101 on host1)")
        assert "pairs.jsonl:1" in warning.getMessage()

    def test_not_while_it_gets_on_or_another_works_too(self, found):
        assert late(found, 0.0) == []
        found.same_place[1] = 1.0
        assert late(found, LIMIT) == []
        found.same_place[1] = LIMIT + 1
        found.standing[2] = 1.0
        assert late(found, LIMIT) == []


class TestChoose:
    def test_the_lowest_rank_with_an_error_of_ours(self):
        failures = {0: failure(0, 1, False), 1: failure(1, 3, True, code=2), 2: failure(2, 2, True)}
        ending = choose(failures, [], exchange())
        assert ending.exit_code == 2
        assert ending.text == "rank 1: error of 1"

    def test_its_own_error_needs_no_rank(self):
        assert choose({0: failure(0, 1, True)}, [], exchange()).text == "error of 0"

    def test_a_rank_that_ended_without_a_report_before_the_broken_connection_it_causes(self):
        ending = choose({0: failure(0, 1, False)}, [1], exchange())
        assert ending.exit_code == 1
        assert ending.text.startswith("rank 1 (process 101 on host1)")

    def test_the_first_defect_before_its_consequences(self):
        failures = {0: failure(0, 2, False), 2: failure(2, 1, False)}
        assert choose(failures, [], exchange()).text == "rank 2: error of 2"

    def test_a_signal_has_a_code_and_no_text(self):
        ending = choose({1: Failure(1, 1, 143, "", False)}, [], exchange())
        assert ending == (143, "")


def test_the_message_of_a_lost_store_names_rank_0_and_its_address(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    text = store_text(exchange(rank=1))
    assert "10.0.0.1:29500" in text
    assert "rank 0 (process 100 on host0)" in text


class TestBoard:
    def test_beats_of_all_ranks_once_all_have_written_one(self):
        store = dist.HashStore()
        boards = [Board(store, rank, 2) for rank in range(2)]
        boards[0].write_beat(beat(0))
        assert boards[0].beats(range(2)) == {}
        boards[1].write_beat(beat(1))
        assert boards[0].beats(range(2)) == {0: beat(0), 1: beat(1)}

    def test_failures_have_their_order(self):
        store = dist.HashStore()
        boards = [Board(store, rank, 3) for rank in range(3)]
        assert boards[0].failures() == {}
        boards[2].report(2, "bad file", True)
        boards[0].report(1, "broken connection", False)
        found = boards[1].failures()
        assert found == {2: Failure(2, 1, 2, "bad file", True), 0: Failure(0, 2, 1, "broken connection", False)}

    def test_the_first_decision_holds(self):
        store = dist.HashStore()
        boards = [Board(store, rank, 2) for rank in range(2)]
        assert boards[0].decision() is None
        assert boards[1].decide(2)
        assert not boards[0].decide(1)
        assert boards[0].decision() == 2


class TestExchange:
    @pytest.fixture
    def pair(self):
        store = dist.HashStore()
        return [Exchange(Board(store, rank, 2), 1.0, spins=True) for rank in range(2)]

    def test_silence_grows_while_no_beat_comes_and_ends_with_one(self, pair):
        first, second = pair
        boards = [each._board for each in pair]
        for each, board in zip(pair, boards, strict=True):
            each._beat(board)
        first._read(boards[0], 1.0)
        first._read(boards[0], 1.0)
        first._read(boards[0], 1.0)
        assert first.silent[1] == 2.0
        second._beat(boards[1])
        first._read(boards[0], 1.0)
        assert first.silent[1] == 0.0

    @pytest.mark.parametrize("spins", [True, False])
    def test_processor_time_of_the_main_thread_is_movement_where_it_does_not_spin(self, spins):
        found = Exchange(Board(dist.HashStore(), 0, 1), 0.1, spins)
        moved = []
        for _ in range(3):  # always from the same place in the code
            until = time.thread_time() + 0.05
            while time.thread_time() < until:
                pass
            found._beat(found._board)
            moved.append(found._moved)
        assert moved == ([1, 1, 1] if spins else [1, 2, 3])

    def test_a_change_of_position_is_movement(self, pair):
        first = pair[0]
        boards = [each._board for each in pair]

        def everyone_beats() -> None:  # always from the same place in the code
            for each, board in zip(pair, boards, strict=True):
                each._beat(board)
            first._read(boards[0], 1.0)

        standing = []
        for moves in (True, False, False, True):
            HERE.ticks += moves
            everyone_beats()
            standing.append((first.standing[1], first.same_place[1]))
        assert standing == [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0), (0.0, 0.0)]


def test_the_place_in_the_code_is_the_innermost_function_of_tiltlm():
    found = []

    class Reads:
        def __call__(self, label, done, total, /, **figures):
            found.append(main_place())

    from tiltlm.recipes.progress import display

    with display(Reads()) as draw:
        draw("x", 0, 0)
    assert found[0].call.startswith("note (recipes/progress.py:")
    assert not found[0].waits


def test_a_position_as_text():
    position = Position()
    position.enter("train", 12)
    position.at_row("pairs.jsonl:7")
    assert position.text == "train, step 12, row pairs.jsonl:7"
    position.note("train")
    assert position.step == 12
    position.note("save")
    assert position.text == "save"
    assert position.ticks == 4


@pytest.mark.parametrize(("text", "seconds"), [("", 600.0), ("30", 30.0), ("0", 0.0), ("1.5", 1.5)])
def test_the_limit_is_an_environment_variable(text, seconds, monkeypatch):
    monkeypatch.setenv(VARIABLE, text)
    assert rank_timeout() == seconds


@pytest.mark.parametrize("text", ["ten", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_of_seconds_is_refused(text, monkeypatch):
    monkeypatch.setenv(VARIABLE, text)
    with raises(ConfigError, "not_a_number", key=VARIABLE):
        rank_timeout()


def test_beats_name_this_process():
    store = dist.HashStore()
    one = Exchange(Board(store, 0, 1), 1.0)
    one._beat(one._board)
    assert one._board.beats([0])[0].pid == os.getpid()


@pytest.mark.parametrize(
    ("shares", "restarts", "is_refused"), [("True", "3", True), ("True", "0", False), ("False", "3", False)]
)
def test_restarts_by_torchrun_need_a_store_of_their_own(shares, restarts, is_refused, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", shares)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    if not is_refused:
        check_restarts()
        return
    with raises(ConfigError, "restarts_need_own_store", key=OWN_STORE, mentions=["--max-restarts"]):
        check_restarts()


class TestOneThreadEndsTheProcess:
    @pytest.fixture
    def dog(self, monkeypatch):
        monkeypatch.setattr(watchdog, "FOLLOW", 0.0)
        found = Watchdog(Board(dist.HashStore(), 1, 2), 60.0)
        found.exchange.decision = 2
        return found

    def test_the_watchdog_ends_it_with_the_code_that_was_decided(self, dog, monkeypatch):
        monkeypatch.setattr(watchdog, "end_process", sys.exit)
        with pytest.raises(SystemExit) as ended:
            dog._look()
        assert ended.value.code == 2

    def test_not_while_the_main_thread_ends_it(self, dog, monkeypatch):
        monkeypatch.setattr(watchdog, "end_process", lambda code: pytest.fail("ended twice"))
        assert dog.fail(1, "mine", True) is None
        dog._look()
