"""Mixtures of sources: which rows an epoch has, how often, and under which names."""

import json
from collections import Counter
from pathlib import Path

import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.data import DataSettings, load_data
from tiltlm.data.data_settings import SourceSettings
from tiltlm.data.files.sources import read_rows


def pairs(name: str, count: int, **more) -> list[dict]:
    return [
        {"prompt": f"{name} {i}", "chosen": "yes", "rejected": "no", "id": f"{name}{i}", **more} for i in range(count)
    ]


@pytest.fixture
def load(tmp_path: Path, encoder):
    """Return a function that writes files and loads them as sources: rows and settings of each, by the file's name."""

    def run(files: dict[str, tuple[list[dict], dict]], **settings):
        entries = []
        for name, (rows, more) in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            entries.append(SourceSettings(str(path), **more) if more else str(path))
        settings = {"eval_fraction": 0.0, "cache": False, **settings}
        return load_data(DataSettings(train=tuple(entries), **settings), encoder, "pairs")

    return run


def counts(examples) -> Counter[str]:
    return Counter(example.id for example in examples)


@pytest.mark.parametrize(("weight", "num"), [(2, 20), (0.5, 5), (1.5, 15), (0.26, 3), (3.0, 30)])
def test_weight_is_how_often_an_epoch_has_each_row(load, weight: float, num: int):
    data = load({"a.jsonl": (pairs("a", 10), {"weight": weight}), "b.jsonl": (pairs("b", 4), {})})
    found = counts(data.train)
    times = {found.get(f"a{i}", 0) for i in range(10)}
    assert times <= {int(weight), int(weight) + 1}
    assert sum(found[f"a{i}"] for i in range(10)) == num
    assert all(found[f"b{i}"] == 1 for i in range(4))
    assert data.sources == {"a.jsonl": num, "b.jsonl": 4}
    assert data.accounting.kept_train == 14, "the account counts rows, not repetitions"


@pytest.mark.parametrize("more", [{"cap": 6}, {"weight": 0.6}])
def test_content_decides_which_rows_are_used(load, more: dict):
    first = load({"a.jsonl": (pairs("a", 10), more), "b.jsonl": (pairs("b", 3), {})})
    other = load({"c/x.jsonl": (pairs("b", 3), {}), "c/y.jsonl": (pairs("a", 10)[::-1], more)})
    assert counts(first.train) == counts(other.train)
    assert len(first.train) == 9


def test_rows_above_the_cap_are_counted(load):
    data = load({"a.jsonl": (pairs("a", 10), {"cap": 4}), "b.jsonl": (pairs("b", 3), {"cap": 100})})
    assert len(data.train) == 7
    account = data.accounting
    assert account.losses["above_cap"].count == 6
    assert (account.total, account.kept_train, account.dropped, account.defects) == (13, 7, 6, 0)
    assert account.lengths["prompt"].total() == 7


def test_equal_rows_fall_under_the_cap_too(load):
    rows = [{**row, "id": f"{k}"} for k, row in enumerate(pairs("a", 1) * 8)]
    data = load({"a.jsonl": (rows, {"cap": 3})})
    assert len(data.train) == 3


def test_held_out_rows_are_capped_with_the_others_and_never_repeated(load):
    plain = load({"a.jsonl": (pairs("a", 200), {})}, eval_fraction=0.3)
    data = load({"a.jsonl": (pairs("a", 200), {"cap": 100, "weight": 2})}, eval_fraction=0.3)
    assert len(data.train) / 2 + len(data.held_out) == 100
    assert set(counts(data.train).values()) == {2}
    assert set(counts(data.held_out)) < set(counts(plain.held_out))
    assert set(counts(data.train)) < set(counts(plain.train))
    assert 15 < len(data.held_out) < 45, "about 30 of 100"
    assert data.accounting.held_out == len(data.held_out)


def test_separate_held_out_data_is_not_mixed(load, jsonl):
    held_out = jsonl(pairs("h", 5), "held_out.jsonl")
    data = load({"a.jsonl": (pairs("a", 10), {"cap": 4, "weight": 2})}, eval=held_out, eval_fraction=None)
    assert counts(data.held_out) == counts(load({"held_out.jsonl": (pairs("h", 5), {})}).train)
    assert len(data.train) == 8


def test_the_fingerprint_is_that_of_the_mixture(load):
    def fingerprint(**more):
        return load({"a.jsonl": (pairs("a", 10), more)}).fingerprint

    plain = fingerprint()
    assert fingerprint(source="other") == plain, "names are not part of it"
    assert fingerprint(weight=1.0) == plain
    assert len({plain, fingerprint(weight=2), fingerprint(weight=1.5), fingerprint(cap=5), fingerprint(cap=6)}) == 5
    assert load({"a.jsonl": (pairs("a", 10), {"weight": 2})}).content == load({"a.jsonl": (pairs("a", 10), {})}).content


def test_names_of_sources(load):
    named = pairs("n", 1, source="column")
    data = load(
        {
            "a.jsonl": (pairs("a", 2) + named, {}),
            "b.jsonl": ([*pairs("b", 1), {**named[0], "id": "n1"}], {"source": "setting"}),
        }
    )
    found = {example.id: example.source for example in data.train}
    assert found == {"a0": "a.jsonl", "a1": "a.jsonl", "n0": "column", "b0": "setting", "n1": "setting"}
    alone = load({"a.jsonl": (pairs("a", 2), {})})
    assert {example.source for example in alone.train} == {""}
    twins = load({"one/a.jsonl": (pairs("a", 1), {}), "two/a.jsonl": (pairs("b", 1), {})})
    assert len(twins.sources) == 2


def test_the_cache_knows_the_names_of_sources(load, tmp_path: Path):
    cache = str(tmp_path / "cache")
    for source in ("x", "y", "x"):
        data = load({"a.jsonl": (pairs("a", 4), {"source": source, "weight": 2})}, cache=cache)
        assert data.sources == {source: 8}


def test_commands_that_do_not_mix_refuse_it(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    settings = DataSettings(train=(SourceSettings(str(tmp_path / "a.jsonl"), cap=3),))
    with raises(ConfigError, "no_effect", key="data.train"):
        read_rows(settings)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"weight": 0}, "out_of_range"),
        ({"weight": -1}, "out_of_range"),
        ({"weight": 1001}, "out_of_range"),
        ({"weight": float("nan")}, "out_of_range"),
        ({"cap": 0}, "not_positive"),
        ({"source": ""}, "missing_setting"),
    ],
)
def test_impossible_settings_are_refused(more: dict, code: str):
    with raises(ConfigError, code, key="data.train"):
        SourceSettings("a.jsonl", **more)


def test_rows_that_are_repeated_are_not_left_out_one_by_one():
    with raises(ConfigError, "conflict", key="data.max_ches"):
        DataSettings(train=(SourceSettings("a.jsonl", weight=2),), max_ches=0.5)
    DataSettings(train=(SourceSettings("a.jsonl", cap=2),), max_ches=0.5)
