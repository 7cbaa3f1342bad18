"""Every format gives the same rows, and every kind of damage is reported with its location."""

import codecs
import gzip
import json
from dataclasses import replace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from support.errors import raises
from support.tokenizers_and_templates import pair
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.sources import read_rows

ROWS = [pair(i) for i in range(6)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def load(path, **more):
    return list(read_rows(DataSettings(train=str(path), **more)))


def values(rows):
    return [row.values for row in rows if row.defect is None]


def causes(rows):
    return [(row.location, row.defect.code) for row in rows if row.defect]


def write_parquet(path):
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def write_arrow_file(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def write_arrow_stream(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def csv_text(delimiter):
    return "".join(delimiter.join(values) + "\n" for values in (ROWS[0], *(row.values() for row in ROWS)))


def write_csv(path):
    path.write_text(csv_text(","))


FORMATS = {
    "a.jsonl": lambda p: p.write_bytes(LINES),
    "b.jsonl.gz": lambda p: p.write_bytes(gzip.compress(LINES)),
    "two-members.jsonl.gz": lambda p: p.write_bytes(gzip.compress(LINES[:99]) + gzip.compress(LINES[99:])),
    "c.jsonl.zst": lambda p: p.write_bytes(zstandard.compress(LINES)),
    "two-frames.jsonl.zst": lambda p: p.write_bytes(zstandard.compress(LINES[:99]) + zstandard.compress(LINES[99:])),
    "windows.jsonl": lambda p: p.write_bytes(b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n")),
    "no-last-break.jsonl": lambda p: p.write_bytes(LINES.strip()),
    "array.json": lambda p: p.write_text(json.dumps(ROWS)),
    "lines.json": lambda p: p.write_bytes(LINES),
    "array.json.gz": lambda p: p.write_bytes(gzip.compress(json.dumps(ROWS, indent=1).encode())),
    "little.jsonl": lambda p: p.write_bytes(codecs.BOM_UTF16_LE + LINES.decode().encode("utf-16-le")),
    "big.jsonl.gz": lambda p: p.write_bytes(gzip.compress(codecs.BOM_UTF16_BE + LINES.decode().encode("utf-16-be"))),
    "array-16.json": lambda p: p.write_bytes(json.dumps(ROWS).encode("utf-16")),
    "d.csv": write_csv,
    "semicolons.csv": lambda p: p.write_text(csv_text(";")),
    "tabs.csv": lambda p: p.write_text(csv_text("\t")),
    "d.tsv": lambda p: p.write_text(csv_text("\t")),
    "d.csv.gz": lambda p: p.write_bytes(gzip.compress(csv_text(",").encode())),
    "d.tsv.zst": lambda p: p.write_bytes(zstandard.compress(csv_text("\t").encode())),
    "excel.csv": lambda p: p.write_bytes(codecs.BOM_UTF8 + csv_text(";").replace("\n", "\r\n").encode()),
    "mac.csv": lambda p: p.write_bytes(csv_text(",").replace("\n", "\r").encode()),
    "d-16.csv": lambda p: p.write_bytes(csv_text(",").encode("utf-16")),
    "e.parquet": write_parquet,
    "file.arrow": write_arrow_file,
    "stream.arrow": write_arrow_stream,
    "DATA.JSONL": lambda p: p.write_bytes(LINES),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_the_same_rows(tmp_path, name):
    FORMATS[name](tmp_path / name)
    rows = load(tmp_path / name)
    assert values(rows) == ROWS
    assert causes(rows) == []
    assert len({row.location for row in rows}) == len(ROWS)


def test_locations_are_lines_from_1_and_rows_from_0(tmp_path):
    write_parquet(tmp_path / "e.parquet")
    (tmp_path / "a.jsonl").write_bytes(b"\n" + LINES)
    write_csv(tmp_path / "d.csv")
    assert load(tmp_path / "e.parquet")[2].location == "e.parquet[2]"
    assert load(tmp_path / "a.jsonl")[0].location == "a.jsonl:2"
    assert load(tmp_path / "d.csv")[0].location == "d.csv:2"


def test_saved_dataset_and_its_splits(tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "single")
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(tmp_path / "both")
    assert values(load(tmp_path / "single")) == ROWS
    assert values(load(tmp_path / "both")) == ROWS
    assert values(load(tmp_path / "both", split="test")) == ROWS[:1]
    with raises(DataError, "unknown_split", key="data.split", mentions=["'dev'", "train, test", "data.split"]):
        load(tmp_path / "both", split="dev")
    both = DataSettings(train="-", eval=str(tmp_path / "both"))
    assert values(read_rows(both, held_out=True)) == ROWS[:1]
    with raises(DataError, "unknown_split", key="data.eval_split", mentions=["'dev'", "data.eval_split"]):
        read_rows(replace(both, eval_split="dev"), held_out=True)
    with raises(ConfigError, "no_effect", key="data.split"):
        load(tmp_path / "single", split="train")


def test_a_folder_is_its_files_and_several_sources_are_one(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / "folder" / name).write_bytes(LINES)
    (tmp_path / "folder" / "README.md").write_text("not data")
    rows = load(tmp_path / "folder")
    assert [row.location for row in rows][::6] == ["a.jsonl:1", "b.jsonl:1"]
    both = DataSettings(train=(str(tmp_path / "folder" / "a.jsonl"), str(tmp_path / "folder" / "b.jsonl")))
    assert values(read_rows(both)) == ROWS * 2
    (tmp_path / "empty").mkdir()
    with raises(DataError, "no_data_file", mentions=[str(tmp_path / "empty"), ".jsonl"]):
        load(tmp_path / "empty")


def test_limit_reads_the_first_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    assert values(load(tmp_path / "a.jsonl", limit=2)) == ROWS[:2]


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (b'{"prompt": "question", "chosen": ', "malformed_json"),
        (b"not json", "malformed_json"),
        (b'{"a": ' + b"[" * 100_000, "malformed_json"),
        (b'{"prompt": "\xff\xfe"}', "invalid_unicode"),
        (('{"prompt": "' + "ü" * 40).encode(), "malformed_json"),
        (('{"prompt": "' + "ü" * 40 + "x").encode(), "malformed_json"),
        (b"[1, 2]", "wrong_type"),
        (b"null", "wrong_type"),
    ],
)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_damaged_line_costs_only_itself(tmp_path, bad, cause, where):
    lines = LINES.splitlines()
    index = {"first": 0, "middle": 3, "last": 6}[where]
    lines.insert(index, bad)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows = load(tmp_path / "a.jsonl")
    assert values(rows) == ROWS
    assert causes(rows) == [(f"a.jsonl:{index + 1}", cause)]


@pytest.mark.parametrize("name", ["b.jsonl.gz", "c.jsonl.zst"])
def test_a_compressed_file_that_ends_early_is_refused(tmp_path, name):
    import random

    rows = [{**pair(i), "id": f"{random.Random(i).getrandbits(4000):x}"} for i in range(200)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    whole = gzip.compress(data) if name.endswith("gz") else zstandard.ZstdCompressor(level=1).compress(data)
    (tmp_path / name).write_bytes(whole[: len(whole) * 3 // 4])
    with raises(DataError, "damaged", mentions=[name]):
        load(tmp_path / name)


@pytest.mark.parametrize("name", ["b.jsonl.gz", "c.jsonl.zst"])
def test_a_file_that_only_claims_to_be_compressed(tmp_path, name):
    (tmp_path / name).write_bytes(LINES)
    with raises(DataError, "damaged", mentions=[name]):
        load(tmp_path / name)


def test_csv_row_with_a_missing_field(tmp_path):
    (tmp_path / "d.csv").write_text('prompt,chosen,rejected\n"a\nb",yes,no\na,yes\na,yes,no\n')
    rows = load(tmp_path / "d.csv")
    assert [row.location for row in rows] == ["d.csv:3", "d.csv:4", "d.csv:5"]
    assert causes(rows) == [("d.csv:4", "malformed_csv")]
    assert rows[0].values["prompt"] == "a\nb"


@pytest.mark.parametrize("name", ["a.jsonl", "e.csv", "a.jsonl.gz"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"" if not name.endswith("gz") else gzip.compress(b""))
    with raises(DataError, "no_rows", mentions=[name]):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "code", "row"),
    [
        ("a.txt", b"hello", "unknown_file_format", None),
        ("a.parquet", b"hello", "damaged", None),
        ("a.arrow", b"hello", "damaged", None),
        ("a.json", b"[1, 2", "damaged", None),
        ("a.csv", b"prompt,prompt\n1,2\n", "duplicate", "a.csv:1"),
        ("a.csv", b"prompt,chosen\n\xff,2\n", "not_utf8", "a.csv:2"),
        ("a.jsonl", "{}\n".encode("utf-16-le"), "not_utf8", None),
        ("a.jsonl", codecs.BOM_UTF16_LE + b"{\x00\x00\xd8", "damaged", None),
        ("a.csv", b'prompt,chosen\n1,2\n"3, 4\n"5","6"\n7,8\n', "damaged", "a.csv:3"),
        ("a.csv", b'prompt,chosen\n"3, 4\n5,"6"\n', "damaged", "a.csv:2"),
        ("a.csv", b'prompt,chosen\n1,"2\n3,4\n', "damaged", "a.csv:2"),
    ],
)
def test_a_damaged_container_stops(tmp_path, name, content, code, row):
    (tmp_path / name).write_bytes(content)
    with raises(DataError, code, row=row, mentions=[name]) as caught:
        load(tmp_path / name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["missing.jsonl", "somewhere/missing.jsonl.gz", "/no/where/missing.parquet"])
def test_a_missing_file_is_no_dataset_on_the_hub(name):
    with raises(DataError, "no_such_path", mentions=[name]):
        load(name)


def test_a_file_missing_from_a_folder_is_not_looked_up(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", None)
    for name in ("data/pairs", "./pairs", "../pairs"):
        with raises(DataError, "no_such_path", mentions=[name]):
            load(name)


def test_hub_dataset_by_name_and_revision(monkeypatch):
    asked = []

    def load_dataset(name, subset, *, split, revision):
        asked.append((name, subset, split, revision))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = load("owner/pairs", split="dev", subset="default", revision="abc")
    assert asked == [("owner/pairs", "default", "dev", "abc")]
    assert values(rows) == ROWS
    assert rows[1].location == "owner/pairs[1]"


def test_hub_out_of_reach(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with raises(
        DataError, "not_readable", mentions=["owner/pairs", "data.split='train'", "data.revision='abc'", "offline"]
    ):
        load("owner/pairs", revision="abc")


def test_a_hub_that_does_not_answer_is_not_asked_again(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", None)
    monkeypatch.setattr("tiltlm.data.files.sources.unreachable", lambda name, kind: f"no answer from {kind} {name}")
    with raises(DataError, "not_reachable", mentions=["no answer from dataset owner/pairs"]):
        load("owner/pairs")


def test_hub_settings_without_a_hub_dataset(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    with raises(ConfigError, "no_effect", key="data.revision"):
        load(str(tmp_path / "a.jsonl"), revision="abc")


@pytest.mark.parametrize("revision", [None, "abc"])
def test_a_note_says_that_the_version_of_a_hub_dataset_is_not_fixed(monkeypatch, revision):
    monkeypatch.setattr("tiltlm.data.files.sources.unreachable", lambda name, kind: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: datasets.Dataset.from_list([{"a": 1}]))
    notes = read_rows(DataSettings(train="owner/pairs", revision=revision)).notes
    assert [note.code for note in notes] == ([] if revision else ["newest_revision"])


def test_content_is_that_of_the_files_and_their_names(tmp_path, monkeypatch):
    def content(**more):
        settings = DataSettings(train=str(tmp_path / "data"), **more)
        return read_rows(settings).content()

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_bytes(LINES)
    first = content()
    assert content(limit=1) == first
    (tmp_path / "data" / "b.jsonl").write_bytes(LINES)
    second = content()
    (tmp_path / "data" / "b.jsonl").write_bytes(LINES[::-1])
    assert second[0][0] == first[0][0]
    assert len({str(found) for found in (first, second, content())}) == 3
    rows = datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    hub = DataSettings(train="owner/pairs")
    before = read_rows(hub).content()
    rows = datasets.Dataset.from_list(ROWS[:3])
    assert before is not None
    assert read_rows(hub).content() != before


def test_a_file_that_is_gone_when_it_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    settings = DataSettings(train=str(tmp_path / "a.jsonl"))
    rows = read_rows(settings)
    (tmp_path / "a.jsonl").unlink()
    for act in (rows.content, lambda: list(rows)):
        with raises(DataError, "not_readable", mentions=[str(tmp_path / "a.jsonl")]):
            act()


def write_folder(folder, *names):
    """Write one row to each file; the row's prompt is the name of the file."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist([pair(prompt=name)]), folder / name)
        else:
            (folder / name).write_text(json.dumps(pair(prompt=name)) + "\n")
    return folder


def prompts(folder, **settings):
    return [row.values["prompt"] for row in load(folder, **settings)]


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["train.jsonl", "test.jsonl"], ["train.jsonl"], ["test.jsonl"]),
        (["my-train-pairs.jsonl", "my_eval.jsonl"], ["my-train-pairs.jsonl"], ["my_eval.jsonl"]),
        (["train1.jsonl", "train2.jsonl", "dev.jsonl"], ["train1.jsonl", "train2.jsonl"], None),
        (["train/a.jsonl", "test/a.jsonl"], ["train/a.jsonl"], ["test/a.jsonl"]),
        (
            ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "README.md"],
            ["data/train-00000-of-00001.parquet"],
            ["data/test-00000-of-00001.parquet"],
        ),
        (["train.jsonl", "others.jsonl", "test.jsonl"], ["train.jsonl"], ["test.jsonl"]),
        (["train.jsonl", "dataset_infos.json", ".train.jsonl"], ["train.jsonl"], None),
    ],
)
def test_split_files_of_a_folder_are_those_of_the_hub(tmp_path, names, train, test):
    folder = write_folder(tmp_path / "data-set", *names)
    assert prompts(folder) == train
    rows = read_rows(DataSettings(train=str(folder)))
    (note,) = rows.notes
    assert all(name.rpartition("/")[2] in note for name in names if "infos" not in name and name[0] not in "R.")
    if test is None:
        with raises(DataError, "unknown_split", key="data.split", mentions=["'test'", "train"]):
            prompts(folder, split="test")
    else:
        assert prompts(folder, split="test") == test
        both = DataSettings(train=str(folder), eval=str(folder))
        assert [row.values["prompt"] for row in read_rows(both, held_out=True)] == test


def test_splits_of_other_names_and_folders_without_splits(tmp_path):
    folder = write_folder(tmp_path / "a", "gen-00000-of-00002.parquet", "prefs-00000-of-00001.parquet")
    assert prompts(folder, split="prefs") == ["prefs-00000-of-00001.parquet"]
    with raises(DataError, "unknown_split", key="data.split", mentions=["'train'", "gen, prefs"]):
        prompts(folder)
    folder = write_folder(tmp_path / "b", "one.jsonl", "latest.jsonl")
    assert prompts(folder) == ["latest.jsonl", "one.jsonl"]
    for train in (folder, folder / "one.jsonl"):
        with raises(ConfigError, "no_effect", key="data.split", mentions=["test"]):
            prompts(train, split="test")
    several = DataSettings(train=(str(folder), str(tmp_path / "a")), split="gen")
    assert len(list(read_rows(several))) == 3  # the setting has an effect on one of the sources


@pytest.mark.parametrize("write", [write_parquet, write_arrow_file])
def test_nulls_that_arrow_adds_are_removed_and_those_of_json_are_data(tmp_path, monkeypatch, write):
    rows = [
        {"tools": [{"name": "a", "arguments": {"x": {"y": 1}}}], "weight": None, "ranks": [1, None]},
        {"tools": [{"name": "b", "arguments": {"z": 2.0}}], "weight": 2.0, "ranks": [1, 2]},
    ]
    monkeypatch.setitem(globals(), "ROWS", rows)
    path = tmp_path / ("a.parquet" if write is write_parquet else "a.arrow")
    write(path)
    assert values(load(path)) == rows
    with_null = {"tools": [{"name": "a", "arguments": {"x": None}}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(with_null) + "\n")
    assert values(load(tmp_path / "a.jsonl")) == [with_null]
