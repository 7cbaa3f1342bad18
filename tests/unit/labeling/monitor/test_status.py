"""All numbers, read from a database in which people voted."""

import json

import pytest

from support.label_crowd import cast
from support.label_databases import new_project
from tiltlm.labeling.monitor.disputes import Filter, beginning, list_pairs, opinions, sources_and_models
from tiltlm.labeling.monitor.facts import num_chars, read_facts, state_of
from tiltlm.labeling.monitor.status import measure_status, plan_of
from tiltlm.labeling.queue.ballots import adjudicate
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs
from tiltlm.labeling.store.people import add_person, revoke


@pytest.fixture
def voted(database):
    """Return a project of 6 pairs: two people agree on pairs 0 to 3 and disagree on 4 and 5; a third one skips."""
    project, (ann, bob, cho) = new_project(database, 6, overlap=2, extra=1, gold_share=0, repeat_share=0)
    with project:
        with reading(project.engine) as connection:
            keys = {one.id: one.key for one in list_pairs(connection, Filter())[0]}
        disputed = ("task 4", "task 5")
        cast(project, ann, lambda given: {"choice": "a", "dwell_ms": 5000, "note": "clear" * (given.pair_id == 1)})
        cast(project, bob, lambda given: {"choice": "b" if keys[given.pair_id] in disputed else "a"})
        cast(project, cho, lambda given: {"choice": "skip", "reason": "needs an expert"})
        yield project


def status_of(project):
    with reading(project.engine) as connection:
        return measure_status(read_facts(connection, project.settings))


def test_numbers_by_hand(voted):
    found = status_of(voted)
    assert found.coverage.per_pair == {2: 6}
    assert (found.coverage.num_wanted, found.coverage.num_expected) == (14, 2)
    assert found.coverage.num_out_of_reach == 2  # the third person skipped both
    assert found.agreement.raw.estimate == pytest.approx(4 / 6)
    assert found.skips == {"needs an expert": 2}
    assert found.by_guidelines == {1: 14}
    assert {one.name: (one.num_votes, one.num_skips) for one in found.annotators} == {
        "ann": (6, 0),
        "bob": (6, 0),
        "cho": (0, 2),
    }
    (verdict,) = found.verdicts
    assert verdict.systems == ("first", "second")
    assert verdict.rate.estimate == pytest.approx((4 + 2 * 0.5) / 6)
    assert found.plan is not None
    assert any("nobody" in note for note in found.notes)


def test_a_decision_counts_in_place_of_the_votes(voted):
    with writing(voted.engine) as connection:
        judge = add_person(connection, "jo", "adjudicator")
        found, total = list_pairs(connection, Filter(open_only=True))
        assert ([one.key for one in found], total) == (["task 4", "task 5"], 2)
        adjudicate(connection, judge, found[0].id, "tie", key="first key")
        adjudicate(connection, judge, found[0].id, "b", key="second key", note="wrong fact")
        said = opinions(connection, found[0].id)
        assert [(one.name, one.choice, one.is_decision) for one in said] == [
            ("ann", "a", False),
            ("bob", "b", False),
            ("cho", "skip", False),
            ("jo", "tie", True),
            ("jo", "b", True),
        ]
        assert [one.key for one in list_pairs(connection, Filter(open_only=True))[0]] == ["task 5"]
    found = status_of(voted)
    assert found.coverage.num_adjudicated == 1
    assert found.verdicts[0].rate.estimate == pytest.approx((4 + 0 + 0.5) / 6)


def test_all_is_plain_json(voted):
    plain = json.loads(json.dumps(status_of(voted).as_dict(), allow_nan=False))
    assert plain["coverage"]["per_pair"] == {"2": 6}
    assert plain["verdicts"][0]["forecast"]["same_verdict"] >= 0
    assert plain["annotators"][0]["name"] == "ann"
    assert plain["advice"]


def test_a_new_project_has_a_plan_and_no_numbers(database):
    project, _ = new_project(database, 10, gold=5, calibration=2)
    with project:
        found = status_of(project)
        with reading(project.engine) as connection:
            facts = read_facts(connection, project.settings)
    assert found.agreement is None
    assert found.verdicts[0].rate is None
    assert not found.should_stop
    assert found.plan == plan_of(facts)
    assert (found.plan.num_pairs, found.plan.num_people, found.plan.num_calibration) == (10, 3, 6)
    json.dumps(found.as_dict(), allow_nan=False)


def test_unanimous_votes_have_no_alpha(database):
    project, (ann, bob, _) = new_project(database, 4, overlap=2, gold_share=0, repeat_share=0)
    with project:
        for who in (ann, bob):
            cast(project, who, lambda given: {"choice": "a"})
        found = status_of(project)
    assert found.agreement.alpha is None
    assert "alpha_unanimous" in {note.code for note in found.agreement.notes}
    assert found.as_dict()["agreement"]["alpha"] is None
    assert found.coverage.num_expected == 0


def test_state_changes_with_all_that_numbers_show(voted):
    def state():
        with reading(voted.engine) as connection:
            return state_of(connection)

    before = state()
    assert state() == before
    with writing(voted.engine) as connection:
        judge = add_person(connection, "jo", "adjudicator")
    assert (after := state()) != before
    with writing(voted.engine) as connection:
        adjudicate(connection, judge, 1, "a", key="a key of a request")
    assert state() != after


def test_revoked_people_are_no_more_expected_to_vote(voted):
    with writing(voted.engine) as connection:
        revoke(connection, "cho")
    found = {one.name: one.is_active for one in status_of(voted).annotators}
    assert found == {"ann": True, "bob": True, "cho": False}


def test_lists_are_sorted_and_narrowed(database):
    texts = {"short": ("a", "bb"), "long": ("é" * 50, "x" * 10), "lone": ("\ud800" * 7, "y")}
    project, _ = new_project(database, 0)
    with project, writing(project.engine) as connection:
        pairs = [
            NewPair(
                [{"role": "user", "content": f"{key}\n text"}], a, b, key=f"{key}_%", source=key[:2], models=(key, "m")
            )
            for key, (a, b) in texts.items()
        ]
        add_pairs(connection, project.settings, pairs)

        def keys(**options):
            found, total = list_pairs(connection, Filter(**options))
            assert total == len(found)
            return [one.key for one in found]

        found, _ = list_pairs(connection, Filter(sort="length"))
        assert [(one.key, one.length_gap) for one in found] == [("long_%", 40), ("lone_%", 6), ("short_%", -1)]
        assert found[0].prompt == "long text"
        assert keys(sort="key") == ["lone_%", "long_%", "short_%"]
        assert keys(text="n%") == []
        assert keys(text="t_%") == ["short_%"]
        assert keys(source="lo", sort="key") == ["lone_%", "long_%"]
        assert keys(model="short") == ["short_%"]
        assert keys(model="' OR 1=1 --") == []
        assert keys(kind="gold") == []
        page, total = list_pairs(connection, Filter(sort="key"), offset=1, limit=1)
        assert ([one.key for one in page], total) == (["long_%"], 3)
        assert sources_and_models(connection) == (["lo", "sh"], ["lone", "long", "m", "short"])


def test_characters_are_counted_as_people_see_them(database):
    from sqlalchemy import literal, select

    project, _ = new_project(database, 0)
    with project, reading(project.engine) as connection:
        for text in ("plain", "naïve", "日本語"):
            counted = connection.execute(select(num_chars(literal(json.dumps(text))))).scalar_one()
            assert counted == len(text) + 2  # and the two quotes


def test_the_beginning_of_a_prompt():
    assert beginning("  two\n lines ") == "two lines"
    assert beginning("x" * 500) == "x" * 119 + "…"
    assert beginning([{"role": "user", "content": "first"}, {"role": "user", "content": "last"}]) == "last"
    assert beginning([]) == ""
