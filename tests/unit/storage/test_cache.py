"""Locks between processes, and eviction of what was not used for longest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiltlm.storage.cache import CacheEntry, cache_folder, entries_of, evict, mark_used, try_lock

HOLDER = """
import sys
from pathlib import Path
from tiltlm.storage.cache import try_lock
with try_lock(Path(sys.argv[1])) as taken:
    print(taken, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def taken(path):
    with try_lock(path) as lock:
        return lock


def test_a_lock_belongs_to_one_process_until_it_ends(tmp_path, holder):
    assert not taken(tmp_path / ".lock")
    assert taken(tmp_path / ".other")
    holder.communicate("")  # the block ends
    assert taken(tmp_path / ".lock")


def test_a_killed_process_holds_no_lock(tmp_path, holder):
    assert not taken(tmp_path / ".lock")
    holder.kill()
    holder.wait()
    assert taken(tmp_path / ".lock")


def test_a_lock_is_released_when_the_block_ends_or_raises(tmp_path):
    with try_lock(tmp_path / ".lock") as first:
        assert first
        assert not taken(tmp_path / ".lock"), "also within one process"
    assert taken(tmp_path / ".lock")
    with pytest.raises(ZeroDivisionError), try_lock(tmp_path / ".lock"):
        1 / 0  # noqa: B018
    assert taken(tmp_path / ".lock")


ENTRIES = [CacheEntry(last_used, 10, Path(f"{last_used:.0f}")) for last_used in (3.0, 1.0, 4.0, 2.0)]


def removed_by(limit, in_use=(), stuck=()):
    """Names that `evict` removed, in order, and what it returned."""
    removed = []

    def remove(path):
        if path.name in stuck:
            return False
        removed.append(path.name)
        return True

    return removed, evict(ENTRIES, limit, {Path(name) for name in in_use}, remove)


@pytest.mark.parametrize(
    ("limit", "in_use", "stuck", "expected"),
    [
        (40, (), (), []),
        (39, (), (), ["1"]),
        (20, (), (), ["1", "2"]),
        (0, (), (), ["1", "2", "3", "4"]),
        (20, ("1", "3"), (), ["2", "4"]),
        (20, (), ("2",), ["1", "3"]),
    ],
)
def test_what_was_not_used_for_longest_goes_first(limit, in_use, stuck, expected):
    removed, (num_removed, num_left) = removed_by(limit, in_use, stuck)
    assert removed == expected
    assert (num_removed, num_left) == (10 * len(expected), 40 - 10 * len(expected))


def test_marking_moves_an_entry_to_the_end(tmp_path):
    for age, name in enumerate(("new.bin", "old.bin", "other.txt")):
        (tmp_path / name).write_bytes(b"12345")
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert [(entry.path.name, entry.size) for entry in entries_of(tmp_path, "*.bin")] == [
        ("old.bin", 5),
        ("new.bin", 5),
    ]
    mark_used(tmp_path / "old.bin")
    assert [entry.path.name for entry in entries_of(tmp_path, "*.bin")] == ["new.bin", "old.bin"]
    mark_used(tmp_path / "removed.bin")
    assert not (tmp_path / "removed.bin").exists()


def test_a_variable_overrides_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLM_SOME_CACHE", str(tmp_path))
    assert cache_folder("some", "TILTLM_SOME_CACHE") == tmp_path
    monkeypatch.setenv("TILTLM_SOME_CACHE", "")
    assert cache_folder("some", "TILTLM_SOME_CACHE").parts[-2:] == ("tiltlm", "some")
