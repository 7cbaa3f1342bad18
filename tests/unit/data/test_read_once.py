"""Rows are read once: the first rows show what columns are for; a later row that contradicts them costs more."""

import pytest

from support.errors import raises
from support.plain_data import everything
from tiltlm.core.errors import DataError
from tiltlm.data import DataSettings, load_data
from tiltlm.data import dataset as module
from tiltlm.data.files import sources

NUM = 40


def pair(i: int, **more) -> dict:
    return {"prompt": f"p{i}", "chosen": f"yes {i}", "rejected": "no", **more}


@pytest.fixture
def load(jsonl, encoder, monkeypatch):
    """Return a function that loads rows, and how many rows were read from files for it."""
    monkeypatch.setattr(module, "FIRST_ROWS", 3)
    reader, counts = sources.READERS[".jsonl"], [0]

    def counting(*given):
        for row in reader(*given):
            counts[0] += 1
            yield row

    monkeypatch.setitem(sources.READERS, ".jsonl", counting)

    def run(rows, **settings):
        counts[0] = 0
        settings = {"eval_fraction": 0.0, "cache": False, **settings}
        data = load_data(DataSettings(train=jsonl(rows), **settings), encoder, "pairs")
        return data, counts[0]

    return run


def test_each_row_is_read_once_after_the_first_ones(load, jsonl):
    data, num_read = load([pair(i) for i in range(NUM)])
    assert (len(data.train), num_read) == (NUM, NUM + 3)
    held_out = jsonl([pair(i) for i in range(NUM, NUM + 10)], "held_out.jsonl")
    data, num_read = load([pair(i) for i in range(NUM)], eval=held_out, eval_fraction=None)
    assert (len(data.train), len(data.held_out), num_read) == (NUM, 10, NUM + 10 + 2 * 3)


def test_a_late_column_that_is_not_used_costs_nothing(load):
    data, num_read = load([pair(i, **({"metadata": i} if i > 20 else {})) for i in range(NUM)])
    assert num_read == NUM + 3
    (note,) = [note for note in data.notes if note.code == "unused_columns"]
    assert "metadata" in note


def test_a_late_column_of_an_export_that_is_not_used_costs_nothing(load):
    rows = [
        {"instruction": f"p{i}", "input": "", "chosen": "yes", "rejected": "no", **({"tags": 1} if i > 20 else {})}
        for i in range(NUM)
    ]
    data, num_read = load(rows)
    assert (len(data.train), num_read) == (NUM, NUM + 3)


@pytest.mark.parametrize("late", [{"weight": 3.0}, {"preference": 0.75}, {"source": "web"}])
def test_a_late_column_that_is_used_is_used(load, monkeypatch, late):
    rows = [pair(i, **(late if i > 20 else {})) for i in range(NUM)]
    data, num_read = load(rows)
    assert num_read > 2 * NUM
    monkeypatch.setattr(module, "FIRST_ROWS", NUM)
    whole, _ = load(rows)
    assert everything(data) == everything(whole)
    assert [example.weight for example in data.train] == [
        late.get("weight", 1.0) if i > 20 else 1.0 for i in range(NUM)
    ]


def test_a_late_column_may_have_the_role_that_a_setting_names(load):
    rows = [pair(i, **({"importance": 2.0} if i > 20 else {})) for i in range(NUM)]
    data, _ = load(rows, columns={"weight": "importance"})
    assert sum(example.weight for example in data.train) == NUM + NUM - 21


def test_a_late_column_without_a_role_is_refused(load):
    with raises(DataError, "unknown_column", row="data.jsonl:22", mentions=["mystery"]):
        load([pair(i, **({"mystery": 1} if i > 20 else {})) for i in range(NUM)])


def test_the_first_rows_may_be_damaged(load):
    rows = ["{", "{", "{", *[pair(i) for i in range(NUM)]]
    data, _ = load(rows, max_bad=0.2)
    assert len(data.train) == NUM
    assert data.accounting.losses["malformed_json"].count == 3
    with raises(DataError, "too_many_defects"):
        load(["{"] * 5)


def test_many_rows_are_read_once_by_several_processes(load, monkeypatch):
    rows = [pair(i, **({"metadata": 1} if i > 30 else {})) for i in range(NUM)]
    few, _ = load(rows)
    monkeypatch.setattr(module, "MANY_ROWS", 10)
    many, num_read = load(rows, processes=2)
    assert num_read == NUM + 3
    assert everything(many) == everything(few)
