"""What the terminal asks of the database, in SQLite and in PostgreSQL."""

import json

import pytest
from sqlalchemy import select

from support.errors import raises
from support.label_databases import new_project
from support.terminal_app import saved
from tiltlm.core import ConfigError
from tiltlm.labeling.queue.assignments import Refused
from tiltlm.labeling.queue.ballots import Ballot
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.people import add_person, revoke
from tiltlm.labeling.store.projects import add_guidelines
from tiltlm.labeling.store.tables import audit
from tiltlm.labeling.terminal.voter import Voter, enter


@pytest.fixture
def project(database):
    return new_project(database, 3, names=("ann", "bob"), overlap=1, repeat_share=0)[0]


def test_somebody_new_is_added_once_and_recorded(project):
    first = enter(project, " dan ")
    assert (first.name, first.role, first.has_link) == ("dan", "annotator", False)
    assert enter(project, "dan") == first
    with reading(project.engine) as connection:
        rows = connection.execute(select(audit.c.action, audit.c.detail)).all()
    assert [(row.action, json.loads(row.detail)["name"]) for row in rows] == [("add", "dan")]


def test_only_annotators_who_were_not_revoked_vote(project):
    with writing(project.engine) as connection:
        add_person(connection, "eve", "adjudicator")
        add_person(connection, "flo", "admin")
        revoke(connection, "bob")
    for name, code in (("eve", "forbidden"), ("flo", "forbidden"), ("bob", "revoked"), ("a\x1bb", "bad_name")):
        with raises(ConfigError, code):
            enter(project, name)


def test_a_vote_and_its_undo(project):
    calls = []
    voter = Voter(project, enter(project, "ann"), lambda: calls.append(len(saved(project))))
    reply = voter.work()
    assert calls == []
    assert (len(reply.work.items), reply.guideline_version, reply.feedback) == (2, 1, None)
    first, second = (one.given.ticket for one in reply.work.items)
    ballot = Ballot(first, "key 1", "left", note="n")
    voted = voter.vote(ballot)
    assert voted.work.items[0].given.ticket == second
    assert voter.vote(ballot) == voted
    with pytest.raises(Refused):
        voter.vote(Ballot(first, "key 2", "right"))
    taken = voter.undo("key 3")
    assert taken.work.items[0].given.ticket == first
    assert (taken.undone.choice, taken.undone.note) == ("left", "n")
    assert calls == [1, 1, 2]
    assert voter.undo("key 3") == taken
    assert [row[1] for row in saved(project)] == ["vote", "undo"]


def test_the_newest_guidelines_and_those_voted_under(project):
    voter = Voter(project, enter(project, "ann"))
    assert voter.seen_guidelines() == 0
    voter.vote(Ballot(voter.work().work.items[0].given.ticket, "key 1", "tie", guideline_version=1))
    with writing(project.engine) as connection:
        add_guidelines(connection, "new")
    assert voter.seen_guidelines() == 1
    assert (voter.guidelines().version, voter.guidelines().text) == (2, "new")
    assert voter.work().guideline_version == 2


def test_others_may_hold_the_last_pairs(project):
    ann, bob = (Voter(project, enter(project, name)) for name in ("ann", "bob"))
    held = ann.work().work.items
    assert bob.is_waiting()
    assert len(bob.work().work.items) == 1
    for number, one in enumerate(held):
        ann.vote(Ballot(one.given.ticket, f"key {number}", "left"))
    assert ann.work().work.items == []
    assert ann.is_waiting()
    assert not bob.is_waiting()
