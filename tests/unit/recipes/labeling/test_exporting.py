"""Labels and votes of a project as files: the same rows as reading the database, in every format."""

import json
from pathlib import Path

import pytest

from support.errors import raises
from support.label_databases import new_project
from support.simulated_people import vote_all, wavering
from tiltlm.core import ConfigError, DataError
from tiltlm.data import DataSettings
from tiltlm.data.files.sources import read_rows
from tiltlm.data.labels import LabelSettings, measure_agreement
from tiltlm.data.votes import read_votes
from tiltlm.labeling.exports import Selected
from tiltlm.labeling.queue.ballots import adjudicate
from tiltlm.labeling.store.audit import COMMAND_LINE
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.people import add_person, list_people, pseudonym
from tiltlm.labeling.store.tables import audit
from tiltlm.recipes.labeling.exporting import export

NAMES = ("ann", "bob", "=cho")


@pytest.fixture
def project(database):
    made, _ = new_project(database, 12, gold=3, calibration=2, overlap=3, extra=0, repeat_share=0.2, repeat_gap=2,
                          gold_share=0.2)  # fmt: skip
    vote_all(made, NAMES, wavering(lambda text: " a " in text, 0.3), note="=SUM(A1)")
    return made


def rows_of(path, **settings) -> list[dict]:
    return [dict(row.values) for row in read_rows(DataSettings(str(path), **settings))]


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.parquet", "labels.csv", "labels.jsonl.gz", "labels.json"])
def test_the_file_has_the_rows_of_the_database(project, database, tmp_path, name):
    done = export(database, tmp_path / name, Selected())
    rows, direct = rows_of(tmp_path / name), rows_of(database)
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    read = ("id", "prompt", "chosen", "rejected", "preference")
    assert [[str(row[c]) for c in read] for row in rows] == [[str(row[c]) for c in read] for row in direct]
    assert len(rows) == 12
    if name.startswith("labels.json"):
        assert rows == direct
        assert rows[0]["metadata"]["models"] == {"chosen": "first", "rejected": "second"}
    assert done.account["tasks"] == 12
    assert done.account["labels"] == 12
    assert json.loads((tmp_path / "labels.account.json").read_text())["rule"] == "soft"


def test_equal_votes_give_equal_bytes(project, database, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    for folder in (first, second):
        export(database, folder / "labels.jsonl", Selected(rule=LabelSettings("dawid_skene"), pseudonyms=True))
    for name in ("labels.jsonl", "labels.account.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_decision_is_the_label(project, database, tmp_path):
    with writing(project.engine) as connection:
        who = add_person(connection, "dana", "adjudicator")
        adjudicate(connection, who, pair_id=1, choice="b", key="one")
    key = next(one["id"] for one in rows_of(database) if one["metadata"].get("adjudicated"))
    done = export(database, tmp_path / "labels.jsonl", Selected(rule=LabelSettings("majority", min_votes=3)))
    (row,) = [one for one in rows_of(tmp_path / "labels.jsonl") if one["id"] == key]
    assert row["preference"] == 1.0
    assert row["chosen"].startswith("response b")
    assert done.account["adjudicated"] == 1
    assert "1 adjudicated" in done.summary()


def test_votes_are_read_as_those_of_the_database(project, database, tmp_path):
    for name in ("votes.jsonl", "votes.parquet"):
        export(database, tmp_path / name, Selected(votes=True))
        direct, read = (measure_agreement(read_votes(DataSettings(str(p)))) for p in (database, tmp_path / name))
        assert (read.alpha, read.raw, read.left, read.consistency) == (
            direct.alpha,
            direct.raw,
            direct.left,
            direct.consistency,
        )
        assert read.consistency is not None
        assert read.num_votes == direct.num_votes


def test_excluded_annotators_and_pseudonyms(project, database, tmp_path):
    done = export(database, tmp_path / "votes.jsonl", Selected(votes=True, pseudonyms=True, exclude=("bob",)))
    with reading(project.engine) as connection:
        names = {one.name: pseudonym(project.secret, one.id) for one in list_people(connection)}
    rows = rows_of(tmp_path / "votes.jsonl")
    assert {row["annotator"] for row in rows} == {names["ann"], names["=cho"]}
    assert done.account["excluded_annotators"] == 1
    text = (tmp_path / "votes.jsonl").read_text() + (tmp_path / "votes.account.json").read_text()
    assert '"ann"' not in text
    assert "bob" not in text
    export(database, tmp_path / "skene.jsonl", Selected(rule=LabelSettings("dawid_skene"), pseudonyms=True))
    assert set(json.loads((tmp_path / "skene.account.json").read_text())["annotators"]) == {
        names[name] for name in NAMES
    }


def test_a_table_has_no_formulas_that_people_typed(project, database, tmp_path):
    export(database, tmp_path / "votes.csv", Selected(votes=True))
    text = (tmp_path / "votes.csv").read_text()
    assert "'=SUM(A1)" in text
    assert '"=SUM' not in text
    assert '"\'=cho"' in text
    export(database, tmp_path / "votes.jsonl", Selected(votes=True))
    assert {row["note"] for row in rows_of(tmp_path / "votes.jsonl")} == {"=SUM(A1)"}


def test_an_export_is_in_the_record(project, database, tmp_path):
    export(database, tmp_path / "labels.jsonl", Selected())
    with reading(project.engine) as connection:
        lines = connection.execute(audit.select()).mappings().all()
    assert [(line["actor"], line["action"]) for line in lines] == [(COMMAND_LINE, "export")]
    assert json.loads(lines[0]["detail"])["file"] == "labels.jsonl"


def test_errors(project, database, tmp_path):
    output = Path(tmp_path / "labels.jsonl")
    with raises(ConfigError, "unknown_name", key="--exclude-annotators"):
        export(database, output, Selected(exclude=("anna",)))
    with raises(ConfigError, "no_effect", key="--votes"):
        Selected(votes=True, rule=LabelSettings("majority"))
    with raises(DataError, "no_rows_left", key="--min-votes"):
        export(database, output, Selected(rule=LabelSettings(min_votes=9)))
    with raises(ConfigError, "unknown_file_format", key="OUT"):
        export(database, tmp_path / "labels.xlsx", Selected())
    with raises(DataError, "no_votes", key="--database"):
        export(database, output, Selected(exclude=NAMES))
    assert not output.exists()
    export(database, output, Selected())
    with raises(ConfigError, "output_exists", key="OUT"):
        export(database, output, Selected())
    export(database, output, Selected(), overwrite=True)


def test_a_project_in_postgresql(postgres_server, tmp_path):
    database = postgres_server.new_database()
    made, _ = new_project(database, 4, overlap=2)
    vote_all(made, ("ann", "bob"), wavering(lambda text: " a " in text, 0.3))
    export(database, tmp_path / "labels.jsonl", Selected())
    assert [row["id"] for row in rows_of(tmp_path / "labels.jsonl")] == [f"task {k}" for k in range(4)]
    made.engine.dispose()
