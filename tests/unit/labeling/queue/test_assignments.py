import pytest
from sqlalchemy import event

from support.label_databases import new_project
from tiltlm.labeling.project import SELECTIONS
from tiltlm.labeling.queue.assignments import num_held_by_others, num_left, take
from tiltlm.labeling.queue.ballots import Ballot, vote
from tiltlm.labeling.store.database import reading, writing


def answer(project, who, choice="left", **values):
    """Take one pair and vote; return the assignment, None if there is nothing left."""
    with writing(project.engine) as connection:
        found = take(connection, project, who, limit=1)
        if not found:
            return None
        vote(connection, project, who, Ballot(found[0].ticket, f"{who.id} {found[0].ticket}", choice, **values))
        return found[0]


def test_a_repeat_needs_votes_before_it(database):
    """Nobody has a repeat before the gap, however often one is drawn."""
    project, (ann, *_) = new_project(database, 30, repeat_share=0.5, gold_share=0, repeat_gap=3)
    given = [answer(project, ann) for _ in range(20)]
    assert not any(one.is_repeat for one in given[:4])
    assert any(one.is_repeat for one in given)
    for place, one in enumerate(given):
        if one.is_repeat:
            (first,) = [k for k in range(place) if given[k].pair_id == one.pair_id]
            assert place - first > 3
            assert given[first].left != one.left


@pytest.mark.parametrize("selection", SELECTIONS)
def test_no_query_sorts_or_reads_all_pairs(tmp_path, selection):
    """Every query that gives a pair, and counts what is left, goes through an index: it is quick with 100,000 pairs."""
    project, (ann, *_) = new_project(tmp_path / "label.db", 30, select=selection, gold=2, gold_share=0.2, repeat_gap=1)
    answer(project, ann)
    plans = {}

    def explain(connection, cursor, statement, parameters, context, many) -> None:
        if "FROM pair" in statement and statement.startswith("SELECT"):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans[statement] = [row[3] for row in rows]

    event.listen(project.engine, "before_cursor_execute", explain)
    for _ in range(12):
        answer(project, ann)
    with reading(project.engine) as connection:
        num_left(connection, ann)
        num_held_by_others(connection, ann)
    assert len(plans) >= 4
    for statement, steps in plans.items():
        whole = [step for step in steps if step.startswith("SCAN pair") and "INDEX ix_pair_open" not in step]
        assert whole == [], statement
        assert [step for step in steps if "TEMP B-TREE FOR" in step and "ORDER BY" in step] == [], statement


def test_what_is_left_and_what_others_hold(database):
    project, (ann, bob, cho) = new_project(database, 4, overlap=1, repeat_share=0)

    def numbers(who):
        with reading(project.engine) as connection:
            return num_left(connection, who), num_held_by_others(connection, who)

    assert numbers(ann) == (4, 0)
    with writing(project.engine) as connection:
        assert len(take(connection, project, ann, limit=3)) == 3
    assert numbers(ann) == (4, 0)
    assert numbers(bob) == (1, 3)
    assert answer(project, bob) is not None
    assert answer(project, bob) is None
    assert numbers(bob) == (0, 3)
    answer(project, ann, "skip")
    assert numbers(bob) == (1, 2)
    assert numbers(ann) == (2, 0)
    assert answer(project, cho) is not None
    assert numbers(cho) == (0, 2)
