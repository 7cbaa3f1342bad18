"""`tiltlm convert`: what is printed, refused and left alone."""

import gzip
import json
import shutil

import pytest
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, DataError
from tiltlm.data.rows.formats.catalog import FORMATS, WRITTEN

VOTES = """question,answer_a,answer_b,winner,annotator
Is it cold?,Yes.,No.,A,ann
Is it warm?,Yes.,No.,B,ben
Is it wet?,Yes.,No.,tie,ann
"""


@pytest.fixture
def votes(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text(VOTES)
    return path


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_conversion_says_what_it_read_wrote_and_lost(votes, tmp_path):
    out = tmp_path / "pairs.jsonl"
    done = invoke("convert", votes, out, "--to", "trl", "--lossy")
    assert done.exit_code == 0
    assert all(fact in done.stdout for fact in ("answers → trl", "2 of 3 rows", "ties × 1", "votes.csv:4", "annotator"))
    assert rows_of(out) == [
        {"prompt": "Is it cold?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": "Is it warm?", "chosen": "No.", "rejected": "Yes."},
    ]
    assert votes.read_text() == VOTES


def test_nothing_is_lost_without_consent(votes, tmp_path):
    before = sorted(tmp_path.iterdir())
    facts = ["--lossy", "ties × 1", "votes.csv:4", "columns × 3", "annotator"]
    with raises(DataError, "would_lose", key="--lossy", mentions=facts):
        tiltlm.convert(votes, tmp_path / "pairs.jsonl", to="trl", progress=False)
    assert sorted(tmp_path.iterdir()) == before
    kept = tiltlm.convert(votes, tmp_path / "all.jsonl", to="tiltlm", progress=False, **{"data.ignore": []}, lossy=True)
    assert list(kept.losses) == ["columns"]
    assert (kept.num_read, kept.num_written, kept.source_format) == (3, 3, "answers")
    assert rows_of(tmp_path / "all.jsonl")[2]["preference"] == 0.5
    assert "columns" in repr(kept)


def test_columns_are_mapped_and_the_format_is_forced(tmp_path):
    path = tmp_path / "odd.jsonl"
    path.write_text(json.dumps({"task": "Why?", "good": "So.", "bad": "No."}) + "\n")
    out = tmp_path / "out.jsonl"
    assert (
        invoke("convert", path, out, "--to", "alpaca", "--map", "prompt=task,chosen=good,rejected=bad").exit_code == 0
    )
    assert rows_of(out) == [{"instruction": "Why?", "input": "", "chosen": "So.", "rejected": "No."}]
    again = tmp_path / "again.jsonl"
    options = {"to": "trl", "from_": "alpaca", "progress": False}
    assert tiltlm.convert(out, again, **options).source_format == "alpaca"
    with raises(DataError, "missing_column", key="--from", mentions=["--from nectar", "answers"]):
        tiltlm.convert(out, tmp_path / "no.jsonl", to="trl", from_="nectar", progress=False)
    with raises(ConfigError, "unknown_name", key="--from", mentions=[form.name for form in FORMATS]):
        tiltlm.convert(out, tmp_path / "no.jsonl", to="trl", from_="nectarr", progress=False)
    with raises(ConfigError, "unknown_name", key="--to", mentions=[*WRITTEN]):
        tiltlm.convert(out, tmp_path / "no.jsonl", to="trll", progress=False)
    with raises(ConfigError, "not_key_value", key="--map"):
        tiltlm.convert(out, tmp_path / "no.jsonl", to="trl", map="prompt", progress=False)


def test_an_output_is_replaced_only_on_request_and_never_the_input(votes, tmp_path):
    out = tmp_path / "out.jsonl"
    options = {"to": "answers", "lossy": True, "progress": False}
    tiltlm.convert(votes, out, **options)
    with raises(ConfigError, "output_exists", key="OUT", mentions=["--overwrite"]):
        tiltlm.convert(votes, out, **options)
    first = out.read_bytes()
    tiltlm.convert(votes, out, overwrite=True, **options)
    assert out.read_bytes() == first
    link = tmp_path / "link.csv"
    link.symlink_to(votes)
    for same in (votes, link, tmp_path / "." / "votes.csv"):
        with raises(ConfigError, "conflict", key="OUT"):
            tiltlm.convert(votes, same, overwrite=True, **options)
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(votes, folder / "train.csv")
    with raises(ConfigError, "conflict", key="OUT"):
        tiltlm.convert(folder, folder / "out.jsonl", **options)
    with raises(ConfigError, "output_exists", key="OUT", mentions=[str(folder)]):
        tiltlm.convert(votes, folder, overwrite=True, **options)
    with raises(ConfigError, "no_such_path", key="OUT"):
        tiltlm.convert(votes, tmp_path / "no" / "out.jsonl", **options)
    with raises(ConfigError, "unknown_file_format", key="OUT"):
        tiltlm.convert(votes, tmp_path / "out.txt", **options)


def test_data_that_a_format_cannot_hold_is_refused_even_with_losses(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "Why?", "completion": "So."}) + "\n")
    with raises(DataError, "wrong_data_shape", key="--to", mentions=["--to hh", "pairs"]):
        tiltlm.convert(path, tmp_path / "out.jsonl", to="hh", lossy=True, progress=False)
    path.write_text(json.dumps({"prompt": "Why?", "chosen": "So.", "rejected": "No.", "preference": 0.5}) + "\n")
    with raises(DataError, "no_rows_left", mentions=["ties × 1"]):
        tiltlm.convert(path, tmp_path / "out.jsonl", to="hh", lossy=True, progress=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]


def test_transcripts_and_messages_into_each_other(tmp_path):
    start = "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: Is it cold?\n\nAssistant:"
    path = tmp_path / "hh.jsonl.gz"
    row = {"chosen": f"{start} Yes.", "rejected": f"{start} No."}
    path.write_bytes(gzip.compress((json.dumps(row) + "\n").encode()))
    messages, back = tmp_path / "messages.jsonl", tmp_path / "back.jsonl"
    turned = tiltlm.convert(path, messages, to="hh-messages", progress=False)
    assert turned.forms == {"transcripts": 1}
    assert len(turned.notes) == 1
    assert [turn["role"] for turn in rows_of(messages)[0]["chosen"]] == ["user", "assistant"] * 2
    tiltlm.convert(messages, back, to="hh", progress=False)
    assert rows_of(back) == [row]
    kept = tmp_path / "kept.jsonl"
    tiltlm.convert(path, kept, to="trl-implicit", progress=False)
    assert rows_of(kept) == [row]


def test_defective_rows_are_a_loss(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps({"prompt": "Why?", "chosen": "So.", "rejected": "No."})
    path.write_text(f'{good}\n{{"prompt": "torn\n{good}\n')
    with raises(DataError, "would_lose", mentions=["defects × 1", "a.jsonl:2"]):
        tiltlm.convert(path, tmp_path / "out.jsonl", to="hh", progress=False)


@pytest.mark.parametrize("more", [{"id": "\ud800"}, {"tools": [{"name": float("nan")}]}], ids=["surrogate", "NaN"])
def test_what_is_no_json_in_utf8_is_a_defect_of_its_row(tmp_path, more):
    path = tmp_path / "a.jsonl"
    row = {"prompt": [{"role": "user", "content": "Why?"}], "chosen": "So.", "rejected": "No."}
    path.write_text("".join(json.dumps(r) + "\n" for r in ({**row, **more}, {**row, "id": "fine"})))
    done = tiltlm.convert(path, tmp_path / "out.jsonl", to="trl", lossy=True, progress=False)
    assert done.losses["defects"].count == 1
    assert [row["id"] for row in rows_of(done.path)] == ["fine"]


def test_the_help_names_both_arguments_and_is_quick_to_make():
    done = invoke("convert", "--help")
    assert done.exit_code == 0
    assert all(name in done.stdout for name in ("IN", "OUT", "--from", "--to", "--map", "--lossy", "--overwrite"))
    assert invoke("convert", "a").exit_code == 2


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.zst", ".csv", ".parquet", ".arrow", ""])
def test_training_reads_what_is_written(votes, tmp_path, model, ending):
    out = tmp_path / f"out{ending}"
    policy = tiltlm.load_policy(model)
    votes.write_text(VOTES.replace("Yes.", " Where is my red hat?").replace("No.", " Go away now!"))
    tiltlm.convert(votes, out, to="tiltlm", lossy=True, progress=False)
    first, again = (tiltlm.load_data(str(path), policy, eval_fraction=0.0) for path in (votes, out))
    assert first.fingerprint == again.fingerprint


def test_settings_of_data_are_read_or_refused(votes, tmp_path):
    with raises(ConfigError, "no_effect", key="data.max_length"):
        tiltlm.convert(votes, tmp_path / "out.jsonl", to="trl", progress=False, **{"data.max_length": 5})
    limited = tiltlm.convert(votes, tmp_path / "two.jsonl", to="tiltlm", lossy=True, limit=2, progress=False)
    assert limited.num_read == 2
