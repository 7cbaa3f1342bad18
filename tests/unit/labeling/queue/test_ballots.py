import math

import pytest
from sqlalchemy import select

from support.errors import raises
from support.label_databases import check_queue, new_project
from tiltlm.core.errors import DataError
from tiltlm.labeling.queue.assignments import Refused, find_assignment, take
from tiltlm.labeling.queue.ballots import CHOICES, Ballot, adjudicate, dispute, stored_choice, undo, vote
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.people import add_person
from tiltlm.labeling.store.projects import add_guidelines
from tiltlm.labeling.store.tables import event, pair


def given_to(project, who, place=0):
    with writing(project.engine) as connection:
        return take(connection, project, who)[place]


def send(project, who, given, choice="left", key=None, **values):
    with writing(project.engine) as connection:
        return vote(connection, project, who, Ballot(given.ticket, key or f"{who.id} {given.ticket}", choice, **values))


def take_back(project, who, key="undo"):
    with writing(project.engine) as connection:
        return undo(connection, project, who, key)


def events(project):
    with reading(project.engine) as connection:
        return connection.execute(select(event).order_by(event.c.id)).all()


def counts(project, pair_id):
    with reading(project.engine) as connection:
        row = connection.execute(select(pair).where(pair.c.id == pair_id)).one()
    return row.votes_a, row.votes_b, row.votes_tie, row.assigned, row.wanted


def test_sides_become_responses():
    table = {(choice, left): stored_choice(choice, left) for choice in CHOICES for left in "ab"}
    assert table["left", "a"] == table["right", "b"] == "a"
    assert table["left", "b"] == table["right", "a"] == "b"
    assert all(table[choice, left] == choice for choice in ("tie", "both_bad", "skip") for left in "ab")


def test_what_is_stored(database):
    project, (ann, *_) = new_project(database, 3)
    given = given_to(project, ann)
    with writing(project.engine) as connection:
        add_guidelines(connection, "Second version.")
    send(
        project, ann, given, "right", strength=2, note="n", dwell_ms=1500, client_time=12.5, ui_version="u", reason="r"
    )
    (row,) = events(project)
    assert row.choice == stored_choice("right", given.left)
    assert (row.left, row.strength, row.note, row.reason, row.dwell_ms) == (given.left, 2, "n", "", 1500)
    assert (row.client_time, row.ui_version, row.guideline_version) == (12.5, "u", 2)
    second = given_to(project, ann)
    send(project, ann, second, "skip", strength=2, reason="cannot judge", guideline_version=1)
    row = events(project)[1]
    assert (row.choice, row.strength, row.reason, row.guideline_version) == ("skip", None, "cannot judge", 1)


def test_what_a_browser_can_send_is_stored_or_cut(database):
    project, (ann, *_) = new_project(database, 3)
    odd = {"note": "\x00\ud800" + "x" * 5000, "reason": "\x00", "ui_version": "\udfff", "client_time": math.nan}
    send(project, ann, given_to(project, ann), "skip", dwell_ms=10**12, **odd)
    send(project, ann, given_to(project, ann), "tie", dwell_ms=-5, client_time=math.inf)
    first, second = events(project)
    assert (len(first.note), first.note[:3], first.reason) == (4000, "\ufffd\ufffdx", "\ufffd")
    assert (first.dwell_ms, first.client_time) == (2**31 - 1, None)
    assert (second.dwell_ms, second.client_time) == (0, None)


@pytest.mark.parametrize("key", ["", "k" * 65, "a\x00", "\ud800"])
def test_keys_that_cannot_be_stored(database, key):
    project, (ann, *_) = new_project(database)
    given = given_to(project, ann)
    with writing(project.engine) as connection:
        boss = add_person(connection, "boss", "admin")
        with raises(DataError, "bad_key", key="key"):
            vote(connection, project, ann, Ballot(given.ticket, key, "left"))
        with raises(DataError, "bad_key", key="key"):
            undo(connection, project, ann, key)
        with raises(DataError, "bad_key", key="key"):
            adjudicate(connection, boss, 1, "a", key=key)


def test_the_same_request_again_is_the_same_vote(database):
    project, (ann, bob, _) = new_project(database)
    given = given_to(project, ann)
    first = send(project, ann, given, key="k")
    again = send(project, ann, given, "right", key="k")
    assert (first.is_new, again.is_new) == (True, False)
    assert (first.event_id, first.choice) == (again.event_id, again.choice)
    with raises(Refused, "voted"):
        send(project, ann, given, key="other")
    with raises(Refused, "voted", key="key"):
        send(project, ann, given_to(project, ann), key="k")
    with raises(Refused, "voted", key="key"):
        take_back(project, ann, "k")
    assert send(project, bob, given_to(project, bob), key="k").is_new  # keys are each person's own
    assert len(events(project)) == 2


def test_a_ticket_of_another_person(database):
    project, (ann, bob, _) = new_project(database)
    given = given_to(project, ann)
    with raises(Refused, "gone"):
        send(project, bob, given)
    with reading(project.engine) as connection:
        assert find_assignment(connection, project, bob, given.ticket) is None
        assert find_assignment(connection, project, ann, given.ticket) == given
    assert events(project) == []


def test_feedback_in_calibration(database):
    project, (ann, *_) = new_project(database, 1, calibration=3)
    for choice, is_right in (("a", True), ("b", False), ("both_bad", False)):
        given = given_to(project, ann)
        sides = {"a": "left" if given.left == "a" else "right", "b": "right" if given.left == "a" else "left"}
        found = send(project, ann, given, sides.get(choice, choice))
        assert (found.answer, found.is_right) == ("a", is_right)
    assert send(project, ann, given_to(project, ann)).is_right is None


def test_more_votes_where_votes_disagree(database):
    project, (ann, bob, cho) = new_project(database, 1, overlap=2, extra=1)
    first = send(project, ann, given_to(project, ann), "tie")
    assert counts(project, 1) == (0, 0, 1, 1, 2)
    send(project, bob, given_to(project, bob))
    assert counts(project, 1)[3:] == (2, 3)
    take_back(project, bob)
    assert counts(project, 1) == (0, 0, 1, 2, 2)  # nobody has the third seat, so it is gone
    send(project, bob, given_to(project, bob), key="again")
    third = given_to(project, cho)
    assert third.pair_id == first.assignment.pair_id
    assert counts(project, 1)[3:] == (3, 3)
    take_back(project, bob, "second")
    assert counts(project, 1)[3:] == (3, 3)  # somebody has it
    send(project, cho, third, "skip")
    assert counts(project, 1)[3:] == (2, 2)
    check_queue(project)


def test_a_skip_frees_the_seat(database):
    project, (ann, bob, _) = new_project(database, 1, overlap=1)
    send(project, ann, given_to(project, ann), "skip")
    assert counts(project, 1) == (0, 0, 0, 0, 1)
    with writing(project.engine) as connection:
        assert take(connection, project, ann) == []  # not again
    given = given_to(project, bob)
    with raises(Refused, "gone"):
        take_back(project, ann)
    send(project, bob, given, "skip")
    assert take_back(project, ann, "later").pair_id == given.pair_id
    assert counts(project, 1) == (0, 0, 0, 1, 1)
    with raises(Refused, "gone"):
        take_back(project, bob)


def test_undo_goes_back_step_by_step(database):
    project, (ann, *_) = new_project(database, 5, repeat_share=0)
    given = []
    for choice in ("left", "tie", "skip"):
        given.append(given_to(project, ann))
        send(project, ann, given[-1], choice)
    for number, one in enumerate(reversed(given)):
        found = take_back(project, ann, f"undo {number}")
        assert (found.ticket, found.event_id) == (one.ticket, None)
        again = take_back(project, ann, f"undo {number}")  # the same request
        assert again == found
    with raises(Refused, "nothing_to_undo"):
        take_back(project, ann, "one more")
    assert given_to(project, ann).ticket == given[0].ticket
    assert [row.kind for row in events(project)] == ["vote"] * 3 + ["undo"] * 3
    check_queue(project)


def test_undo_is_a_persons_own(database):
    project, (ann, bob, _) = new_project(database)
    send(project, ann, given_to(project, ann))
    with raises(Refused, "nothing_to_undo"):
        take_back(project, bob)


def test_adjudication(database):
    project, (ann, *_) = new_project(database)
    with writing(project.engine) as connection:
        boss = add_person(connection, "boss", "adjudicator")
        first = adjudicate(connection, boss, 2, "a", key="k", note="\x00")
        assert adjudicate(connection, boss, 2, "b", key="k") == first
        second = adjudicate(connection, boss, 2, "tie", key="l")
        rows = connection.exec_driver_sql("SELECT pair_key, choice, adjudicator FROM adjudication_row").all()
        keys = dict(connection.execute(select(pair.c.id, pair.c.key)).all())
        assert second > first
        assert rows == [(keys[2], "tie", "boss")]
        with raises(Refused, "forbidden"):
            adjudicate(connection, ann, 2, "a", key="m")
        with raises(Refused, "voted", key="key"):
            adjudicate(connection, boss, 3, "a", key="k")
        with raises(DataError, "unknown_name", key="PAIR"):
            adjudicate(connection, boss, 999, "a", key="n")


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ((0, 0, 0), 0),
        ((1, 0, 0), 0),
        ((2, 0, 0), 0),
        ((1, 1, 0), 1),
        ((2, 1, 0), 2 / 3),
        ((1, 1, 1), 1),
        ((0, 0, 3), 0),
    ],
)
def test_dispute(votes, expected):
    assert dispute(*votes) == pytest.approx(expected)
