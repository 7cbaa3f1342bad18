"""Tokenised data on disk: found again by content, not found if anything relevant changed, checked when opened."""

import json
import logging
import shutil
import threading
from dataclasses import replace

import pytest

from support.errors import events, has_event, raises
from support.plain_data import everything
from support.tokenizers_and_templates import CHATML, LLAMA, byte_level, pair
from tiltlm.core.errors import ConfigError, DataError, RunError
from tiltlm.data import DataSettings, dataset, load_data
from tiltlm.data.cache import dataset_cache
from tiltlm.data.loader import Loader

ROWS = [*(pair(i) for i in range(30)), pair(chosen=""), pair(chosen=" yes" * 30)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def load(encoder, jsonl, folder):
    """Return a function that loads rows with a cache."""

    def run(rows=ROWS, shape="pairs", *, encoder=encoder, name="data.jsonl", needs=(), partners=False, **settings):
        settings = {"max_bad": 0.2, "max_length": 40, "cache": str(folder), **settings}
        path = rows if isinstance(rows, str) else jsonl(rows, name)
        return load_data(
            DataSettings(train=path, **settings), encoder, shape, needs=frozenset(needs), needs_partners=partners
        )

    return run


@pytest.fixture
def tokenised(monkeypatch):
    """Return a list with one entry for each block that was tokenised."""
    blocks = []
    load = Loader.load
    monkeypatch.setattr(Loader, "load", lambda self, *args: blocks.append(1) or load(self, *args))
    return blocks


def entries(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_a_second_run_gives_the_same_and_tokenises_nothing(load, tokenised, folder, caplog):
    first = load(eval_fraction=0.3)
    assert tokenised == [1]
    caplog.set_level(logging.INFO)
    second = load(eval_fraction=0.3)
    assert tokenised == [1]
    (entry,) = entries(folder)
    assert has_event(caplog, "data_from_cache", rows=32, folder=folder / entry)
    assert everything(second) == everything(first)
    assert second.accounting == first.accounting
    assert second.accounting.as_dict() == first.accounting.as_dict()


def test_what_changes_nothing_finds_it(load, tokenised, tmp_path):
    load()
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "data.jsonl"
    shutil.copy(tmp_path / "data.jsonl", moved)
    load(str(moved), max_bad=0.5)
    load(partners=True)
    load(processes=1)
    assert tokenised == [1]


def test_whatever_matters_misses(load, tokenised, folder, encoder):
    changes = [
        {"rows": [*ROWS, pair(99)]},
        {"rows": ROWS[::-1]},
        {"name": "other.jsonl"},  # rows are named by their file
        {"max_length": 41},
        {"truncation": "drop"},
        {"eval_fraction": 0.5},
        {"eval_fraction": 0.5, "eval_seed": 1},
        {"limit": 30},
        {"shape": "unpaired"},
        {"encoder": replace(encoder, end_token_id=3)},
        {"encoder": replace(encoder, tokenizer=byte_level(bos=False))},
        {"chat_template": CHATML},
        {"chat_template": LLAMA},
        {"chat_template": LLAMA, "chat_template_kwargs": {"a": 1}},
    ]
    load()
    for num, change in enumerate(changes, start=2):
        load(**change)
        assert len(tokenised) == len(entries(folder)) == num, change
        load(**change)
        assert len(tokenised) == num, change


def test_a_template_that_writes_the_date_is_cached_for_a_day(load, tokenised, monkeypatch):
    class Tomorrow(dataset_cache.date):
        @classmethod
        def today(cls):
            return cls(2199, 1, 1)

    dated = {"chat_template": "{{ strftime_now('%d %b') }}" + CHATML, "max_length": 100}
    load(**dated)
    load(**dated)
    assert tokenised == [1]
    monkeypatch.setattr(dataset_cache, "date", Tomorrow)
    load(**dated)
    assert tokenised == [1, 1]


def test_refusals_are_the_same_from_the_cache(load, tokenised):
    rows = [pair(i, score_chosen=1, score_rejected=0) for i in range(9)] + [pair(chosen="")]
    for _ in range(2):
        facts = ["10.0%", "empty_response × 1", "data.jsonl:10"]
        with raises(DataError, "too_many_defects", key="data.max_bad", mentions=facts):
            load(rows, max_bad=0.0)
    assert tokenised == [1]
    for _ in range(2):
        with raises(DataError, "wrong_data_shape"):
            load([{"prompt": "q", "completion": " a", "label": True}])
    assert tokenised == [1]


@pytest.mark.parametrize("damage", ["flip", "cut", "about", "missing", "other"])
def test_damage_is_reported_and_repaired(load, tokenised, folder, caplog, damage):
    good = everything(load())
    (entry,) = (path for path in folder.iterdir() if path.is_dir())
    table = entry / "train.arrow"
    content = bytearray(table.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        table.write_bytes(content)
    elif damage == "cut":
        table.write_bytes(content[:-9])
    elif damage == "about":
        (entry / "about.json").write_text('{"fingerprint": "')
    elif damage == "missing":
        table.unlink()
    else:
        (entry / "about.json").write_text(json.dumps({"checksums": {}}))
    assert everything(load()) == good
    assert has_event(caplog, "cache_damaged", logging.WARNING, folder=entry)
    assert tokenised == [1, 1]
    caplog.clear()
    assert everything(load()) == good
    assert (caplog.text, tokenised) == ("", [1, 1])


def test_every_byte_of_about_is_covered(load, tokenised, folder, caplog):
    """One bit of each byte is exchanged: the entry is what it was, or it is known to be damaged."""

    def facts(data):
        return data.columns, data.fingerprint, data.facts.to_plain()

    good = everything(load())
    (entry,) = (path for path in folder.iterdir() if path.is_dir())
    whole, known = (entry / "about.json").read_bytes(), facts(dataset_cache._open(entry))
    damaged = 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 7
        (entry / "about.json").write_bytes(changed)
        try:
            assert facts(dataset_cache._open(entry)) == known, place
        except (OSError, ValueError, LookupError, TypeError):
            damaged += 1
    assert damaged > len(whole) / 2
    changed = whole.replace(b"data.jsonl:1", b"data.jsonl:7", 1)
    assert changed != whole, "a place in a file is named"
    (entry / "about.json").write_bytes(changed)
    assert everything(load()) == good
    assert has_event(caplog, "cache_damaged", logging.WARNING, folder=entry)
    assert tokenised == [1, 1]


def test_leftovers_of_other_killed_runs_are_removed(load, folder):
    other = folder / f".{'0' * 32}.tmp"
    other.mkdir(parents=True)
    (other / "train.arrow").write_bytes(b"half")
    load()
    assert not other.exists()


def test_a_run_that_fails_leaves_nothing(load, folder, monkeypatch):
    with raises(DataError, "too_long", key="data.max_length", row="data.jsonl:32", mentions=["data.truncation=error"]):
        load(truncation="error")
    assert entries(folder) == []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_cache, "fingerprint", full)
    facts = ["No space left on device", str(folder), "data.cache=FOLDER"]
    with raises(RunError, "not_writable", key="data.cache", mentions=facts):
        load()
    assert entries(folder) == []
    with raises(RunError, "not_writable", key="data.cache", mentions=["TMPDIR"]):
        load(cache=False)


def test_leftovers_of_a_killed_run_are_replaced(load, folder, tokenised):
    load()
    (entry,) = (path for path in folder.iterdir() if path.is_dir())
    unfinished = entry.rename(entry.with_name(f".{entry.name}.tmp"))
    (unfinished / "about.json").unlink()
    load()
    assert entries(folder) == [entry.name]
    assert tokenised == [1, 1]


def test_two_at_once_tokenise_once(load, tokenised, jsonl, folder):
    path = jsonl(ROWS)
    results = []
    threads = [threading.Thread(target=lambda: results.append(everything(load(path)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tokenised == [1]
    assert results[0] == results[1] == results[2]


def test_least_recently_used_entries_are_evicted(load, folder, tokenised, caplog):
    for length in (37, 38, 39):
        load(max_length=length)
    first, second, third = sorted(
        entries(folder), key=lambda name: (folder / name / dataset_cache.ABOUT).stat().st_mtime_ns
    )
    size = {name: sum(file.stat().st_size for file in (folder / name).iterdir()) for name in (first, second, third)}
    (folder / f".{'0' * 32}.tmp").mkdir()  # left by a process that was killed
    (folder / "notes").mkdir()  # not an entry
    load(max_length=37)  # a use
    assert len(tokenised) == 3
    caplog.set_level(logging.INFO)
    load(max_length=40, cache_limit=2.5 * size[first] / 1e9)
    assert {*entries(folder)} > {first, "notes"}
    assert {second, third, f".{'0' * 32}.tmp"}.isdisjoint(entries(folder))
    (event,) = events(caplog, "cache_shrunk")
    assert event.removed == size[second] + size[third]
    assert event.left <= 2.5 * size[first]
    load(max_length=37)
    load(max_length=40)
    assert len(tokenised) == 4


def test_entries_in_use_are_never_evicted(load, folder, caplog):
    """The run's own entry stays for any limit, and so does one that another process is writing."""
    other = folder / ("0" * 32)
    unfinished = folder / f".{other.name}.tmp"
    unfinished.mkdir(parents=True)
    (unfinished / "train.arrow").write_bytes(b"0" * 1000)
    with dataset_cache._wait_for_lock(other):
        assert len(load(cache_limit=1e-9).train)
    assert len(entries(folder)) == 2
    (event,) = events(caplog, "cache_over_limit")
    assert (event.folder, event.limit) == (folder, 1)
    assert event.left > 1000


def test_few_rows_are_cached_only_in_a_named_folder(load, folder, monkeypatch, tmp_path, tokenised):
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "default"))
    load(cache=True)
    assert not (tmp_path / "default").exists()
    monkeypatch.setattr(dataset, "MANY_ROWS", 20)
    load(cache=True, processes=1)
    load(cache=True, processes=1)
    assert len(entries(tmp_path / "default")) == 1
    assert tokenised == [1, 1]
    load(cache=False, processes=1)
    load(cache=False, processes=1)
    assert tokenised == [1, 1, 1, 1]


def test_the_default_folder_is_the_users_cache(load, monkeypatch, tmp_path):
    monkeypatch.setattr(dataset, "MANY_ROWS", 20)
    monkeypatch.delenv("TILTLM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load(cache=True, processes=1)
    assert len(entries(tmp_path / "tiltlm" / "tokens")) == 1


def test_a_folder_that_cannot_be_made(load, tmp_path):
    (tmp_path / "file").write_text("")
    facts = [str(tmp_path / "file"), "data.cache=FOLDER", "data.cache=false"]
    with raises(ConfigError, "not_writable", key="data.cache", mentions=facts):
        load(cache=str(tmp_path / "file"))
