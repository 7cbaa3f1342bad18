"""A cleaned copy has all good rows as they were; the file beside it says which rows it lacks, and why."""

import csv
import json
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiltlm
from support.broken_data import good, lines, raw
from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.data.files.sources import READERS
from tiltlm.data.files.text_files import ReadLimits

BAD = [good(0), good(1, chosen=" "), "{not json", good(2), good(0), good(3, rejected="x\u0000y z")]


def read(path: Path) -> list[dict]:
    (reader,) = {r for ending, r in READERS.items() if path.name.endswith(ending)}
    return [row.values for row in reader(path, ReadLimits())]


@pytest.mark.parametrize("name", ["clean.jsonl", "clean.jsonl.gz", "clean.jsonl.zst"])
def test_errors_and_duplicates_are_left_out_and_listed(tmp_path, name):
    data = lines(*BAD)(tmp_path)
    before = sha256(Path(data).read_bytes()).hexdigest()
    result = tiltlm.check(data=data, fix=tmp_path / name, progress=False)
    assert read(tmp_path / name) == [good(0), good(2), good(3, rejected="x\u0000y z")], "a warning leaves nothing out"
    left = [json.loads(line) for line in (tmp_path / "clean.left-out.jsonl").read_text().splitlines()]
    assert [(row["row"], row["code"], row["key"]) for row in left] == [
        ("data.jsonl:2", "D02", "empty_response"),
        ("data.jsonl:3", "D01", "malformed_json"),
        ("data.jsonl:5", "D04", "duplicate"),
    ]
    assert left[0]["values"] == good(1, chosen=" ")
    assert left[2]["detail"].endswith("data.jsonl:1")
    assert (result.cleaned.num_kept, result.cleaned.num_left_out) == (3, 3)
    assert sha256(Path(data).read_bytes()).hexdigest() == before
    again = tiltlm.check(data=tmp_path / name, progress=False)
    assert again.exit_code == 0
    assert [f.rule.key for f in again.findings] == ["control_character"]


def test_a_table_stays_a_table(tmp_path):
    content = 'prompt,chosen,rejected\na b c,"d, ""e""\nf",g h i\nj k l,,m n o\n'
    data = raw("data.csv", content.encode())(tmp_path)
    tiltlm.check(data=data, fix=tmp_path / "clean.csv", progress=False)
    with (tmp_path / "clean.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["prompt", "chosen", "rejected"], ["a b c", 'd, "e"\nf', "g h i"]]


def test_a_parquet_file_keeps_its_types(tmp_path):
    schema = pa.schema([("prompt", pa.string()), ("chosen", pa.string()), ("rejected", pa.string()), ("id", pa.int8())])
    rows = [{**good(k), "id": k} for k in range(3)]
    rows[1]["chosen"] = " "
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "data.parquet")
    tiltlm.check(data=tmp_path / "data.parquet", fix=tmp_path / "clean.parquet", progress=False)
    found = pq.read_table(tmp_path / "clean.parquet")
    assert found.schema.equals(schema)
    assert found.to_pylist() == [rows[0], rows[2]]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_row_for_each_response_stays_one(tmp_path, kind):
    """HelpSteer's rows are joined while they are read; the copy has them as they were."""
    rows = [
        {"prompt": f"question {i} of many", "response": f"answer {i} {k}", "helpfulness": str(k + i)}
        for i in range(3)
        for k in range(2)
    ]
    rows[2]["response"] = rows[3]["response"] = "the same"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if kind == "csv":
        text = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n"
    data = raw(f"data.{kind}", text.encode())(tmp_path)
    tiltlm.check(data=data, fix=tmp_path / f"clean.{kind}", progress=False)
    assert read(tmp_path / f"clean.{kind}") == [*rows[:2], *rows[4:]]
    assert tiltlm.check(data=tmp_path / f"clean.{kind}", progress=False).exit_code == 0
    assert tiltlm.stats(data, progress=False).statistics.num_rows == 3


@pytest.mark.parametrize("name", ["clean.parquet", "clean.csv", "clean"])
def test_other_formats_are_refused(tmp_path, name):
    with raises(ConfigError, "unknown_file_format", key="--fix"):
        tiltlm.check(data=lines(good(0))(tmp_path), fix=tmp_path / name, progress=False)


def test_the_input_and_files_that_exist_are_never_replaced(tmp_path):
    data = lines(good(0))(tmp_path)
    with raises(ConfigError, "output_exists", key="--fix"):
        tiltlm.check(data=data, fix=data, overwrite=True, progress=False)
    with raises(ConfigError, "output_exists", key="--fix"):
        tiltlm.check(data=str(tmp_path), fix=tmp_path / "new.jsonl", progress=False)
    (tmp_path / "c.left-out.jsonl").write_text("mine")
    with raises(ConfigError, "output_exists", key="--fix"):
        tiltlm.check(data=data, fix=tmp_path / "c.jsonl", progress=False)
    tiltlm.check(data=data, fix=tmp_path / "c.jsonl", overwrite=True, progress=False)
    assert (tmp_path / "c.left-out.jsonl").read_text() == ""


def test_nothing_is_written_where_the_columns_cannot_be_read(tmp_path):
    data = lines(good(0, zzz=1))(tmp_path)
    result = tiltlm.check(data=data, fix=tmp_path / "c.jsonl", progress=False)
    assert result.cleaned is None
    assert not (tmp_path / "c.jsonl").exists()
