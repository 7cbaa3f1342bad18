import numpy as np
from sqlalchemy import insert

from support.label_databases import new_project
from tiltlm.data.labels import measure_agreement
from tiltlm.data.labels.votes import TIE, A, B
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs
from tiltlm.labeling.store.tables import assignment, event
from tiltlm.labeling.store.votes import read_votes


def record(connection, pair_id, person, choice, *, left="a", is_repeat=False, counts=True) -> None:
    """Write a vote by hand, and say whether it counts."""
    key = f"{pair_id} {person.id} {is_repeat} {choice}"
    common = {"pair_id": pair_id, "person_id": person.id, "is_repeat": is_repeat, "is_random": False}
    values = {**common, "kind": "vote", "key": key, "choice": choice, "left": left, "server_time": 1.0}
    event_id = connection.execute(insert(event).values(values).returning(event.c.id)).scalar_one()
    if counts:
        own = {"ticket": key, "given": 0, "given_at": 0.0, "expires_at": 0.0, "event_id": event_id}
        connection.execute(insert(assignment).values({**common, **own, "is_skipped": choice == "skip"}))


def test_votes_of_hand_made_events(database):
    project, (ann, bob, _) = new_project(database, 3, gold=1)
    with writing(project.engine) as connection:
        record(connection, 1, ann, "b", counts=False)  # undone
        record(connection, 1, ann, "a")
        record(connection, 1, bob, "b", left="b")
        record(connection, 1, ann, "b", left="b", is_repeat=True)  # after the first one, which counts
        record(connection, 2, ann, "both_bad")
        record(connection, 2, bob, "tie", left="b")
        record(connection, 3, ann, "skip")
        record(connection, 4, ann, "a")
    with reading(project.engine) as connection:
        votes = read_votes(connection)
        gold = read_votes(connection, kinds=("gold",))
        both = read_votes(connection, kinds=("task", "gold"))
    assert [item.id for item in votes.items] == ["task 0", "task 1", "task 2"]
    assert (votes.items[0].prompt, votes.items[0].a) == ("prompt 0", "response a of task 0")
    assert votes.annotators == ("ann", "bob")
    assert list(zip(votes.item, votes.annotator, votes.choice, votes.left, votes.is_bad, strict=True)) == [
        (0, 0, A, A, False),
        (0, 1, B, B, False),
        (1, 0, TIE, A, True),
        (1, 1, TIE, B, False),
    ]
    assert votes.num_skips == 1
    assert [tuple(one) for one in votes.repeats] == [(0, 0, False)]
    found = measure_agreement(votes)
    assert (found.num_votes, found.num_both_bad) == (4, 1)
    assert [item.id for item in gold.items] == ["gold 1000000"]
    assert len(both.item) == 5


def test_contents_come_back_as_they_were(database):
    project, (ann, *_) = new_project(database, 0)
    turns = [{"role": "user", "content": "half \ud800 \x00 \u202e"}]
    new = NewPair(
        turns, "a\x00", [{"role": "assistant", "content": "b"}], key="k", system="be \udfff brief", source="s"
    )
    with writing(project.engine) as connection:
        add_pairs(connection, project.settings, [new])
        record(connection, 1, ann, "a")
    with reading(project.engine) as connection:
        (item,) = read_votes(connection).items
    assert (item.prompt, item.a, item.b, item.system, item.source) == (turns, "a\x00", new.b, new.system, "s")


def test_no_votes(database):
    project, _ = new_project(database, 2)
    with reading(project.engine) as connection:
        votes = read_votes(connection)
    assert votes.items == ()
    assert np.array_equal(votes.item, [])
