"""Objects of the cache: written once, the least recently used removed, none while it may be in use."""

import os
import subprocess
import sys
import time

import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.storage import objects

DAY = 24 * 3600


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(objects, "OBJECTS_LIMIT", 250)
    return tmp_path / "cache"


def put(name: str, *, days: float = 0, size: int = 100, kind: str = "rows"):
    """Write an object and let its last use be this many days ago."""
    folder = objects.write_once(kind, name, lambda unfinished: (unfinished / "data").write_bytes(bytes(size)))
    os.utime(folder, (time.time() - days * DAY,) * 2)
    return folder


def test_it_is_written_once_and_marked_as_used(cache):
    folder = put("a", days=20)
    assert folder == cache / "rows" / "a"
    again = objects.write_once("rows", "a", lambda _: pytest.fail("written again"))
    assert again == folder
    assert time.time() - folder.stat().st_mtime < DAY


def test_what_was_not_used_for_longest_goes_first(cache):
    for name, days in (("newer", 10), ("oldest", 30), ("older", 20)):
        put(name, days=days)
    put("new")
    assert {path.name for path in (cache / "rows").iterdir() if path.is_dir()} == {"newer", "new"}


def test_what_was_used_lately_stays_however_much_it_is(cache):
    for name in ("a", "b", "c"):
        put(name, days=6)
    put("large", size=1000)
    assert len([path for path in (cache / "rows").iterdir() if path.is_dir()]) == 4


def test_kinds_have_their_own_limits(cache):
    for name in ("a", "b"):
        put(name, days=30)
    put("model", size=240, kind="models")
    assert (cache / "rows" / "a").exists()


def test_nothing_is_left_of_a_failed_or_interrupted_write(cache):
    with pytest.raises(ZeroDivisionError):
        objects.write_once("rows", "a", lambda folder: (folder / "data").write_text("half") / 0)
    assert not any(path.is_dir() for path in (cache / "rows").iterdir())
    (cache / "rows" / ".b.tmp").mkdir()
    put("c")
    assert not (cache / "rows" / ".b.tmp").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "file"))
    with raises(ConfigError, "not_writable", mentions=["TILTLM_CACHE", str(tmp_path / "file")]):
        put("a")


def test_processes_that_come_at_once_write_one_complete_object(cache):
    code = (
        "import sys, time; from tiltlm.storage.objects import write_once\n"
        "def write(folder):\n"
        "    for name in 'abc': (folder / name).write_text(name); time.sleep(0.05)\n"
        "    with open(sys.argv[1], 'a') as log: log.write('written\\n')\n"
        "folder = write_once('rows', 'x', write)\n"
        "assert len(list(folder.iterdir())) == 3\n"
    )
    log = cache.parent / "log"
    started = [subprocess.Popen([sys.executable, "-c", code, str(log)]) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert log.read_text() == "written\n"


def test_other_paths_are_no_objects(cache, tmp_path):
    for path in ("owner/name", str(tmp_path / "data.jsonl"), str(cache), str(cache / "rows"), ""):
        objects.mark_object_used(path, "data")
