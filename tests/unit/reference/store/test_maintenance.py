"""Merging and eviction: nothing is lost whatever happens at the same time, and what is in use stays."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from support.errors import events, has_event
from tiltlm.core.errors import RunError
from tiltlm.core.example import TokenIds, token_ids
from tiltlm.reference import ReferenceStore
from tiltlm.reference.store import maintenance
from tiltlm.reference.store.shard import Entry
from tiltlm.storage.cache import try_lock

Sequence = tuple[TokenIds, TokenIds]


def store(folder: Path, limit: int | None = None, weights: str = "weights") -> ReferenceStore:
    return ReferenceStore(folder, weights, "float32", limit)


def sequence(number: int, length: int = 3) -> Sequence:
    return token_ids([number // 2]), token_ids([number, *range(length - 1)])


def entry(number: int, length: int = 3) -> Entry:
    return *sequence(number, length), -np.arange(1, length + 1, dtype=np.float32) / (number + 1)


def assert_has(kept: ReferenceStore, numbers: range, length: int = 3) -> None:
    for number, found in zip(numbers, kept.get([sequence(n, length) for n in numbers]), strict=True):
        np.testing.assert_array_equal(found, entry(number, length)[2])


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.arrow"))


@pytest.fixture
def few(monkeypatch) -> None:
    """Merge as soon as there are more than four files."""
    monkeypatch.setattr(maintenance, "MANY", 4)


def test_few_files_are_left_as_they_are():
    assert maintenance.to_merge({str(i): 10 for i in range(maintenance.MANY)}) == []


def test_the_smaller_half_of_many_is_merged():
    sizes = {str(i): i for i in range(maintenance.MANY + 1)}
    assert maintenance.to_merge(sizes) == [str(i) for i in range(len(sizes) // 2)]


def test_a_merged_file_is_not_larger_than_a_full_one(monkeypatch):
    monkeypatch.setattr(maintenance, "MANY", 1)
    monkeypatch.setattr(maintenance, "FULL", 100)
    assert maintenance.to_merge({str(i): 30 for i in range(12)}) == ["0", "1", "2"]
    assert maintenance.to_merge({"a": 50, "b": 50}) == ["a", "b"]
    assert maintenance.to_merge({"a": 51, "b": 51, "c": 1}) == []


def test_merging_ends_and_a_row_is_rarely_copied():
    """A thousand files of one size are put, each followed by the merges that it causes."""
    sizes: dict[str, int] = {}
    num_copied = 0
    for put in range(1000):
        sizes[str(put)] = 1000
        while names := maintenance.to_merge(sizes):
            sizes[names[0] + "+"] = merged = sum(map(sizes.pop, names))
            num_copied += merged // 1000
        assert len(sizes) <= maintenance.MANY
    assert num_copied < 6 * 1000


def test_many_puts_become_few_files(tmp_path, few):
    kept, other = store(tmp_path), store(tmp_path)
    for number in range(20):
        kept.put([entry(number)])
        assert len(files(tmp_path)) <= 4
    assert_has(kept, range(20))
    assert_has(store(tmp_path), range(20))
    assert len(kept) == 20
    other.put([entry(20)])
    assert_has(other, range(20, 21))
    other.refresh()
    assert_has(other, range(21))


def test_what_is_merged_is_there_once(tmp_path, monkeypatch):
    """Two processes computed the same sequences, one of them with longer responses."""
    kept, other = store(tmp_path), store(tmp_path)
    for number in range(3):
        kept.put([entry(number)])
        other.put([entry(number, length=5)])
    monkeypatch.setattr(maintenance, "MANY", 1)
    kept.put([entry(9)])
    again = store(tmp_path)
    assert len(again) == 4
    assert_has(again, range(3), length=5)
    assert_has(again, range(3))


def test_a_reader_keeps_what_another_has_merged(tmp_path, few):
    kept = store(tmp_path)
    for number in range(4):
        kept.put([entry(number)])
    reader = store(tmp_path)
    before = set(files(tmp_path))
    kept.put([entry(4)])
    assert before - set(files(tmp_path)), "some are gone"
    assert_has(reader, range(4))
    reader.refresh()
    assert_has(reader, range(5))


def test_a_file_that_goes_while_it_is_opened_is_no_damage(tmp_path, monkeypatch, caplog):
    """Another process has merged after a reader listed the folder and before it opens a file."""
    store(tmp_path).put([entry(0)])
    glob = Path.glob
    rest = [files(tmp_path)[0].with_name("gone.arrow")]
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [*rest, *glob(path, pattern)])
    assert_has(store(tmp_path), range(1))
    assert not caplog.text


def test_a_file_that_another_process_merges_at_once_is_read_by_its_writer(tmp_path, monkeypatch):
    kept = store(tmp_path)
    replace = Path.replace

    def replace_and_merge(path: Path, target: Path) -> None:
        replace(path, target).unlink()

    monkeypatch.setattr(Path, "replace", replace_and_merge)
    kept.put([entry(0)])
    assert_has(kept, range(1))


def test_a_crash_before_the_old_files_are_removed_loses_nothing(tmp_path, few, monkeypatch):
    kept = store(tmp_path)
    for number in range(4):
        kept.put([entry(number)])
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            kept.put([entry(4)])
    assert len(files(tmp_path)) == 6, "five, and what two of them were merged into"
    again = store(tmp_path)
    assert_has(again, range(5))
    assert len(again) == 7
    again.put([entry(5)])
    assert_has(store(tmp_path), range(6))
    assert len(files(tmp_path)) <= 4


def crash(path: Path, missing_ok: bool = False) -> None:
    """Stop when the first merged file would be removed; temporary names have no file then."""
    if path.suffix == ".arrow":
        raise KeyboardInterrupt


def test_a_crash_while_the_merged_file_is_written_loses_nothing(tmp_path, few, monkeypatch):
    kept = store(tmp_path)
    for number in range(4):
        kept.put([entry(number)])
    num_written = 0
    fsync = os.fsync

    def second_file(descriptor: int) -> None:
        nonlocal num_written
        num_written += 1
        if num_written == 3:  # each file is followed by its folder
            raise KeyboardInterrupt
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", second_file)
        with pytest.raises(KeyboardInterrupt):
            kept.put([entry(4)])
    assert len(files(tmp_path)) == 5
    assert_has(store(tmp_path), range(5))


def test_a_disk_too_full_to_merge_keeps_the_files(tmp_path, few, monkeypatch, caplog):
    kept = store(tmp_path)
    for number in range(4):
        kept.put([entry(number)])
    write = kept._write

    def only_one(rows: list) -> None:
        monkeypatch.setattr(kept, "_write", full)
        write(rows)

    def full(_rows: object) -> None:
        raise RunError("no room.", code="not_writable")

    monkeypatch.setattr(kept, "_write", only_one)
    kept.put([entry(4)])
    assert has_event(caplog, "merge_failed", code="not_writable")
    assert_has(kept, range(5))
    assert len(files(tmp_path)) == 5


def test_merging_leaves_damaged_rows_behind(tmp_path, few, caplog):
    kept = store(tmp_path)
    for number in range(4):
        kept.put([entry(number), entry(number + 100)])
    bad = files(tmp_path)[0]
    value = entry(0)[2].tobytes()
    content = bad.read_bytes()
    assert content.count(value) == 1
    bad.unlink()  # the old one is mapped
    bad.write_bytes(content.replace(value, value[::-1]))
    used_at(bad, 1000)  # of files of one size, the oldest is merged first
    again = store(tmp_path)
    again.put([entry(4)])
    assert has_event(caplog, "store_damaged", file=bad.name, code="wrong_checksum", rows=1)
    assert bad not in files(tmp_path)
    assert again.get([sequence(0)]) == [None]
    assert_has(again, range(1, 5))
    assert_has(again, range(100, 104))


def test_files_of_damaged_rows_only_are_removed(tmp_path, few):
    kept = store(tmp_path)
    for number in range(4):
        kept.put([entry(number)])
    for file, number in zip(files(tmp_path), range(4), strict=True):
        value, content = entry(number)[2].tobytes(), file.read_bytes()
        file.unlink()
        file.write_bytes(content.replace(value, value[::-1]))
        used_at(file, 1000)
    again = store(tmp_path)
    again.put([entry(n) for n in range(4, 400)])
    assert len(files(tmp_path)) == 3
    assert_has(again, range(4, 400))
    assert again.get([sequence(n) for n in range(4)]) == [None] * 4


def test_files_that_cannot_be_removed_are_merged_once(tmp_path, few, monkeypatch):
    kept = store(tmp_path)
    for number in range(4):
        kept.put([entry(number)])
    others = files(tmp_path)[:2]
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path in others:
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    for number in range(4, 12):
        kept.put([entry(number)])
    assert_has(kept, range(12))
    assert len(kept) == 12
    assert set(others) <= set(files(tmp_path))
    assert len(files(tmp_path)) <= 4 + 2


def test_one_process_at_a_time_merges(tmp_path, few):
    kept = store(tmp_path)
    for number in range(4):
        kept.put([entry(number)])
    lock = kept.folder / "upkeep.lock"
    with try_lock(lock) as is_ours:
        assert is_ours
        with try_lock(lock) as is_ours_too:
            assert not is_ours_too
        for number in range(4, 8):
            kept.put([entry(number)])
        assert len(files(tmp_path)) == 8
    kept.put([entry(8)])
    assert len(files(tmp_path)) <= 4
    assert_has(kept, range(9))


WRITER = """
import sys
from pathlib import Path
import numpy as np
from tiltlm.core.example import token_ids
from tiltlm.reference.store import maintenance
from tiltlm.reference.store.store import ReferenceStore
maintenance.MANY = 4
kept = ReferenceStore(Path(sys.argv[1]), "weights", "float32")
first = int(sys.argv[2])
for number in range(first, first + 60):
    kept.put([(token_ids([number // 2]), token_ids([number, 0, 1]), -np.arange(1, 4, dtype=np.float32) / (number + 1))])
    kept.refresh()
    assert kept.get([(token_ids([number // 2]), token_ids([number, 0, 1]))])[0] is not None
"""


@pytest.mark.slow
def test_two_processes_write_and_merge_at_once(tmp_path, few, caplog):
    kept = store(tmp_path)
    num_put = 0
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "10000"]) as writer:
        while writer.poll() is None:
            kept.refresh()
            if num_put == 0 or (len(kept) > num_put and num_put < 100):  # not while the writer is still starting
                kept.put([entry(num_put)])
                num_put += 1
            assert_has(kept, range(num_put))
            time.sleep(0.01)
    assert writer.returncode == 0
    assert num_put > 1
    again = store(tmp_path)
    assert_has(again, range(num_put))
    assert_has(again, range(10000, 10060))
    assert not caplog.text
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(files(tmp_path)) <= 2 * 4


def used_at(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


def three_runs(folder: Path) -> list[Path]:
    """Make the files of three runs with different weights; the second was used first."""
    paths = []
    for weights, seconds in (("a", 2000), ("b", 1000), ("c", 3000)):
        kept = store(folder, weights=weights)
        kept.put([entry(0, length=500)])
        (path,) = files(kept.folder)
        used_at(path, seconds)
        paths.append(path)
    return paths


def test_what_was_not_used_for_longest_goes_first(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="tiltlm")
    a, b, c = three_runs(tmp_path)
    size = a.stat().st_size
    for limit, left in ((3 * size, {a, b, c}), (3 * size - 1, {a, c}), (2 * size, {a, c}), (size, {c}), (0, set())):
        caplog.clear()
        store(tmp_path, limit, weights="another").tidy()
        assert set(files(tmp_path)) == left
        assert bool(events(caplog, "store_evicted")) == (limit in (3 * size - 1, size, 0))


def test_what_a_run_reads_or_writes_stays(tmp_path, caplog):
    b = three_runs(tmp_path)[1]
    run = store(tmp_path, 1, weights="b")
    assert_has(run, range(1), length=500)
    assert b.stat().st_mtime > 3000, "marked as used"
    run.put([entry(1)])
    run.tidy()
    assert b in files(tmp_path)
    assert len(files(tmp_path)) == 2
    kept = sum(path.stat().st_size for path in files(tmp_path))
    assert has_event(caplog, "store_over_limit", logging.WARNING, kept_bytes=kept, limit_bytes=1)
    assert "reference.store_limit" in caplog.text


def test_what_a_run_of_the_same_weights_left_unused_goes(tmp_path):
    first = store(tmp_path)
    first.put([entry(0)])
    (old,) = files(tmp_path)
    used_at(old, 1000)
    run = store(tmp_path, limit=old.stat().st_size)
    run.put([entry(1)])
    run.tidy()
    assert old not in files(tmp_path)
    assert_has(run, range(2))  # still mapped
    assert store(tmp_path).get([sequence(0)]) == [None]


def test_without_a_limit_everything_stays(tmp_path):
    three_runs(tmp_path)
    store(tmp_path).tidy()
    assert len(files(tmp_path)) == 3
    ReferenceStore(None, "weights", "float32", 1).tidy()


def test_abandoned_temporary_files_go(tmp_path):
    kept = store(tmp_path, 10**9)
    names = ["old.tmp", ".old.arrow.tmp", ".new.arrow.tmp"]
    for name in names:
        (kept.folder / name).write_bytes(b"half")
    for name in names[:2]:
        used_at(kept.folder / name, 1000)
    kept.tidy()
    assert [(kept.folder / name).exists() for name in names] == [False, False, True]
