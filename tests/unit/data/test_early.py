"""What the rows show is found without a tokenizer, and nothing is refused that `load_data` accepts."""

import datasets
import pytest

from support.errors import raises
from support.tokenizers_and_templates import pair
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data import DataSettings, check_sources, early, read_columns
from tiltlm.data.files import sources


@pytest.fixture
def check(jsonl):
    def run(*files, shape="pairs", **settings):
        names = tuple(jsonl(rows, f"{i}.jsonl") for i, rows in enumerate(files))
        check_sources(read_columns(DataSettings(train=names, **settings)), shape)

    return run


def test_good_data_pass(check):
    check([pair(i) for i in range(9)], [pair(i, weight=2) for i in range(9)])
    check([pair(i) for i in range(9)], limit=3)


def test_a_column_that_comes_late_is_found_before_anything_is_refused(check, monkeypatch):
    monkeypatch.setattr(early, "FIRST_ROWS", 3)
    rows = [{key: value for key, value in pair(i).items() if i > 5 or key != "rejected"} for i in range(200)]
    check(rows)
    with raises(DataError, "unknown_column", row="0.jsonl:2"):
        check([pair(0), pair(1, zzz=1), *rows])


def test_only_the_first_rows_are_read_where_they_show_no_error(check, monkeypatch):
    monkeypatch.setattr(early, "FIRST_ROWS", 3)
    read = []
    parse = sources.TEXT_READERS[".jsonl"]
    monkeypatch.setitem(
        sources.READERS, ".jsonl", lambda path, limits: (read.append(row) or row for row in parse(path, limits))
    )
    check([pair(i) for i in range(500)])
    assert 3 <= len(read) <= 12


def test_a_dataset_on_the_hub_is_opened_once(monkeypatch):
    opened = []

    def load_dataset(name, *_, **__):
        opened.append(name)
        return [pair(i) for i in range(9)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    check_sources(read_columns(DataSettings(train="owner/pairs")), "pairs")
    assert opened == ["owner/pairs"]


@pytest.mark.parametrize(
    ("rows", "shape", "settings", "error", "code"),
    [
        ([{"zzz": 1, **pair()}], "pairs", {}, DataError, "unknown_column"),
        ([pair()], "demonstrations", {"split": "test"}, ConfigError, "no_effect"),
        ([pair()], "pairs", {"assistant_turns": "all"}, ConfigError, "conflict"),
        ([pair()], "pairs", {"revision": "abc"}, ConfigError, "no_effect"),
        ([pair(chosen="")], "pairs", {}, DataError, "too_many_defects"),
        ([pair(), pair(chosen="")], "pairs", {"on_bad": "error"}, DataError, "too_many_defects"),
        (["{", "}"], "pairs", {}, DataError, "too_many_defects"),
        ([{"prompt": "q", "completion": "a"}], "pairs", {}, DataError, "wrong_data_shape"),
        ([{"prompt": "q", "completion": "a", "label": True}] * 2, "unpaired", {}, DataError, "one_label"),
    ],
)
def test_what_the_rows_show_is_refused(check, rows, shape, settings, error, code):
    with raises(error, code):
        check(rows, shape=shape, **settings)
