"""A file is complete or what it was before, JSON has no NaN, and a torn line is only accepted at the end."""

import json
import math
import os
import resource

import pytest
import torch
from safetensors.torch import save_file

from support.errors import raises
from tiltlm.core import RunError
from tiltlm.storage import files
from tiltlm.storage.files import (
    append_line,
    atomic_file,
    atomic_folder,
    finite_json,
    keep_lines,
    read_lines,
    write_bytes,
    write_json,
    write_text,
)


class Fault(Exception):
    """Stands for any error in the middle of a write."""


def half_write(file):
    file.write(b"half")
    raise Fault


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_files():
    """No file may grow beyond 20 kB: the write fails in the middle, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_read_is_what_was_written(tmp_path):
    for write, content in ((write_bytes, b"\x00\xff"), (write_text, "π*"), (write_json, {"π": [1, None, "é"]})):
        write(tmp_path / "file", content)
        data = (tmp_path / "file").read_bytes()
        assert data == content or data.decode() == content or json.loads(data) == content
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_file_before(tmp_path, small_files):
    write_text(tmp_path / "file", "before")
    with raises(RunError, "not_writable", mentions=[str(tmp_path / "file")]):
        write_bytes(tmp_path / "file", b"x" * 100_000)
    assert (tmp_path / "file").read_text() == "before"
    assert names(tmp_path) == ["file"]


def test_an_error_in_the_block_leaves_the_file_before(tmp_path):
    write_text(tmp_path / "file", "before")
    with pytest.raises(Fault), atomic_file(tmp_path / "file") as file:
        half_write(file)
    assert (tmp_path / "file").read_text() == "before"
    assert names(tmp_path) == ["file"]


def test_a_file_has_no_name_before_it_is_complete_and_on_the_disk(tmp_path, monkeypatch):
    steps = []

    def synchronise(descriptor):
        steps.append((os.fstat(descriptor).st_size, (tmp_path / "file").exists()))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", synchronise)
        with atomic_file(tmp_path / "file") as file:
            file.write(b"content")
            assert not (tmp_path / "file").exists()
    assert steps[0] == (7, False), "the content, before it gets its name"
    assert [named for _, named in steps] == [False, True], "then the folder"


def test_a_folder_is_complete_or_absent(tmp_path):
    with pytest.raises(Fault), atomic_folder(tmp_path / "folder") as folder, (folder / "file").open("wb") as file:
        half_write(file)
    assert names(tmp_path) == []
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "file").touch()
        assert not (tmp_path / "folder").exists()
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["file"]


def test_what_a_killed_process_left_of_a_folder_is_not_reused(tmp_path):
    with atomic_folder(tmp_path / "folder") as folder:
        left = folder
    left.mkdir()
    (left / "half").touch()
    with atomic_folder(tmp_path / "other") as folder:
        assert names(folder) == []
    (tmp_path / "folder").rmdir()
    with atomic_folder(tmp_path / "folder") as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["folder", "other"]


def test_a_folder_that_is_not_empty_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    with pytest.raises(OSError, match="folder"), atomic_folder(tmp_path / "folder"):
        pass
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["file"]


def refuse(constant):
    raise ValueError(constant)


def test_values_that_are_not_finite_survive_strict_json():
    values = {"loss": math.nan, "more": {"a": [math.inf, (-math.inf, 0.5)]}}
    strict = json.loads(json.dumps(finite_json(values)), parse_constant=refuse)
    assert strict == {"loss": "NaN", "more": {"a": ["Infinity", ["-Infinity", 0.5]]}}
    assert math.isnan(float(strict["loss"]))
    assert [float(strict["more"]["a"][0]), float(strict["more"]["a"][1][0])] == [math.inf, -math.inf]


def test_finite_json_leaves_other_values_alone():
    value = {"a": 1, "b": [True, None, "x", 0.25, 10**400]}
    assert finite_json(value) == value


def test_lines_are_appended_whole(tmp_path):
    path = tmp_path / "m.jsonl"
    assert read_lines(path) == []
    for record in ({"step": 1, "text": "a\nπ"}, {"step": 2, "loss": math.nan}):
        append_line(path, record)
    assert path.read_bytes().count(b"\n") == 2
    assert read_lines(path) == [{"step": 1, "text": "a\nπ"}, {"step": 2, "loss": "NaN"}]


def test_a_line_that_does_not_fit_on_the_disk_is_an_error(tmp_path, small_files):
    path = tmp_path / "m.jsonl"
    append_line(path, {"step": 1})
    with raises(RunError, "not_writable", mentions=[str(path)]):
        append_line(path, {"step": 2, "text": "x" * 100_000})
    append_line(path, {"step": 3})
    assert read_lines(path) == [{"step": 1}, {"step": 3}]


def test_a_torn_last_line_is_left_out_and_a_torn_middle_one_is_an_error(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_lines(path) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n')
    with raises(RunError, "damaged", row="m.jsonl:2", mentions=[f"{path}:2"]):
        read_lines(path)


def test_kept_lines_replace_the_file_and_the_torn_one_is_gone(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    assert keep_lines(path, lambda record: record["step"] != 2) == [{"step": 1}, {"step": 3}]
    append_line(path, {"step": 4})
    assert [record["step"] for record in read_lines(path)] == [1, 3, 4]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_the_files_of_a_folder_have_the_rights_of_new_files(tmp_path, umask):
    """Safetensors writes files that only their owner can read."""
    before = os.umask(umask)
    try:
        with atomic_folder(tmp_path / "model") as partial:
            save_file({"weight": torch.zeros(2)}, partial / "model.safetensors")
            (partial / "inner").mkdir()
            (partial / "inner/config.json").touch(0o600)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["config.json", "model.safetensors"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
