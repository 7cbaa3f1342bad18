import dataclasses
import math
from collections import Counter
from types import SimpleNamespace

import pytest
from sqlalchemy import event, select

from support.errors import raises
from support.label_databases import check_queue, new_pairs, new_project
from tiltlm.labeling.project import SELECTIONS
from tiltlm.labeling.queue.assignments import AHEAD, Refused, num_left, take
from tiltlm.labeling.queue.ballots import Ballot, vote
from tiltlm.labeling.queue.chance import chance, left_side
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import add_pairs
from tiltlm.labeling.store.people import revoke
from tiltlm.labeling.store.tables import pair


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
    assert len(plans) >= 4
    for statement, steps in plans.items():
        whole = [step for step in steps if step.startswith("SCAN pair") and "INDEX ix_pair_open" not in step]
        assert whole == [], statement
        assert [step for step in steps if "TEMP B-TREE FOR" in step and "ORDER BY" in step] == [], statement


def test_what_is_left(database):
    project, (ann, bob, cho) = new_project(database, 4, overlap=1, repeat_share=0)

    def left(who) -> int:
        with reading(project.engine) as connection:
            return num_left(connection, who)

    assert left(ann) == 4
    with writing(project.engine) as connection:
        assert len(take(connection, project, ann, limit=3)) == 3
    assert (left(ann), left(bob)) == (4, 1)
    assert answer(project, bob) is not None
    assert answer(project, bob) is None
    assert left(bob) == 0
    answer(project, ann, "skip")
    assert (left(ann), left(bob)) == (2, 1)
    assert answer(project, cho) is not None
    assert left(cho) == 0


def keys_given(project, who, num):
    """Return the keys of the first pairs that a person is given."""
    given = [answer(project, who) for _ in range(num)]
    with reading(project.engine) as connection:
        keys = dict(connection.execute(select(pair.c.id, pair.c.key)).all())
    return [keys[one.pair_id] for one in given]


NO_CHECKS = {"gold_share": 0, "repeat_share": 0}


def test_random_order_depends_on_the_seed_alone(tmp_path):
    orders = []
    for k, seed in enumerate((1, 1, 2)):
        project, (ann, *_) = new_project(
            tmp_path / f"{k}.db", 12, seed=seed, secret=bytes([k]) * 32, overlap=1, **NO_CHECKS
        )
        orders.append(keys_given(project, ann, 12))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != sorted(orders[0])


def test_pairs_with_fewer_votes_come_first(tmp_path):
    project, (ann, bob, _) = new_project(tmp_path / "label.db", 6, overlap=2, **NO_CHECKS)
    first = {answer(project, ann).pair_id for _ in range(3)}
    second = {answer(project, bob).pair_id for _ in range(3)}
    assert first.isdisjoint(second)
    third = {answer(project, bob).pair_id for _ in range(3)}
    assert third == first


@pytest.mark.parametrize("selection", ["uncertain", "diverse"])
def test_priority_order(tmp_path, selection):
    project, (ann, *_) = new_project(tmp_path / "label.db", 0, select=selection, random_share=0, overlap=1, **NO_CHECKS)
    priorities = [3.0, 1.0, 2.0, 0.5, 2.5]
    with writing(project.engine) as connection:
        new = [dataclasses.replace(one, priority=p) for one, p in zip(new_pairs(5), priorities, strict=True)]
        add_pairs(connection, project.settings, new)
    assert keys_given(project, ann, 5) == ["task 3", "task 1", "task 2", "task 4", "task 0"]


def test_disputed_pairs_first(tmp_path):
    project, (ann, bob, cho) = new_project(
        tmp_path / "label.db", 4, select="disputed", random_share=0, overlap=2, extra=1, **NO_CHECKS
    )
    disputed = set()
    for k in range(4):
        one = answer(project, ann, "tie")
        other = answer(project, bob, "left" if k < 2 else "tie")
        disputed |= {other.pair_id} if k < 2 else set()
        assert one is not None
    assert {answer(project, cho).pair_id for _ in range(2)} == disputed
    assert answer(project, cho) is None  # the others have the votes that they want


@pytest.mark.parametrize("selection", ["uncertain", "disputed", "diverse"])
def test_share_of_the_random_slice(tmp_path, selection):
    """Pairs in the slice, and votes on it in its order, are as many as the share says (5 standard deviations)."""
    share, num = 0.3, 300
    project, (ann, *_) = new_project(
        tmp_path / "label.db", 3 * num, select=selection, random_share=share, overlap=1, **NO_CHECKS
    )
    with reading(project.engine) as connection:
        slice_of = dict(connection.execute(select(pair.c.id, pair.c.is_random)).all())
    bound = 5 * math.sqrt(share * (1 - share) / num)
    assert abs(sum(slice_of.values()) / len(slice_of) - share) < bound
    with writing(project.engine) as connection:
        given = take(connection, project, ann, limit=num)
    chosen = [one for one in given if one.is_random]
    assert abs(len(chosen) / num - share) < bound
    assert all(slice_of[one.pair_id] for one in chosen)


def test_shares_of_gold_and_repeats(tmp_path):
    """Gold and repeats are as many as the shares say (5 standard deviations), and come after calibration."""
    num, gold, repeats = 300, 0.15, 0.1
    project, (ann, *_) = new_project(
        tmp_path / "label.db", num, gold=200, gold_share=gold, repeat_share=repeats, repeat_gap=0, calibration=3
    )
    given = [answer(project, ann) for _ in range(num)]
    assert [one.kind for one in given].count("calibration") == 3
    assert all(one.kind == "calibration" for one in given[:3])
    num_gold, num_repeats = sum(one.kind == "gold" for one in given), sum(one.is_repeat for one in given)
    for found, share in ((num_gold, gold), (num_repeats, repeats)):
        assert abs(found / num - share) < 5 * math.sqrt(share * (1 - share) / num)
    assert len({(one.pair_id, one.is_repeat) for one in given}) == num


def test_gold_that_is_used_up_makes_room_for_tasks(tmp_path):
    project, (ann, *_) = new_project(tmp_path / "label.db", 20, gold=2, gold_share=0.5, repeat_share=0)
    kinds = [answer(project, ann).kind for _ in range(22)]
    assert kinds.count("gold") == 2
    assert answer(project, ann) is None


def test_everybody_sees_all_of_calibration(database):
    project, people = new_project(database, 2, calibration=3, overlap=1)
    for who in people:
        assert [answer(project, who).kind for _ in range(3)] == ["calibration"] * 3


def test_sides_are_balanced_and_nobody_can_predict_them():
    """Over pairs and over people, a is left half of the time (5 standard deviations), whatever the other is."""
    secret, num = b"s" * 32, 4000
    bound = 5 * 0.5 / math.sqrt(num)
    sides = {(i, k): left_side(secret, i, k) == "a" for i in range(num) for k in range(3)}
    for k in range(3):
        assert abs(sum(sides[i, k] for i in range(num)) / num - 0.5) < bound
    assert abs(sum(sides[i, 0] == sides[i, 1] for i in range(num)) / num - 0.5) < bound
    assert abs(sum(sides[i, 0] == sides[i + 1, 0] for i in range(num - 1)) / num - 0.5) < bound
    assert abs(sum(sides[i, 0] == (left_side(b"t" * 32, i, 0) == "a") for i in range(num)) / num - 0.5) < bound
    assert all(left_side(secret, i, 1, is_repeat=True) != left_side(secret, i, 1) for i in range(100))


def test_chance_is_uniform():
    """In ten bins, χ² of 10,000 draws is below its 1 − 10⁻⁶ quantile, 44.8 with 9 degrees of freedom."""
    counts = Counter(int(10 * chance(b"s" * 32, "x", k)) for k in range(10_000))
    assert sum((counts[k] - 1000) ** 2 / 1000 for k in range(10)) < 44.8
    assert chance(b"s", "1", 2) != chance(b"s", 1, "2")


def test_a_pair_is_held_until_somebody_needs_it(database):
    project, (ann, bob, _) = new_project(database, 2, overlap=1, repeat_share=0)
    clock = SimpleNamespace(time=1000.0)
    project = dataclasses.replace(project, clock=lambda: clock.time)
    with writing(project.engine) as connection:
        first = take(connection, project, ann)
        assert len(first) == 2
        assert take(connection, project, bob) == []
    clock.time += 15 * 60 - 1
    with writing(project.engine) as connection:
        assert take(connection, project, bob) == []
        assert take(connection, project, ann) == first  # and the time begins again
    clock.time += 15 * 60 - 1
    with writing(project.engine) as connection:
        assert take(connection, project, bob) == []
    clock.time += 2
    vote_of(project, ann, first[0])  # late, and nobody needed it
    with writing(project.engine) as connection:
        (taken,) = take(connection, project, bob)
    assert taken.pair_id == first[1].pair_id
    assert taken.ticket != first[1].ticket
    with raises(Refused, "gone"):
        vote_of(project, ann, first[1])
    vote_of(project, bob, taken)
    check_queue(project)


def vote_of(project, who, given, choice="left"):
    with writing(project.engine) as connection:
        return vote(connection, project, who, Ballot(given.ticket, f"{who.id} {given.ticket}", choice))


def test_a_clock_that_goes_back_takes_nothing_away(database):
    project, (ann, bob, _) = new_project(database, 1, overlap=1)
    with writing(project.engine) as connection:
        (given,) = take(connection, project, ann)
    earlier = dataclasses.replace(project, clock=lambda: 5.0)
    with writing(project.engine) as connection:
        assert take(connection, earlier, bob) == []
        assert take(connection, earlier, ann) == [given]
    vote_of(earlier, ann, given)
    check_queue(project)


def test_pairs_of_a_revoked_person_are_free_at_once(database):
    project, (ann, bob, _) = new_project(database, 2, overlap=1)
    with writing(project.engine) as connection:
        held = take(connection, project, ann)
        revoke(connection, "ann")
    with writing(project.engine) as connection:
        assert {one.pair_id for one in take(connection, project, bob)} == {one.pair_id for one in held}
    for use in (lambda: vote_of(project, ann, held[0]), lambda: answer(project, ann)):
        with raises(Refused, "signed_out"):
            use()


def test_a_person_holds_two_pairs(database):
    project, (ann, *_) = new_project(database, 9)
    with writing(project.engine) as connection:
        first = take(connection, project, ann)
        assert take(connection, project, ann) == first
    assert len(first) == AHEAD == 2
    vote_of(project, ann, first[0])
    with writing(project.engine) as connection:
        second = take(connection, project, ann)
    assert second[0] == first[1]  # what was shown ahead is next
    assert second[1] not in first
