"""From the data's shape to the objective's: what is announced, what is refused, what comes out."""

import pytest

from tiltlm.core.errors import DataError
from tiltlm.core.example import Comparison
from tiltlm.data.accounting import Defect
from tiltlm.data.columns import detect
from tiltlm.data.convert import ANNOUNCED, DIRECT, REFUSED, announce, convert
from tiltlm.data.records import to_record
from tiltlm.data.settings import DataSettings
from tiltlm.data.textfiles import Row

from .conftest import pair

LIST = {"prompt": "q", "completions": [" a", " b", " c"]}


def schema_of(*columns):
    return detect(dict.fromkeys(columns, "a:1"), DataSettings(train="a"))


def converted(row, shape, *, held_out=False):
    schema = schema_of(*row)
    return convert(to_record(Row("a:1", row), schema), schema, shape, held_out=held_out)


def test_every_route_is_decided_once():
    routes = [
        (data, objective)
        for data in ("pairs", "lists", "labelled", "demonstrations")
        for objective in ("pairs", "labels", "demonstrations")
    ]
    for route in routes:
        assert [route in known for known in (DIRECT, ANNOUNCED, REFUSED)].count(True) == 1, route


@pytest.mark.parametrize(
    ("columns", "shape", "words"),
    [
        (("prompt", "completion", "label"), "pairs", "kto"),
        (("prompt", "completion"), "pairs", "sft"),
        (("prompt", "completion"), "labels", "`label`"),
        (("prompt", "completions", "scores"), "labels", "dpo"),
        (("prompt", "completion", "label"), "demonstrations", r"data.ignore=\[label\]"),
        (("prompt", "chosen", "rejected", "offset", "votes"), "labels", r"data.ignore=\[offset, votes\]"),
        (("prompt", "chosen", "rejected", "preference"), "demonstrations", "only objectives of pairs"),
    ],
)
def test_refusals_hold_the_way_out(columns, shape, words):
    with pytest.raises(DataError, match=words):
        announce(schema_of(*columns), shape)


def test_announcements():
    pairs = schema_of("prompt", "chosen", "rejected")
    assert announce(pairs, "pairs") == []
    assert "one desirable and one undesirable" in announce(pairs, "labels")[0]
    assert "chosen" in announce(pairs, "demonstrations")[0]
    assert "different rank or score" in announce(schema_of("prompt", "completions", "ranks"), "pairs")[0]
    assert announce(schema_of("prompt", "completions", "comparisons"), "pairs") == []


def test_pairs_become_two_labels_of_one_example():
    record = converted(pair(weight=2), "labels")
    assert record.responses == (" yes 0", " no 0")
    assert record.labels == (True, False)
    assert record.weight == 2


def test_sft_learns_the_chosen_and_is_measured_on_the_pair():
    assert converted(pair(), "demonstrations").responses == (" yes 0",)
    assert converted(pair(), "demonstrations").comparisons == ()
    assert converted(pair(), "demonstrations", held_out=True).comparisons == (Comparison(0, 1),)


def test_the_best_of_a_list_is_learnt():
    assert converted({**LIST, "scores": [1, 3, 2]}, "demonstrations").responses == (" b",)
    assert converted({**LIST, "ranks": [2, 2, 1]}, "demonstrations").responses == (" c",)
    assert converted({**LIST, "comparisons": [[0, 1], [1, 0, 0.5], [2, 1, 0.1]]}, "demonstrations").responses == (" a",)


def test_a_list_of_ties_says_nothing():
    for shape in ("pairs", "demonstrations"):
        with pytest.raises(Defect) as caught:
            converted({**LIST, "scores": [1, 1, 1]}, shape)
        assert caught.value.cause == "no_comparison"
