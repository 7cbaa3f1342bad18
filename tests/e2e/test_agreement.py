"""From votes to labels that training reads."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, DataError
from tiltlm.worlds import TextWorld

NUM = 80
RELIABLE = {"ann": 0.9, "bob": 0.85, "cy": 0.8, "spam": 0.5}


@pytest.fixture
def votes(tmp_path):
    """Votes on pairs of the text world, three annotators each, of whom one answers at random."""
    rng = np.random.default_rng(0)
    rows = []
    for k, prompt in enumerate(TextWorld().prompts("heldout")[:40] * 2):
        truth = rng.integers(2)
        for who in rng.choice(sorted(RELIABLE), 3, replace=False):
            right = truth if rng.random() < RELIABLE[who] else 1 - truth
            vote = "tie" if rng.random() < 0.05 else ("left", "right")[right]
            item = {"id": f"q{k}", "prompt": prompt, "answer_a": f"Yes, {k}.", "answer_b": f"No, never {k}."}
            rows.append({**item, "annotator": str(who), "vote": vote})
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("rule", ["soft", "majority", "dawid_skene"])
def test_labels_are_pairs_that_are_read(votes, tmp_path, rule):
    found = tiltlm.agreement(votes, labels=tmp_path / "pairs.jsonl", rule=rule, progress=False)
    rows = lines(tmp_path / "pairs.jsonl")
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    given = lines(votes)
    for row in rows:
        assert 0.5 <= row["preference"] <= 1
        own = [vote for vote in given if vote["id"] == row["id"]]
        wins = {"chosen": row["chosen"], "rejected": row["rejected"]}
        said = {"left": own[0]["answer_a"], "right": own[0]["answer_b"]}
        for kind, text in wins.items():
            assert row["metadata"]["votes"][kind] == sum(said.get(vote["vote"]) == text for vote in own)
        counts = row["metadata"]["votes"]
        if rule == "soft":
            assert row["preference"] == pytest.approx((counts["chosen"] + counts["tie"] / 2) / 3)
    account = json.loads((tmp_path / "pairs.account.json").read_text(encoding="utf-8"))
    assert (account["rule"], account["items"], account["rows_read"]) == (rule, NUM, 3 * NUM)
    assert account == json.loads(json.dumps(found.account))
    assert ("annotators" in account) == (rule == "dawid_skene")
    described = tiltlm.stats(tmp_path / "pairs.jsonl", progress=False)
    assert described.statistics.num_rows == len(rows)


def test_training_reads_the_labels(votes, tmp_path):
    tiltlm.agreement(votes, labels=tmp_path / "pairs.jsonl", progress=False)
    tiltlm.train(
        model=str(TextWorld().model_path()),
        data=str(tmp_path / "pairs.jsonl"),
        objective="dpo",
        output=str(tmp_path / "run"),
        training={"max_steps": 1},
        evaluation={"num_prompts": 0},
        progress=False,
    )
    account = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert account


def test_the_same_votes_in_another_order_give_the_same_files(votes, tmp_path):
    rows = lines(votes)
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]), encoding="utf-8")
    for source, output in ((votes, "a.jsonl"), (turned, "b.jsonl")):
        tiltlm.agreement(source, labels=tmp_path / output, rule="dawid_skene", progress=False)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.account.json").read_bytes() == (tmp_path / "b.account.json").read_bytes()


def test_the_spammer_agrees_least(votes):
    found = tiltlm.agreement(votes, progress=False)
    table = found.to_pandas().set_index("annotator")
    assert table["others"].idxmin() == "spam"
    assert table["alpha_without"].idxmax() == "spam"
    assert "4 annotators" in repr(found)
    assert "<table" in found._repr_html_()


def test_the_command_line(votes, tmp_path):
    run = CliRunner().invoke(app, ["agreement", str(votes), "--json"])
    assert run.exit_code == 0, run.stderr
    numbers = json.loads(run.stdout)
    assert numbers["num_items"] == NUM
    assert {one["annotator"] for one in numbers["annotators"]} == set(RELIABLE)
    output = tmp_path / "pairs.jsonl"
    run = CliRunner().invoke(app, ["agreement", str(votes), "--labels", str(output), "--rule", "dawid_skene"])
    assert run.exit_code == 0, run.stderr
    assert "labels" in run.stdout
    assert str(output) in run.stdout
    run = CliRunner().invoke(app, ["agreement", str(votes), "rule=majority"])
    assert run.exit_code != 0


def test_what_is_refused(votes, tmp_path):
    output = tmp_path / "pairs.jsonl"
    with raises(ConfigError, "no_effect", key="--labels"):
        tiltlm.agreement(votes, rule="majority", progress=False)
    with raises(ConfigError, "unknown_file_format"):
        tiltlm.agreement(votes, labels=tmp_path / "pairs.xlsx", progress=False)
    tiltlm.agreement(votes, labels=output, progress=False)
    with raises(ConfigError, "output_exists", key="--labels"):
        tiltlm.agreement(votes, labels=output, progress=False)
    with raises(ConfigError, "no_effect", key="data.max_length"):
        tiltlm.agreement(votes, progress=False, **{"data.max_length": 10})
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"id": k, "annotator": w, "vote": "a"}) + "\n" for k in "xy" for w in "pqr"))
    assert tiltlm.agreement(bare, progress=False).agreement.alpha is None
    with raises(DataError, "missing_column", key="data.columns"):
        tiltlm.agreement(bare, labels=tmp_path / "new.jsonl", progress=False)
    assert not (tmp_path / "new.jsonl").exists()


def test_undefined_alpha_is_said_and_no_number(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps({"id": k, "annotator": w, "vote": "a"}) + "\n" for k in "xyz" for w in "pqr"))
    found = tiltlm.agreement(path, progress=False)
    head = found.summary().splitlines()[0]
    assert "undefined" in head
    assert not any(character.isdigit() for character in head.split("α")[1])
    assert found.as_dict()["alpha"] is None
    assert "alpha_unanimous" in found.as_dict()["notes"]


def test_votes_in_memory_are_read():
    given = {"x": "aab", "y": "bbb"}
    rows = [{"id": k, "annotator": who, "vote": v} for k, vs in given.items() for who, v in zip("pqr", vs, strict=True)]
    assert tiltlm.agreement(rows, progress=False).agreement.num_votes == 6
