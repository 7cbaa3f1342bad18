"""`label status` and `label adjudicate`."""

import json

import pytest
from typer.testing import CliRunner

from support.errors import raises
from support.label_crowd import cast
from support.label_databases import new_project
from tiltlm.cli.main import app
from tiltlm.config.calls import label_adjudicate, label_status
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs
from tiltlm.labeling.store.people import add_person
from tiltlm.labeling.store.projects import open_project
from tiltlm.labeling.store.tables import audit
from tiltlm.recipes.labeling.inspecting import inspect


@pytest.fixture
def database(tmp_path) -> str:
    """A project of 4 pairs, on all of which two people disagree."""
    project, (ann, bob) = new_project(
        tmp_path / "label.db", 4, names=("ann", "bob"), overlap=2, gold_share=0, repeat_share=0
    )
    with project:
        cast(project, ann, lambda given: {"choice": "a", "note": "a\x1b[31mred", "dwell_ms": 100})
        cast(project, bob, lambda given: {"choice": "b"})
        with writing(project.engine) as connection:
            add_person(connection, "jo", "adjudicator")
    return str(tmp_path / "label.db")


def record(database: str) -> list[tuple[str, str, str]]:
    with open_project(database) as project, reading(project.engine) as connection:
        return [(row.actor, row.action, row.detail) for row in connection.execute(audit.select())]


def test_status_in_a_terminal(database):
    text = label_status(database=database).summary()
    assert text.startswith("8 votes on 4 pairs, about 4 to come")
    for part in ("first wins 50.0\N{NO-BREAK SPACE}% against second", "Krippendorff's α", "ann", "4 with 2", "hours"):
        assert part in text, part
    assert max(map(len, text.splitlines())) <= 100


def test_status_as_json_and_as_a_table(database):
    plain = label_status(database=database, json=True)
    assert json.loads(json.dumps(plain, allow_nan=False))["coverage"]["num_done"] == 8
    table = inspect(database).to_pandas()
    assert table["name"].tolist() == ["ann", "bob"]
    assert table["others"].tolist() == [0.0, 0.0]
    assert "8 votes on 4 pairs" in repr(inspect(database))


def test_status_of_a_new_project(tmp_path):
    project, _ = new_project(tmp_path / "label.db", 0, names=())
    project.close()
    text = label_status(database=str(tmp_path / "label.db")).summary()
    assert "no pairs yet" in text
    assert "nobody is invited yet" in text


def test_no_project(tmp_path):
    with raises(DataError, code="no_such_path", key="database"):
        label_status(database=str(tmp_path / "none.db"))


def test_disputed_pairs_are_listed_shown_and_decided(database):
    listed = label_adjudicate(database=database)
    assert listed.total == 4
    assert "task 3" in listed.summary()
    shown = label_adjudicate("task 2", database=database).summary()
    assert "response a of task 2" in shown
    assert "ann: a, a␛[31mred" in shown
    decided = label_adjudicate("task 2", "tie", database=database, as_="jo", note="both are right")
    assert decided.summary() == "task 2: decided, tie"
    assert record(database) == [("jo", "adjudicate", '{"choice": "tie", "pair": "task 2"}')]
    assert "jo decided: tie, both are right" in label_adjudicate("task 2", database=database).summary()
    assert [one["key"] for one in label_adjudicate(database=database, json=True)["pairs"]] == [
        "task 0",
        "task 1",
        "task 3",
    ]
    assert json.dumps(label_adjudicate("task 2", database=database, json=True), allow_nan=False)


def test_somebody_new_becomes_an_adjudicator(database):
    label_adjudicate("task 1", "a", database=database, as_="new")
    assert record(database)[0][0] == "new"


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "code", "key"),
    [
        (("task 1", "left"), {"as_": "jo"}, ConfigError, "unknown_name", "CHOICE"),
        (("task 9", "a"), {"as_": "jo"}, DataError, "unknown_name", "PAIR"),
        (("gold 1", "a"), {"as_": "jo"}, DataError, "unknown_name", "PAIR"),
        (("task 1", "a"), {"as_": "ann"}, DataError, "forbidden", None),
        (("task 1",), {"note": "why"}, ConfigError, "no_effect", "--note"),
        ((), {"as_": "jo"}, ConfigError, "no_effect", "--as"),
    ],
)
def test_refusals_change_nothing(database, arguments, options, kind, code, key):
    with open_project(database) as project, writing(project.engine) as connection:
        add_pairs(connection, project.settings, [NewPair("p", "a", "b", key="gold 1", kind="gold", answer="a")])
    with raises(kind, code=code, key=key):
        label_adjudicate(*arguments, database=database, **options)
    assert record(database) == []


def test_on_the_command_line(database):
    run = CliRunner().invoke(app, ["label", "adjudicate", "task 0", "b", "--as", "jo", "--database", database])
    assert run.exit_code == 0, run.output
    run = CliRunner().invoke(app, ["label", "status", "--database", database, "--json"])
    assert json.loads(run.stdout)["coverage"]["num_adjudicated"] == 1
