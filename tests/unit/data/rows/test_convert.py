"""Conversion from the shape of the data to the shape of the objective: notes, refusals and results."""

from typing import get_args

import pytest

from support.errors import raises
from support.tokenizers_and_templates import pair
from tiltlm.core.errors import DataError
from tiltlm.core.example import Comparison
from tiltlm.core.needs import Shape, Use
from tiltlm.data.accounting import Defect
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows.columns import detect
from tiltlm.data.rows.convert import ANNOUNCED, PURPOSE, REFUSED, USES, announce, convert
from tiltlm.data.rows.records import to_record

LIST = {"prompt": "q", "completions": [" a", " b", " c"]}


def schema_of(*columns):
    return detect(dict.fromkeys(columns, "a:1"), DataSettings(train="a"))


def converted(row, shape, *needs, held_out=False, columns=()):
    schema = schema_of(*row, *columns)
    return convert(to_record(Row("a:1", row), schema), schema, shape, frozenset(needs), held_out=held_out)


def cause(row, shape, *needs, columns=()):
    with pytest.raises(Defect) as caught:
        converted(row, shape, *needs, columns=columns)
    return caught.value.code


IN_FILES = set(get_args(Shape)) - {"rollouts"}
"""Shapes that rows can have; only a loop makes rollouts."""


def test_every_route_is_decided_once():
    routes = {(data, objective) for data in IN_FILES for objective in IN_FILES if data != objective}
    assert ANNOUNCED.keys() | REFUSED.keys() == routes
    assert ANNOUNCED.keys() & REFUSED.keys() == set()


@pytest.mark.parametrize(
    ("columns", "shape", "mentions"),
    [
        (("prompt", "completion", "label"), "pairs", ["kto"]),
        (("prompt", "completion"), "pairs", ["sft"]),
        (("prompt", "completion"), "unpaired", ["`label`"]),
        (("prompt", "completions", "scores"), "unpaired", ["dpo"]),
        (("prompt", "completion", "label"), "demonstrations", ["data.ignore=[label]"]),
        (("prompt", "completion", "label"), "lists", ["kto"]),
        (("prompt", "completion"), "lists", ["`completions`", "`ranks`", "`scores`"]),
        (("prompt", "completions", "comparisons"), "lists", ["`comparisons`", "`ranks`", "`scores`"]),
    ],
)
def test_refusals_hold_the_way_out(columns, shape, mentions):
    with raises(DataError, "wrong_data_shape", mentions=mentions):
        announce(schema_of(*columns), shape)


@pytest.mark.parametrize(
    ("columns", "shape"),
    [
        (("offset", "votes"), "unpaired"),
        (("preference",), "demonstrations"),
        (("offset",), "lists"),
    ],
)
def test_columns_of_pairs_that_another_shape_cannot_use(columns, shape):
    with raises(DataError, "not_used_by_objective", mentions=[f"data.ignore=[{', '.join(columns)}]"]):
        announce(schema_of("prompt", "chosen", "rejected", *columns), shape)


def test_announcements():
    pairs = schema_of("prompt", "chosen", "rejected")
    assert announce(pairs, "pairs") == []
    assert announce(pairs, "unpaired")[0].startswith("pairs → unpaired")
    assert announce(pairs, "demonstrations")[0].startswith("pairs → demonstrations")
    assert announce(schema_of("prompt", "completions", "ranks"), "pairs")[0].startswith("lists → comparisons")
    assert announce(schema_of("prompt", "completions", "comparisons"), "pairs") == []


def test_pairs_become_two_labels_of_one_example():
    record = converted(pair(weight=2), "unpaired")
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


@pytest.mark.parametrize("shape", ["pairs", "demonstrations", "lists"])
@pytest.mark.parametrize("known", [{"scores": [1, 1, 1]}, {"ranks": [2, 2, 2]}])
def test_a_list_of_ties_is_a_defect(shape, known):
    assert cause({**LIST, **known}, shape) == "no_comparison"


def test_equal_scores_are_a_target_where_scores_are_read():
    record = converted({**LIST, "scores": [1, 1, 1]}, "lists", "scores")
    assert (record.scores, record.comparisons) == ((1.0, 1.0, 1.0), ())


def test_a_list_of_one_is_none():
    for needs in ((), ("ranks",), ("scores",)):
        assert cause({"prompt": "q", "completions": [" a"], "scores": [1]}, "lists", *needs) == "no_comparison"


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [([1, 2, 3], (1, 2, 3)), ([2, 0, 2], (2, 1, 2)), ([1, 1, 2], (1, 1, 3)), ([-1, 5, 3], (1, 3, 2))],
)
def test_ranks_of_a_list_start_at_1(ranks, expected):
    """Each rank is one more than the number of better responses, for any numbering."""
    record = converted({**LIST, "ranks": ranks}, "lists", "ranks")
    assert record.ranks == expected
    assert record.scores == ()
    assert record.changes == ()


def test_scores_become_ranks_where_ranks_are_needed():
    row = {**LIST, "scores": [0.5, 2, 0.5]}
    assert converted(row, "lists", "ranks").ranks == (2, 1, 2)
    assert converted(row, "lists", "ranks").scores == (0.5, 2.0, 0.5)
    assert converted(row, "lists").ranks == ()
    schema = schema_of(*row)
    (note,) = announce(schema, "lists", frozenset({"ranks"}))
    assert note.startswith("scores → ranks")
    assert announce(schema, "lists") == announce(schema, "lists", frozenset({"scores"})) == []


@pytest.mark.parametrize(("preference", "ranks"), [(1, (1, 2)), (0, (2, 1)), (None, (1, 2))])
def test_a_pair_is_a_list_of_two(preference, ranks):
    record = converted(pair(preference=preference), "lists", "ranks")
    assert record.responses == (" yes 0", " no 0")
    assert record.ranks == ranks
    note = announce(schema_of("prompt", "chosen", "rejected", "preference"), "lists")[0]
    assert note.startswith("pairs → lists")


def test_a_pair_that_is_no_order_is_no_list():
    assert cause(pair(preference=0.75), "lists") == "soft_label"
    assert cause(pair(votes=[3, 1]), "lists") == "soft_label"
    assert cause(pair(votes=[2, 2]), "lists") == "no_comparison"
    assert converted(pair(votes=[2, 2], score_chosen=1, score_rejected=1), "lists", "scores").ranks == (1, 1)


def test_scores_never_follow_from_an_order():
    scores = frozenset({"scores"})
    for columns, shape, lacking in (
        (("prompt", "chosen", "rejected"), "pairs", "score_chosen"),
        (("prompt", "chosen", "rejected", "score_chosen"), "pairs", "score_rejected"),
        (("prompt", "chosen", "rejected"), "lists", "score_chosen"),
        (("prompt", "completions", "ranks"), "lists", "scores"),
        (("prompt", "completions", "ranks"), "pairs", "scores"),
        (("prompt", "completions", "comparisons"), "pairs", "scores"),
    ):
        way_out = f"data.columns.{lacking}=NAME"
        with raises(DataError, "missing_column", key=f"data.columns.{lacking}", mentions=[f"'{lacking}'", way_out]):
            announce(schema_of(*columns), shape, scores)
    announce(schema_of("prompt", "chosen", "rejected", "score_chosen", "score_rejected"), "pairs", scores)
    announce(schema_of("prompt", "completions", "scores"), "pairs", scores)


def test_a_row_without_the_scores_that_others_have():
    columns = ("score_chosen", "score_rejected")
    assert cause(pair(), "pairs", "scores", columns=columns) == "missing_value"
    assert converted(pair(), "pairs", columns=columns).scores == ()


@pytest.mark.parametrize(("chosen", "rejected"), [(1, 1), (1, 2)])
def test_a_score_tie_is_a_defect_where_the_gap_must_be_positive(chosen, rejected):
    row = pair(score_chosen=chosen, score_rejected=rejected)
    assert cause(row, "pairs", "strict_scores") == "score_tie"
    assert converted(row, "pairs", "scores").scores == (chosen, rejected)


def test_strict_scores_of_a_list_hold_between_compared_responses():
    assert len(converted({**LIST, "scores": [1, 3, 1]}, "pairs", "strict_scores").comparisons) == 2


def test_optional_columns_an_objective_cannot_use_are_refused_by_name():
    everything = schema_of("prompt", "chosen", "rejected", *PURPOSE)
    announce(everything, "pairs")
    for column, use in PURPOSE.items():
        only = schema_of("prompt", "chosen", "rejected", column)
        others = frozenset(get_args(Use)) - {use}
        with raises(DataError, "not_used_by_objective", mentions=[f"data.ignore=[{column}]"]):
            announce(only, "pairs", uses=others)
        assert announce(only, "pairs", uses=frozenset({use})) == []
    with raises(DataError, "not_used_by_objective", mentions=["data.ignore=[weight]"]):
        announce(schema_of("prompt", "completions", "ranks", "weight"), "lists", uses=frozenset())


def test_scores_and_ranks_may_go_unused():
    scored = schema_of("prompt", "chosen", "rejected", "score_chosen", "score_rejected")
    assert announce(scored, "pairs", uses=frozenset()) == []
    ranked = schema_of("prompt", "completions", "ranks")
    assert [note.code for note in announce(ranked, "pairs", uses=frozenset())] == ["lists_to_pairs"]


def test_every_shape_has_its_uses():
    assert set(USES) == IN_FILES
    assert set(PURPOSE.values()) == set(get_args(Use))
