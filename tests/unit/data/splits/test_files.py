"""Files of a split: rows that are written can be read again as they were."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.sources import read_rows
from tiltlm.data.files.text_files import Row
from tiltlm.data.files.writing import format_of, open_rows
from tiltlm.data.splits.files import write_rows

TEXTS = [
    {"prompt": 'He said "no", then\nleft; so', "chosen": "ja\tnein — 中文", "rejected": ""},
    {"prompt": " ", "chosen": "'", "rejected": "x,y;z"},
]
NESTED = [
    {"messages": [{"role": "user", "content": "é"}], "weight": 0.1, "n": 10**30, "meta": {"a": None, "b": [True]}},
    {"messages": [], "weight": -0.0, "half": "\ud83d", "text": "line\u2028end"},
]


def read_back(path: Path) -> list[dict]:
    return [row.values for row in read_rows(DataSettings(train=str(path)))]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_json_lines_keep_every_value(tmp_path: Path, name: str):
    path = tmp_path / name
    write_rows(tmp_path, {"train": name}, (("train", Row("", row)) for row in NESTED), ["x.jsonl"])
    assert read_back(path) == NESTED
    assert format_of([str(path)]) == name.removeprefix("a")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_csv_keeps_text(tmp_path: Path, name: str):
    write_rows(tmp_path, {"test": name}, (("test", Row("", row)) for row in TEXTS), ["x.csv"])
    assert read_back(tmp_path / name) == TEXTS
    assert format_of([str(tmp_path / name)]) == name.removeprefix("a")


def test_parquet_keeps_types(tmp_path: Path):
    like = tmp_path / "like.parquet"
    rows = [{"a": i % 100, "messages": [{"role": "user", "content": None}], "b": None} for i in range(2500)]
    schema = pa.schema(
        [
            ("a", pa.int8()),
            ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("b", pa.date32()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), like)
    with open_rows(tmp_path / "out.parquet", like) as write:
        for row in read_rows(DataSettings(train=str(like))):
            write(row.values)
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(like))


def test_sources_of_unlike_formats_become_json_lines(tmp_path: Path):
    files = {}
    for name in ("a.csv", "b.csv", "c.jsonl", "d.json", "e.jsonl.GZ"):
        files[name] = str(tmp_path / name)
        Path(files[name]).touch()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    pq.write_table(pa.table({"a": ["1"]}), tmp_path / "y.parquet")
    assert format_of([files["a.csv"], files["b.csv"]]) == ".csv"
    assert format_of([files["a.csv"], files["c.jsonl"]]) == ".jsonl"
    assert format_of([files["d.json"]]) == ".jsonl"
    assert format_of([files["e.jsonl.GZ"]]) == ".jsonl.gz"
    assert format_of(["owner/name"]) == ".jsonl"
    assert format_of([str(tmp_path)]) == ".jsonl"
    assert format_of([str(tmp_path / "x.parquet")] * 2) == ".parquet"
    assert format_of([str(tmp_path / name) for name in ("x.parquet", "y.parquet")]) == ".jsonl"


def test_equal_rows_give_equal_compressed_files(tmp_path: Path):
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        write_rows(tmp_path, {"train": name}, (("train", Row("", row)) for row in NESTED), ["x.jsonl"])
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


def test_rows_without_a_part_are_not_written(tmp_path: Path):
    rows = [("train", Row("", {"a": 1})), (None, Row("", {"a": 2})), ("test", Row("", {"a": 3}))]
    write_rows(tmp_path, {"train": "train.jsonl", "test": "test.jsonl"}, iter(rows), ["x.jsonl"])
    assert read_back(tmp_path / "train.jsonl") == [{"a": 1}]
    assert read_back(tmp_path / "test.jsonl") == [{"a": 3}]
