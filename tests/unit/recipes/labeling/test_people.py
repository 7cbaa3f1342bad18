"""People as a judge: pairs are asked once, orders mirror, and nobody's votes are lost."""

import threading

import pytest
from sqlalchemy import select

from support.errors import raises
from support.simulated_people import prefers, vote_all
from tiltlm.core import ConfigError, RunError
from tiltlm.judging import JudgementCache, JudgeSettings, PairItem, build_judge, cached, check_trains
from tiltlm.judging.orders import both_orders
from tiltlm.labeling.queue.ballots import adjudicate
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.people import add_person
from tiltlm.labeling.store.projects import open_project
from tiltlm.labeling.store.tables import pair, response

PAIRS = [
    PairItem("p1", "good", "worse still", models=("A", "B")),
    PairItem("p2", "not so good", "best", models=("A", "B")),
    PairItem((({"role": "user", "content": "p3"}),), "same", "four"),
]
NAMES = ("ann", "bob")


@pytest.fixture
def settings(database):
    return JudgeSettings(f"people:{database}", votes=2, wait="stop")


def vote(database, decide=None, names=NAMES) -> int:
    with open_project(database) as project:
        return vote_all(project, names, decide or prefers(lambda text: -len(text)))


def test_a_pair_is_asked_once_whatever_its_order(settings, database):
    judge = build_judge(settings)
    with raises(RunError, "waiting_for_people", key="judge.wait", mentions=["3 of 3", "label serve"]):
        list(judge.compare([*PAIRS, *(item.swapped for item in PAIRS)]))
    with raises(RunError, "waiting_for_people", mentions=["3 of 3"]):
        list(judge.compare(item.swapped for item in reversed(PAIRS)))
    assert vote(database) == 6
    found = list(judge.compare([*PAIRS, *(item.swapped for item in PAIRS)]))
    assert [one.outcome for one in found] == ["left", "right", "tie", "right", "left", "tie"]
    assert [one.p_left for one in found] == [1.0, 0.0, 0.5, 0.0, 1.0, 0.5]
    assert found[0].raw == "2 votes for the first, 0 for the second, 0 for neither"
    assert found[3].raw == "0 votes for the first, 2 for the second, 0 for neither"


def test_both_orders_are_one_result(settings, database):
    judge = build_judge(settings)
    with raises(RunError, "waiting_for_people"):
        both_orders(judge, PAIRS)
    vote(database, lambda name, shown: "tie" if name == "bob" else prefers(lambda text: -len(text))(name, shown))
    results = both_orders(judge, PAIRS)
    assert [one.status for one in results] == ["ok", "ok", "tie"]
    assert [one.p for one in results] == pytest.approx([0.75, 0.25, 0.5])


def test_models_are_recorded_and_not_asked_twice(settings, database):
    judge = build_judge(settings)
    for items in (PAIRS, [PairItem("p1", "worse still", "good", models=("C", "D"))]):
        with raises(RunError, "waiting_for_people"):
            list(judge.compare(items))
    with reading(judge.project.engine) as connection:
        found = connection.execute(
            select(response.c.content, response.c.model).join(pair, pair.c.a_id == response.c.id)
        ).all()
    assert ('"best"', "B") in [tuple(row) for row in found]
    assert len(found) == 3


def test_both_bad_skips_and_decisions(settings, database):
    judge = build_judge(settings)
    with raises(RunError, "waiting_for_people"):
        list(judge.compare(PAIRS))
    said = {"good": "both_bad", "best": "skip", "same": "tie"}

    def decide(name, shown):
        return next(said[text] for text in (shown.left, shown.right) if text in said)

    vote(database, decide)
    bad, skipped, tie = judge.compare(PAIRS)
    assert (bad.outcome, bad.p_left) == ("both_bad", None)
    assert (skipped.outcome, bool(skipped.error)) == ("error", True)
    assert tie.p_left == 0.5
    with writing(judge.project.engine) as connection:
        key = connection.execute(select(pair.c.id).join(response, response.c.id == pair.c.a_id).where(
            response.c.content == '"good"')).scalar_one()  # fmt: skip
        adjudicate(connection, add_person(connection, "dana", "admin"), key, "b", key="one")
    assert next(judge.compare(PAIRS)).p_left == 0.0


def test_one_person_who_skips_does_not_end_a_pair_that_others_can_vote_on(settings, database):
    judge = build_judge(settings)
    with raises(RunError, "waiting_for_people"):
        list(judge.compare(PAIRS[:1]))
    with open_project(database) as project, writing(project.engine) as connection:
        add_person(connection, "cho")
    vote(database, lambda name, shown: "skip")
    with raises(RunError, "waiting_for_people"):
        list(judge.compare(PAIRS[:1]))
    vote(database, names=("cho",))
    (verdict,) = judge.compare(PAIRS[:1])
    assert verdict.p_left == 1.0


def test_the_cache_of_judgements_has_no_votes(settings, database, tmp_path):
    judge = build_judge(settings)
    with JudgementCache(tmp_path / "cache") as cache:
        asked = cached(judge, cache)
        with raises(RunError, "waiting_for_people", mentions=["3 of 3"]):
            both_orders(asked, PAIRS)
        vote(database)
        assert [one.p for one in both_orders(asked, PAIRS)][2] == 0.5
        assert len(cache) == 0


def test_many_pairs_are_added_at_once(settings, database, tmp_path):
    judge = build_judge(settings)
    many = [PairItem(f"p{k}", "yes", "no, never") for k in range(1100)]  # more than the cache looks up at a time
    with JudgementCache(tmp_path / "cache") as cache, raises(RunError, "waiting_for_people", mentions=["1100 of 1100"]):
        both_orders(cached(judge, cache), many)


@pytest.mark.parametrize("wait", ["poll", "serve"])
def test_waiting_ends_when_the_votes_are_in(database, wait, monkeypatch, capsys):
    monkeypatch.setattr("tiltlm.recipes.labeling.people.SECONDS", 0.02)
    more = {"names": ("ann",), "port": 0} if wait == "serve" else {}
    judge = build_judge(JudgeSettings(f"people:{database}", votes=2, wait=wait, **more))
    found = []
    thread = threading.Thread(target=lambda: found.extend(judge.compare(PAIRS)))
    thread.start()
    done = 0
    while done < 6:
        done += vote(database)
    thread.join(30)
    assert [one.outcome for one in found] == ["left", "right", "tie"]
    printed = capsys.readouterr().err
    assert ("/join#" in printed) == (wait == "serve")
    assert [line.split()[0] for line in printed.splitlines() if "/join#" in line] == (
        ["owner", "ann"] if wait == "serve" else []
    )


def test_a_project_that_is_there(settings, database):
    first = build_judge(settings)
    assert build_judge(settings).digest == first.digest
    with raises(ConfigError, "conflict", key="judge.votes"):
        build_judge(JudgeSettings(f"people:{database}", votes=3))


def test_settings():
    assert JudgeSettings.of("people:postgresql://me@host/x").database == "postgresql://me@host/x"
    with raises(ConfigError, "not_positive", key="judge.votes"):
        build_judge(JudgeSettings("people:x.db", votes=0))
    with raises(ConfigError, "no_effect", key="judge.port"):
        build_judge(JudgeSettings("people:x.db", wait="poll", port=1))


def test_people_need_no_audit(settings):
    check_trains(settings, build_judge(settings, role="train"), unaudited=False)
