"""Several people at once, in threads and in processes, and processes that are killed."""

import contextlib
import dataclasses
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from support import label_worker
from support.label_databases import check_queue, new_pairs, new_project
from tiltlm.labeling.queue.assignments import Refused, take
from tiltlm.labeling.queue.ballots import CHOICES, Ballot, undo, vote
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import add_pairs
from tiltlm.labeling.store.tables import event


def together(*actions) -> None:
    """Run actions in threads that begin at the same moment; raise what they raise."""
    barrier, failed = threading.Barrier(len(actions)), []

    def run(action) -> None:
        barrier.wait()
        try:
            action()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def start_worker(database, *args) -> subprocess.Popen:
    call = [sys.executable, label_worker.__file__, str(database), *map(str, args)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def race(database, num_pairs, num_people, overlap) -> None:
    names = tuple(f"person {k}" for k in range(num_people))
    own = {"overlap": overlap, "extra": 0, "repeat_share": 0}
    project, _ = new_project(database, num_pairs, names=names, **own)
    workers = [start_worker(database, name) for name in names]
    ended = [(*worker.communicate(), worker.returncode) for worker in workers]
    assert [(error, code) for _, error, code in ended] == [("", 0)] * num_people
    assert sum(int(out) for out, _, _ in ended) == num_pairs * overlap
    with reading(project.engine) as connection:
        votes = connection.execute(select(event.c.pair_id, event.c.person_id)).all()
    assert len(set(votes)) == len(votes) == num_pairs * overlap
    assert set(Counter(pair_id for pair_id, _ in votes).values()) == {overlap}
    check_queue(project)


@pytest.mark.slow
def test_four_processes(database):
    race(database, 30, 4, 3)


@pytest.mark.slow
def test_ten_processes(tmp_path):
    race(tmp_path / "label.db", 300, 10, 3)


@pytest.mark.slow
def test_killed_while_voting(database, tmp_path):
    """Each ballot that was written down before it was sent is sent again: it is one event, not none and not two."""
    own = {"overlap": 1, "repeat_share": 0}
    project, (ann,) = new_project(database, 2000, names=("ann",), **own)
    sent, chance = tmp_path / "sent", random.Random(0)
    for _ in range(3):
        before = lines(sent)
        worker = start_worker(database, "ann", sent)
        while len(lines(sent)) < len(before) + 5:
            assert worker.poll() is None, worker.communicate()
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        for ticket, key in lines(sent):
            with writing(project.engine) as connection:
                vote(connection, project, ann, Ballot(ticket, key, "left"))
    with reading(project.engine) as connection:
        keys = connection.execute(select(event.c.key)).scalars().all()
    assert sorted(keys) == sorted(key for _, key in lines(sent))
    assert check_queue(project)["vote"] == len(keys) >= 15


def lines(file: Path) -> list[list[str]]:
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def test_one_request_twice_at_once(database):
    project, (ann, *_) = new_project(database, 8)
    for number in range(8):
        with writing(project.engine) as connection:
            (given,) = take(connection, project, ann, limit=1)
        found = []

        def send(given=given, number=number, found=found) -> None:
            with writing(project.engine) as connection:
                found.append(vote(connection, project, ann, Ballot(given.ticket, f"key {number}", "left")))

        together(send, send, send)
        assert len({one.event_id for one in found}) == 1
        assert sorted(one.is_new for one in found) == [False, False, True]
    assert check_queue(project)["vote"] == 8


def test_two_at_the_last_seat(database):
    """A lease is over: either the late vote counts, or the pair goes to somebody else. Never both, never neither."""
    project, (ann, bob, _) = new_project(database, 0, overlap=1)
    late = dataclasses.replace(project, clock=lambda: time.time() + 10_000)
    for number in range(10):
        with writing(project.engine) as connection:
            add_pairs(connection, project.settings, new_pairs(1, start=number))
            (given,) = take(connection, project, ann)
        counted, held = [], []

        def votes_late(given=given, number=number, counted=counted) -> None:
            with contextlib.suppress(Refused), writing(late.engine) as connection:
                counted.append(vote(connection, late, ann, Ballot(given.ticket, f"ann {number}", "left")))

        def takes(held=held) -> None:
            with writing(late.engine) as connection:
                held += take(connection, late, bob)

        together(votes_late, takes)
        assert len(counted) + len(held) == 1
        with writing(late.engine) as connection:
            for one in held:
                vote(connection, late, bob, Ballot(one.ticket, f"bob {number}", "left"))
        assert check_queue(project)["vote"] == number + 1


def test_everything_at_once(database):
    """People vote, skip and take back, and their leases are over at once. Nothing waits for a circle of locks."""
    names = tuple("abcdef")
    own = {"overlap": 2, "extra": 1, "lease_minutes": 0.00005, "repeat_share": 0.2, "repeat_gap": 2}
    project, people = new_project(database, 8, names=names, **own)
    counted = Counter()

    def work(who, seed) -> None:
        chance = random.Random(seed)
        for number in range(25):
            with contextlib.suppress(Refused):
                with writing(project.engine) as connection:
                    found = take(connection, project, who)
                    kind = "vote" if found and chance.random() < 0.7 else "undo"
                    if kind == "undo":
                        undo(connection, project, who, f"undo {number}")
                    else:
                        ballot = Ballot(found[-1].ticket, f"vote {number}", chance.choice(CHOICES))
                        vote(connection, project, who, ballot)
                    take(connection, project, who)
                counted[kind, who.id] += 1

    together(*[lambda who=who: work(who, who.id) for who in people])
    kinds = check_queue(project)
    for kind in ("vote", "undo"):
        assert kinds[kind] == sum(num for (own_kind, _), num in counted.items() if own_kind == kind)
    assert kinds["vote"] > 20
    assert kinds["undo"] > 5
