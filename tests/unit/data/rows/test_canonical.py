"""Fingerprints of rows: equal for equal content in any file, format and order, different for any change."""

import csv
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiltlm.data.data_settings import DataSettings
from tiltlm.data.dataset import survey
from tiltlm.data.files.sources import read_rows
from tiltlm.data.rows.canonical import content_fingerprint, record_digest
from tiltlm.data.rows.columns import detect
from tiltlm.data.rows.records import to_record

PAIRS = [
    {"prompt": f"p{i}", "chosen": f"good {i}", "rejected": "bad", "preference": 0.75, "weight": 2.0, "source": "a"}
    for i in range(20)
]


def fingerprint_of(file: Path, **settings) -> str:
    chosen = DataSettings(train=str(file), **settings)
    rows = read_rows(chosen)
    schema = detect(survey([rows])[0], chosen, use_reference_columns=True)
    return content_fingerprint(b"".join(record_digest(to_record(row, schema)) for row in rows))


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_format_order_and_names_of_columns_make_no_difference(tmp_path: Path):
    expected = fingerprint_of(jsonl(tmp_path / "a.jsonl", PAIRS))
    shuffled = random.Random(0).sample(PAIRS, len(PAIRS))
    assert fingerprint_of(jsonl(tmp_path / "other.jsonl", shuffled)) == expected
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(PAIRS[0]))
        writer.writeheader()
        writer.writerows(PAIRS)
    assert fingerprint_of(tmp_path / "a.csv") == expected
    pq.write_table(pa.Table.from_pylist(PAIRS), tmp_path / "a.parquet")
    assert fingerprint_of(tmp_path / "a.parquet") == expected
    renamed = [{"question" if k == "prompt" else k: v for k, v in row.items()} for row in PAIRS]
    assert fingerprint_of(jsonl(tmp_path / "renamed.jsonl", renamed)) == expected


def test_id_source_and_ignored_columns_make_no_difference(tmp_path: Path):
    expected = fingerprint_of(jsonl(tmp_path / "a.jsonl", PAIRS))
    rows = [{**row, "id": f"row {i}", "source": "b", "note": i} for i, row in enumerate(PAIRS)]
    assert fingerprint_of(jsonl(tmp_path / "b.jsonl", rows), ignore=("note",)) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "p0 "},
        {"chosen": "good 0."},
        {"rejected": "good 0", "chosen": "bad"},
        {"preference": 0.7500001},
        {"weight": 2.5},
        {"offset": 0.5},
        {"system": "Be brief."},
    ],
)
def test_every_change_of_content_changes_it(tmp_path: Path, change: dict):
    rows = [{"offset": 0.0, "system": "", **row} for row in PAIRS]
    expected = fingerprint_of(jsonl(tmp_path / "a.jsonl", rows))
    assert fingerprint_of(jsonl(tmp_path / "b.jsonl", [rows[0] | change, *rows[1:]])) != expected


def test_how_often_a_row_occurs_counts(tmp_path: Path):
    prints = {
        fingerprint_of(jsonl(tmp_path / "a.jsonl", rows))
        for rows in (PAIRS[:2], [PAIRS[0], *PAIRS[:2]], [PAIRS[1], *PAIRS[:2]], PAIRS[:1])
    }
    assert len(prints) == 4


def test_where_the_prompt_of_a_conversation_ends_makes_no_difference(tmp_path: Path):
    """`data.assistant_turns=all` learns earlier turns too; the rows are the same."""
    turns = [
        {"role": role, "content": f"text {i}"} for i, role in enumerate(("user", "assistant", "user", "assistant"))
    ]
    settings = DataSettings(train=str(jsonl(tmp_path / "a.jsonl", [{"messages": turns}])))
    rows = read_rows(settings)
    schema = detect(survey([rows])[0], settings)
    (row,) = rows
    last, first = to_record(row, schema), to_record(row, schema, every_turn=True)
    assert last.prompt != first.prompt
    assert record_digest(last) == record_digest(first)
