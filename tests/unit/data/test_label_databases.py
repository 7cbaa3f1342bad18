"""A labelling project as a source of data: labels from its votes, and what is refused."""

import json
import sqlite3

import numpy as np
import pytest

from support.errors import raises
from support.label_files import decision, vote_row, write_label_file
from tiltlm.core import ConfigError, DataError
from tiltlm.data import DataSettings
from tiltlm.data.files.sources import read_rows
from tiltlm.data.labels.project_votes import read_project
from tiltlm.data.labels.votes import TIE, A, B
from tiltlm.data.votes import read_votes

MODELS = {"model_a": "small", "model_b": "large", "sampling_a": '{"temperature": 1.0}', "sampling_b": '{"seed": 7}'}
VOTES = [
    vote_row("p1", "ann", "a", number=1, strength=2, **MODELS),
    vote_row("p1", "bob", "b", number=2, left="b", strength=1, guideline_version=2, **MODELS),
    vote_row("p1", "cleo", "a", number=3, strength=3, **MODELS),
    vote_row("p2", "ann", "both_bad", number=4, source="web", system="Be kind."),
    vote_row("p2", "bob", "b", number=5, source="web", system="Be kind."),
    vote_row("p3", "bob", "skip", number=6, reason="cannot judge"),
    vote_row("p4", "ann", "b", number=7, kind="gold", answer="a"),
    vote_row("p1", "ann", "b", number=8, is_repeat=1, left="b", strength=1, **MODELS),
    vote_row("p5", "bob", "tie", number=9, prompt=[{"role": "user", "content": "Hi"}]),
]


@pytest.fixture
def path(tmp_path):
    return write_label_file(tmp_path / "label.db", VOTES)


def rows_of(path, **settings):
    return [row.values for row in read_rows(DataSettings(str(path), **settings))]


def test_labels_are_shares_of_votes_and_carry_what_is_known(path):
    first, second, tied = rows_of(path)
    assert first["id"] == "p1"
    assert (first["chosen"], first["rejected"]) == ("First of p1.", "Second of p1.")
    assert first["preference"] == pytest.approx(2 / 3)
    assert first["metadata"] == {
        "votes": {"chosen": 2, "rejected": 1, "tie": 0, "both_bad": 0},
        "models": {"chosen": "small", "rejected": "large"},
        "sampling": {"chosen": {"temperature": 1.0}, "rejected": {"seed": 7}},
        "strength": {"chosen": [2, 3], "rejected": [1]},
        "guidelines": [1, 2],
    }
    assert second["chosen"] == "Second of p2."
    assert second["preference"] == 0.75
    assert (second["source"], second["system"]) == ("web", "Be kind.")
    assert second["metadata"]["votes"] == {"chosen": 1, "rejected": 0, "tie": 1, "both_bad": 1}
    assert tied["prompt"] == [{"role": "user", "content": "Hi"}]
    assert tied["preference"] == 0.5


def test_rules_of_labels(path):
    assert [row["preference"] for row in rows_of(path, label_rule="majority")] == [1.0, 0.5, 0.5]
    assert [row["id"] for row in rows_of(path, label_ties="drop")] == ["p1", "p2"]
    assert [row["id"] for row in rows_of(path, min_votes=3)] == ["p1"]
    assert rows_of(path, label_rule="dawid_skene")[0]["preference"] != pytest.approx(2 / 3)


def test_a_decision_takes_the_place_of_the_votes(tmp_path):
    path = write_label_file(tmp_path / "label.db", VOTES, [decision("p1", "b"), decision("p3", "both_bad")])
    first, _, skipped, _ = rows_of(path, min_votes=1)
    assert (first["chosen"], first["preference"]) == ("Second of p1.", 1.0)
    assert first["metadata"]["adjudicated"] is True
    assert first["metadata"]["votes"] == {"chosen": 1, "rejected": 2, "tie": 0, "both_bad": 0}
    assert first["metadata"]["models"] == {"chosen": "large", "rejected": "small"}
    assert (skipped["id"], skipped["preference"]) == ("p3", 0.5)
    assert [row["id"] for row in rows_of(path, min_votes=3)] == ["p1", "p3"]
    assert [row["id"] for row in rows_of(path, label_ties="drop")] == ["p1", "p2"]


def test_agreement_has_sides_repeats_and_skips(path):
    votes = read_votes(DataSettings(str(path)))
    assert [item.id for item in votes.items] == ["p1", "p2", "p3", "p5"]
    assert votes.num_skips == 1
    assert [(votes.annotators[r.annotator], r.is_equal) for r in votes.repeats] == [("ann", False)]
    first = [(votes.annotators[j], c, left) for i, j, c, left in
             zip(votes.item, votes.annotator, votes.choice, votes.left, strict=True) if i == 0]  # fmt: skip
    assert first == [("ann", A, A), ("bob", B, B), ("cleo", A, A)]
    assert votes.choice[votes.is_bad].tolist() == [TIE]


def test_the_order_of_rows_changes_nothing(tmp_path, path):
    backwards = write_label_file(tmp_path / "other.db", VOTES[::-1])
    assert rows_of(path) == rows_of(backwards)


def test_excluded_annotators_are_left_out():
    votes = read_project(VOTES, exclude=["ann"])
    assert votes.annotators == ("bob", "cleo")
    assert votes.items[0].facts.strengths == ((3,), (1,))
    assert not votes.repeats


def contents(path, **settings):
    return read_rows(DataSettings(str(path), **settings)).content()


def test_the_digest_is_that_of_the_votes(tmp_path, path):
    before = contents(path)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE more (x)")
    connection.close()
    assert contents(path) == before
    moved = [{**row, "event_id": row["event_id"] + 100, "server_time": 9.0} for row in VOTES]
    assert contents(write_label_file(path, moved)) == before
    changed = [*VOTES[:-1], {**VOTES[-1], "choice": "a"}]
    assert contents(write_label_file(path, changed)) != before
    assert contents(write_label_file(path, VOTES, [decision("p1", "b")])) != before
    edited = [*VOTES[:-1], {**VOTES[-1], "a": json.dumps("Other text")}]
    assert contents(write_label_file(path, edited)) != before


def test_a_reader_sees_one_moment(path):
    rows = read_rows(DataSettings(str(path)))
    before = [row.values for row in rows]
    write_label_file(path, VOTES[:1])
    assert [row.values for row in rows] == before


def test_votes_in_the_log_beside_the_file_are_read(tmp_path, path):
    with sqlite3.connect(path) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("UPDATE vote_row SET choice = 'b' WHERE pair_key = 'p5'")
        writer.commit()
        assert path.with_name("label.db-wal").stat().st_size > 0
        assert rows_of(path)[2]["preference"] == 1.0
        assert rows_of(path)[2]["chosen"] == "Second of p5."
    writer.close()


def test_a_file_in_a_folder_without_write_access(path, monkeypatch):
    """SQLite's refusal is made up: root, who may run this, can write to any folder."""
    with sqlite3.connect(path) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
    writer.close()
    opened = []
    connect = sqlite3.connect

    def refusing(address, **options):
        opened.append(address)
        if "immutable" not in address:
            found = connect(":memory:")

            class Refused:
                def execute(self, _):
                    raise sqlite3.OperationalError("unable to open database file")

                def close(self):
                    found.close()

            return Refused()
        return connect(address, **options)

    monkeypatch.setattr("sqlite3.connect", refusing)
    assert len(rows_of(path)) == 3
    assert "immutable=1" in opened[-1]


def test_what_is_no_labelling_project(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE event (x)")
    connection.close()
    with raises(DataError, "unknown_file_format", mentions=["label serve"]):
        rows_of(path)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE vote_row (event_id)")
    connection.close()
    with raises(DataError, "other_version"):
        rows_of(path)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(path.read_bytes()[:200])
    with raises(DataError, "not_readable"):
        rows_of(damaged)
    with raises(DataError, "no_votes"):
        rows_of(write_label_file(tmp_path / "empty.db", []))
    with raises(DataError, "no_votes"):
        rows_of(write_label_file(tmp_path / "gold.db", [row for row in VOTES if row["kind"] == "gold"]))
    with raises(DataError, "unknown_file_format", mentions=["label export"]):
        rows_of("postgresql://owner@host/labels")


def test_settings_without_effect(tmp_path, path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    for key, value in (("label_rule", "majority"), ("label_ties", "drop"), ("min_votes", 2)):
        with raises(ConfigError, "no_effect", key=f"data.{key}"):
            rows_of(file, **{key: value})
    with raises(ConfigError, "unknown_name", key="data.label_rule"):
        rows_of(path, label_rule="mean")
    with raises(ConfigError, "not_positive", key="data.min_votes"):
        rows_of(path, min_votes=0)
    with raises(ConfigError, "no_effect", key="data.limit"):
        read_votes(DataSettings(str(path), limit=2))
    with raises(ConfigError, "conflict", key="data.train"):
        read_votes(DataSettings((str(path), str(file))))


def test_a_project_beside_a_file(tmp_path, path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    rows = list(read_rows(DataSettings((str(path), str(file)), label_rule="majority")))
    assert [row.values.get("id") for row in rows] == ["p1", "p2", "p5", None]
    assert np.isclose(rows[0].values["preference"], 1.0)
