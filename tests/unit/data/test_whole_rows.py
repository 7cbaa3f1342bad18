"""HelpSteer's rows of one prompt are one list; all other rows stay as they are."""

import pytest

from tiltlm.data import DataSettings, load_data
from tiltlm.data.accounting import Defect
from tiltlm.data.files.sources import read_rows
from tiltlm.data.files.text_files import Row
from tiltlm.data.whole_rows import apart, join_rows, whole_rows


def scored(prompt, response, helpfulness, **more):
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "verbosity": 1, **more}


HELPSTEER = [
    scored("question 0", " yes", 4), scored("question 0", " no", 1), scored("question 0", " maybe", 1),
    scored("question 1", " yes", 3), scored("question 1", " no", 3),
    scored("question 2", " yes", 0), scored("question 2", " no", 2),
]  # fmt: skip


def joined(rows):
    return list(join_rows(Row(f"a.jsonl:{k}", row) for k, row in enumerate(rows, start=1)))


def test_rows_of_one_prompt_that_follow_each_other_are_one():
    found = joined([*HELPSTEER, scored("question 0", " again", 2, source="late")])
    assert [row.location for row in found] == ["a.jsonl:1", "a.jsonl:4", "a.jsonl:6", "a.jsonl:8"]
    assert found[0].values == {
        "prompt": "question 0", "response": [" yes", " no", " maybe"], "helpfulness": [4, 1, 1], "verbosity": [1, 1, 1],
    }  # fmt: skip
    assert found[3].values["source"] == "late"


def test_a_column_that_only_some_rows_have_is_null_for_the_others():
    (found,) = joined([scored("q", "a", 1), scored("q", "b", 2, complexity=3)])
    assert found.values["complexity"] == [None, 3]


def test_other_rows_and_defects_stay_in_their_place():
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    broken = Row("a.jsonl:2", {}, Defect("malformed_json", "torn"))
    rows = [
        Row("a.jsonl:1", scored("q", "a", 1)),
        broken,
        Row("a.jsonl:3", scored("q", "b", 2)),
        Row("a.jsonl:4", pair),
    ]
    found = list(join_rows(rows))
    assert [row.location for row in found] == [f"a.jsonl:{k}" for k in (1, 2, 3, 4)]
    assert found[1] is broken
    assert found[3].values is pair
    assert list(join_rows([])) == []


@pytest.mark.parametrize("prompt", [None, ["a"], {"a": 1}, 3])
def test_prompts_of_any_type_are_compared(prompt):
    (found,) = joined([scored(prompt, "a", 1), scored(prompt, "b", 2)])
    assert found.values["prompt"] == prompt


def test_training_compares_the_responses_of_a_prompt(jsonl, encoder):
    settings = DataSettings(train=jsonl(HELPSTEER), max_bad=0.5)
    data = load_data(settings, encoder, "pairs")
    assert data.accounting.total == 3
    assert list(data.accounting.losses) == ["no_comparison"]  # the scores of question 1 are equal
    assert [[(c.chosen, c.rejected) for c in example.comparisons] for example in data.train] == [
        [(0, 1), (0, 2)],
        [(1, 0)],
    ]
    assert data.train[0].scores == (4.0, 1.0, 1.0)
    assert len(list(whole_rows(read_rows(DataSettings(train=settings.train, limit=2))))) == 2


def test_joined_rows_stay_as_they_are_and_come_apart_again():
    found = joined(HELPSTEER)
    assert list(join_rows(found)) == found
    assert [dict(row) for whole in found for row in apart(whole.values)] == HELPSTEER
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert list(apart(pair)) == [pair]
