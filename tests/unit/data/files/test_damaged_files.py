"""Compressed files that end early, fail a checksum, or hold too much: no row of unknown worth is used."""

import gzip
import json
import logging
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import tiltlm
from support.errors import raises
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files import packed
from tiltlm.data.files.sources import read_rows


def lines(count, start=0):
    """Return rows that compress badly, so that a cut falls far from the end."""
    rows = (
        {"prompt": f"q{i}", "chosen": f"{random.Random(i).getrandbits(800):x}", "rejected": "no"} for i in range(count)
    )
    return "".join(json.dumps({**row, "id": f"{start + i}"}) + "\n" for i, row in enumerate(rows)).encode()


def compress(content, ending):
    if ending == ".gz":
        return gzip.compress(content)
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def with_a_wrong_checksum(whole, ending):
    """Return a file whose last checksum is wrong."""
    place = -6 if ending == ".gz" else -1
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place:][1:]


def settings(path, **fields):
    return DataSettings(train=str(path), **fields)


def rows_of(path, **fields):
    return list(read_rows(settings(path, **fields)))


ENDINGS = pytest.mark.parametrize("ending", [".gz", ".zst"])


@ENDINGS
@pytest.mark.parametrize("limit", [None, 3])
def test_a_file_that_ends_early(tmp_path, ending, limit):
    """Also where only its first rows are wanted."""
    path = tmp_path / f"cut.jsonl{ending}"
    whole = compress(lines(2000), ending)
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with raises(DataError, "damaged", key="data.damaged_files", mentions=[str(path)]) as caught:
        rows_of(path, limit=limit)
    name, line = caught.value.row.split(":")
    assert name == path.name
    assert 900 < int(line) < 1500, "the first line that is not whole"
    used = rows_of(path, damaged_files="sound_rows")
    assert [row.values["id"] for row in used[:-1]] == [str(i) for i in range(int(line) - 1)]
    assert (used[-1].location, used[-1].defect.code) == (caught.value.row, "damaged_file")
    (note,) = read_rows(settings(path, damaged_files="sound_rows")).notes
    assert note.code == "rows_lost"


@ENDINGS
@pytest.mark.parametrize("is_first", [True, False])
def test_a_checksum_that_fails(tmp_path, ending, is_first):
    """Nobody knows which byte is wrong, so only parts before, with a checksum of their own, are sound."""
    path = tmp_path / f"pairs.jsonl{ending}"
    before = b"" if is_first else compress(lines(7), ending)
    path.write_bytes(before + with_a_wrong_checksum(compress(lines(50, 7), ending), ending))
    with raises(DataError, "damaged", row=f"{path.name}:{1 if is_first else 8}"):
        rows_of(path)
    used = rows_of(path, damaged_files="sound_rows")
    assert [row.values["id"] for row in used[:-1]] == ([] if is_first else [str(i) for i in range(7)])
    assert used[-1].defect.code == "damaged_file"


@ENDINGS
def test_every_flipped_byte_is_found(tmp_path, ending):
    whole = compress(lines(5), ending)
    for place in range(4 if ending == ".zst" else 10, len(whole)):
        path = tmp_path / f"{place}.jsonl{ending}"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            found = rows_of(path)
        except DataError as error:
            assert error.code == "damaged", error  # noqa: PT017
        else:
            assert [json.dumps(row.values) for row in found] == lines(5).decode().splitlines(), place


@ENDINGS
@pytest.mark.parametrize("call", ["train", "stats", "split", "convert", "preview", "score"])
def test_no_command_uses_it(tmp_path, ending, call):
    path = tmp_path / f"pairs.jsonl{ending}"
    path.write_bytes(with_a_wrong_checksum(compress(lines(50), ending), ending))
    out = tmp_path / "out"
    arguments = {
        "train": {"objective": "dpo", "model": tmp_path, "output": out},
        "score": {"objective": "simpo", "model": tmp_path},
        "preview": {"model": tmp_path},
        "split": {"output": out},
        "convert": {"output": tmp_path / "out.jsonl", "to": "trl"},
        "stats": {},
    }[call]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    function = getattr(tiltlm, call)
    with raises(DataError, "damaged", key="data.damaged_files"):
        function(path, **arguments) if call == "convert" else function(data=path, **arguments)
    assert not out.exists()
    assert not (tmp_path / "out.jsonl").exists()


def test_a_check_uses_no_row_and_writes_no_cleaned_copy(tmp_path, caplog):
    path, clean = tmp_path / "pairs.jsonl.gz", tmp_path / "clean.jsonl"
    whole = compress(lines(500), ".gz")
    path.write_bytes(whole[: len(whole) // 2])
    found = tiltlm.check(data=path, fix=clean, progress=False)
    assert [finding.rule.key for finding in found.findings] == ["damaged"]
    assert found.findings[0].examples[0].startswith("pairs.jsonl.gz:")
    assert found.report.num_rows == 0
    assert not clean.exists()
    assert [record.event for record in caplog.records if record.levelno == logging.WARNING] == ["nothing_cleaned"]


def test_zeros_after_the_end_are_no_damage(tmp_path):
    path = tmp_path / "padded.jsonl.gz"
    path.write_bytes(gzip.compress(lines(3)) + b"\0" * 512 + gzip.compress(lines(2)) + b"\0" * 7)
    assert len(rows_of(path)) == 5


def test_a_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(lines(3)))
    assert len(rows_of(path)) == 3
    path.write_bytes(gzip.compress(lines(300))[:-40])
    with raises(DataError, "damaged"):
        rows_of(path)


def test_a_row_that_is_too_large(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(
        lines(2) + json.dumps({"prompt": "x" * 30_000, "chosen": "a", "rejected": "b"}).encode() + b"\n" + lines(1)
    )
    rows = rows_of(path, max_row_mb=0.02)
    assert [row.defect and (row.location, row.defect.code) for row in rows] == [
        None,
        None,
        ("pairs.jsonl:3", "row_too_large"),
        None,
    ]
    assert not rows[2].values
    assert not any(row.defect for row in rows_of(path))
    with raises(ConfigError, "not_positive", key="data.max_row_mb"):
        settings(path, max_row_mb=0)


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("is_last", [True, False])
def test_a_line_of_any_length_needs_little_memory(tmp_path, ending, is_last, peak_memory):
    """65 KB of Zstandard hold two gigabytes; here 2 KB hold 60 MB."""
    path = tmp_path / f"long.jsonl{ending}"
    content = lines(1) + b"a" * 60_000_000 + (b"" if is_last else b"\n" + lines(1))
    path.write_bytes(content if not ending else compress(content, ending))
    del content
    with peak_memory() as peak:
        rows = rows_of(path, max_row_mb=1)
    assert [row.defect and row.defect.code for row in rows] == [None, "row_too_large", *([] if is_last else [None])]
    assert peak() < 45_000_000


def test_a_file_made_to_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "CHECKED_FROM", 1 << 20)
    path = tmp_path / "bomb.jsonl.zst"
    path.write_bytes(compress(b"\n" * 50_000_000, ".zst"))
    with raises(DataError, "too_compressed", mentions=[str(path)]):
        rows_of(path)


def test_a_large_field_of_csv(tmp_path):
    """A quote that is not closed makes one field of the rest of the file."""
    path = tmp_path / "pairs.csv"
    path.write_text('prompt,chosen,rejected\na,b,c\na,"b,c\n' + "a,b,c\n" * 9000)
    with raises(DataError, "field_too_large", key="data.max_row_mb", row="pairs.csv:3"):
        rows_of(path, max_row_mb=0.02)
    path.write_text("prompt,chosen,rejected\na,b,c\na," + "b" * 30_000 + ",c\n")
    with raises(DataError, "field_too_large", key="data.max_row_mb", row="pairs.csv:3"):
        rows_of(path, max_row_mb=0.02)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.json", "saved"])
def test_a_large_cell(tmp_path, name):
    import datasets

    rows = [{"prompt": "a" * size, "chosen": "b", "rejected": "c"} for size in (5, 30_000, 6)]
    path = tmp_path / name
    if name == "a.json":
        path.write_text(json.dumps(rows))
    elif name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name == "a.arrow":
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(path)
    found = rows_of(path, max_row_mb=0.02)
    assert [row.location for row in found if row.defect] == [f"{name}[1]"]
    assert [row.defect.code for row in found if row.defect] == ["row_too_large"]
    assert [row.values["prompt"] for row in found if not row.defect] == ["aaaaa", "aaaaaa"]


@pytest.mark.parametrize("fault", ["cut", "flipped", "empty"])
def test_a_damaged_parquet_file(tmp_path, fault):
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.Table.from_pylist([{"prompt": f"{i}" * 50, "chosen": "a", "rejected": "b"} for i in range(500)]), path
    )
    content = path.read_bytes()
    wrong = content[:40] + bytes(200) + content[240:]
    path.write_bytes({"cut": content[: len(content) // 2], "flipped": wrong, "empty": b""}[fault])
    with raises(DataError, "damaged", mentions=[str(path)]):
        rows_of(path)


@pytest.mark.parametrize("name", ["data.pkl", "data.pt", "data.pickle", "data.bin"])
def test_a_pickle_as_data_is_not_opened(tmp_path, name):
    from support.canaries import Canary

    canary = Canary(tmp_path)
    (tmp_path / name).write_bytes(canary.pickle)
    with raises(DataError, "unknown_file_format", mentions=[name]):
        rows_of(tmp_path / name)
    for ending in ("jsonl", "parquet", "arrow", "json", "csv", "jsonl.gz"):
        path = tmp_path / f"{name}.{ending}"
        path.write_bytes(canary.pickle)
        try:
            assert all(row.defect for row in rows_of(path))
        except DataError as error:
            assert error.code in ("damaged", "not_utf8", "no_rows"), error  # noqa: PT017
    assert not canary.sang


def test_a_loading_script_is_not_run(tmp_path):
    """A folder with a Python file and data: only the data are read."""
    from support.canaries import Canary

    canary, folder = Canary(tmp_path), tmp_path / "set"
    folder.mkdir()
    (folder / "set.py").write_text(canary.source)
    (folder / "train.jsonl").write_bytes(lines(2))
    assert len(rows_of(folder)) == 2
    assert not canary.sang
