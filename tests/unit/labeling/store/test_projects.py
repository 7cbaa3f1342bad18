import dataclasses

import pytest
from sqlalchemy import func, select

from support.errors import raises
from support.label_databases import check_queue, new_pairs, new_project
from tiltlm.core.errors import DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.queue.assignments import take
from tiltlm.labeling.queue.ballots import Ballot, vote
from tiltlm.labeling.store import pairs as adding
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs, content_key, read_pair
from tiltlm.labeling.store.projects import (
    add_guidelines,
    change_settings,
    create_project,
    open_project,
    read_guidelines,
    read_plan,
)
from tiltlm.labeling.store.tables import pair, prompt, response


def test_what_a_project_is_made_of_comes_back(database):
    settings = ProjectSettings(title="Which one?\u202e", overlap=3, skip_reasons=("no idea",), random_share=0.25)
    plan = {"sources": ["pairs.jsonl"], "systems": ["a", "b"]}
    with create_project(database, settings, guidelines="Be kind.\x00", plan=plan) as made:
        secret = made.secret
    with open_project(database) as project, reading(project.engine) as connection:
        assert project.settings == settings
        assert project.secret == secret
        assert len(secret) == 32
        assert read_plan(connection) == plan
        assert read_guidelines(connection) == (1, "Be kind.\ufffd")


def test_versions_of_guidelines(database):
    project, _ = new_project(database)
    with writing(project.engine) as connection:
        assert add_guidelines(connection, "Second.") == 2
        assert add_guidelines(connection, "Second.") == 2
        assert add_guidelines(connection, "Third.") == 3
        assert read_guidelines(connection) == (3, "Third.")


def test_more_overlap_and_less_again(database):
    project, people = new_project(database, 2, overlap=1, extra=0, repeat_share=0)

    def changed(**values):
        settings = dataclasses.replace(project.settings, **values)
        with writing(project.engine) as connection:
            change_settings(connection, settings)
        return open_project(database)

    def vote_on_all(project) -> int:
        num = 0
        for who in people:
            with writing(project.engine) as connection:
                for one in take(connection, project, who):
                    vote(connection, project, who, Ballot(one.ticket, f"{who.id} {one.ticket}", "tie"))
                    num += 1
        return num

    assert vote_on_all(project) == 2
    more = changed(overlap=3)
    assert more.settings.overlap == 3
    assert vote_on_all(more) == 4
    less = changed(overlap=1)
    assert vote_on_all(less) == 0
    check_queue(less)


def counts(project) -> list[int]:
    with reading(project.engine) as connection:
        return [connection.execute(select(func.count()).select_from(t)).scalar_one() for t in (pair, prompt, response)]


@pytest.mark.parametrize("batch", [1, 2, 500])
def test_the_same_pairs_again_add_nothing(database, monkeypatch, batch):
    monkeypatch.setattr(adding, "BATCH", batch)
    project, _ = new_project(database, 0)
    new = [
        NewPair("p", "a", "b", key="1"),
        NewPair("p", "a", "c", key="2"),  # shares a prompt and a response
        NewPair("p", "b", "a", key="1"),  # the first one, in the other order
        NewPair("q", "a", "b"),
        NewPair("p", "a", "b", key="3", models=("m", "")),  # the same text by somebody else is another response
        NewPair("p", "a", "b", key="4", sampling=({"seed": 1}, {})),
        NewPair("p", "a", "b", key="5", system="s"),
    ]
    with writing(project.engine) as connection:
        assert add_pairs(connection, project.settings, new) == 6
        assert add_pairs(connection, project.settings, reversed(new)) == 0
    assert counts(project) == [6, 3, 3 + 2 + 1 + 1 + 2]
    with reading(project.engine) as connection:
        keys = connection.execute(select(pair.c.key)).scalars().all()
    assert content_key("q", "b", "a") in keys


@pytest.mark.parametrize("where", ["same batch", "later"])
@pytest.mark.parametrize("other", [NewPair("p", "a", "c", key="1"), NewPair("q", "a", "b", key="1")])
def test_a_key_with_other_content(database, where, other):
    project, _ = new_project(database, 0)
    first = NewPair("p", "a", "b", key="1")
    with raises(DataError, "duplicate_id", row="1"), writing(project.engine) as connection:
        if where == "later":
            add_pairs(connection, project.settings, [first])
            add_pairs(connection, project.settings, [other])
        else:
            add_pairs(connection, project.settings, [first, other])
    assert counts(project) == [0, 0, 0]


def test_pairs_that_cannot_be_compared(tmp_path):
    project, _ = new_project(tmp_path / "label.db", 0)
    wrong = {
        "identical_responses": NewPair("p", "a", "a", key="1"),
        "missing_value": NewPair("p", "a", "b", key="1", kind="gold"),
    }
    for code, one in wrong.items():
        with raises(DataError, code, row="1"), writing(project.engine) as connection:
            add_pairs(connection, project.settings, [one])
    with raises(DataError, "missing_value"), writing(project.engine) as connection:
        add_pairs(connection, project.settings, [NewPair("p", "a", "b", answer="a")])


def test_what_is_shown_of_a_pair(database):
    project, _ = new_project(database, 0)
    turns = [{"role": "user", "content": "\ud800\x00 é"}]
    new = NewPair(turns, "a", [{"role": "assistant", "content": "b"}], system="s", models=("m\x00", "\ud800"))
    with writing(project.engine) as connection:
        add_pairs(connection, project.settings, [new, *new_pairs(1)])
        shown = read_pair(connection, 1)
        assert (shown.prompt, shown.system, shown.a, shown.b) == (turns, "s", "a", new.b)
        assert connection.execute(select(response.c.model).where(response.c.id == 1)).scalar() == "m\ufffd"
