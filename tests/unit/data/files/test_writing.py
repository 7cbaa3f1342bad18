"""Rows are written by the ending of a name: read again as they were, complete or not at all, always the same bytes."""

import gzip
import json
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import raises
from tiltlm.core.errors import ConfigError, DataError, RunError
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.sources import read_rows
from tiltlm.data.files.writing import WRITERS, is_dataset_folder, write_rows

ENDINGS = [*WRITERS, ""]
TABLES = [ending for ending in WRITERS if ".csv" in ending or ".tsv" in ending]
TURN = {"role": "user", "content": 'Is it "cold"?\nReally,;\t'}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
ROWS = [
    {"id": "1", "prompt": [TURN], "chosen": [{"role": "assistant", "content": "Yes."}], "score_chosen": 0.5},
    {"id": "2", "prompt": [TURN], "chosen": [CALL], "tools": [{"name": "f", "parameters": {"a": None}}]},
]


def content(path):
    return [row.values for row in read_rows(DataSettings(train=str(path)))]


def plain(value):
    """Return a value without what Arrow and CSV change: absent columns, and JSON text for what is nested."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return plain(json.loads(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item not in (None, "", [])}
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_of_file_is_read_as_it_was_written(tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    write_rows(path, iter(ROWS))
    expected = [{k: str(v) if k == "score_chosen" and ending in TABLES else v for k, v in row.items()} for row in ROWS]
    assert [plain(row) for row in content(path)] == [plain(row) for row in expected]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_rows_are_the_same_bytes(tmp_path, ending):
    def bytes_of(path: Path):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return [(file.relative_to(path).as_posix(), file.read_bytes()) for file in files]

    paths = [tmp_path / name / f"rows{ending}" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        write_rows(path, ROWS)
    assert bytes_of(paths[0]) == bytes_of(paths[1])


@settings(max_examples=40)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"prompt": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)},
            optional={"chosen": st.text(st.sampled_from('a\r\n",;\t '), min_size=1)},
        ),
        min_size=1,
        max_size=4,
    ),
    ending=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".csv.gz", ".jsonl.zst", ".parquet", ".arrow"]),
)
def test_any_text_is_read_as_it_was_written(tmp_path_factory, rows, ending):
    path = tmp_path_factory.mktemp("any") / f"rows{ending}"
    write_rows(path, rows)
    read = [{column: value for column, value in row.items() if value not in (None, "")} for row in content(path)]
    assert read == rows


def test_many_rows_of_unlike_columns_have_one_type_in_arrow(tmp_path):
    rows = [{"id": str(k), "messages": [{"role": "user", "content": "x"}], **({"late": 1.5} if k > 1999 else {})}
            for k in range(2500)]  # fmt: skip
    rows[1500]["messages"][0]["name"] = "Ann"
    write_rows(tmp_path / "rows.parquet", rows)
    read = content(tmp_path / "rows.parquet")
    assert [plain(row) for row in read] == rows


def test_a_folder_is_one_that_datasets_loads_and_replaces_only_such_a_folder(tmp_path):
    path = tmp_path / "rows"
    write_rows(path, ROWS)
    loaded = datasets.load_from_disk(str(path))
    assert loaded["id"][:] == ["1", "2"]
    assert is_dataset_folder(path)
    write_rows(path, ROWS[:1])
    assert len(datasets.load_from_disk(str(path))) == 1
    (path / "notes.txt").write_text("mine")
    assert not is_dataset_folder(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_error_of_the_rows_leaves_the_file_before(tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    write_rows(path, ROWS)

    def broken():
        yield ROWS[0]
        raise DataError("no", code="no")

    with pytest.raises(DataError):
        write_rows(path, broken())
    assert len(content(path)) == 2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ""])
def test_values_of_several_types_are_refused_where_a_column_has_one(tmp_path, ending):
    with raises(DataError, "mixed_types", key="OUT", mentions=[".jsonl"]):
        write_rows(tmp_path / f"rows{ending}", [{"prompt": "text"}, {"prompt": [TURN]}])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_ending_and_a_folder_that_is_not_there(tmp_path):
    with raises(ConfigError, "unknown_file_format", key="OUT", mentions=[".parquet"]):
        write_rows(tmp_path / "rows.xlsx", ROWS)
    with raises(RunError, "not_writable"):
        write_rows(tmp_path / "no" / "rows.jsonl", ROWS)


def test_compressed_files_have_no_time_and_no_name(tmp_path):
    write_rows(tmp_path / "rows.jsonl.gz", ROWS)
    packed = (tmp_path / "rows.jsonl.gz").read_bytes()
    assert packed[3:8] == bytes(5)  # no flags, so no name; time 0
    assert gzip.decompress(packed).count(b"\n") == 2


def test_no_rows(tmp_path):
    for ending in (".jsonl", ".json", ".csv", ".parquet"):
        write_rows(tmp_path / f"rows{ending}", [])
    assert json.loads((tmp_path / "rows.json").read_text()) == []
