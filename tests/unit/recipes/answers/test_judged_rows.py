"""Rows of every shape as a judge reads them."""

import json

import pytest

from support.errors import raises
from tiltlm.core import DataError
from tiltlm.data import DataSettings
from tiltlm.recipes.answers.judged_rows import read_judged


def read(tmp_path, *rows, **settings):
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_judged(DataSettings(str(file), **settings))


def test_answers_with_all_their_columns(tmp_path):
    row = {
        "id": "a", "prompt": "p", "completions": ["x", "y"], "prompt_ids": [1], "completions_ids": [[2], [3]],
        "completions_ended": [True, False], "logps": [-1.0, -2.0], "behaviour_logps": [-1.0, -2.0], "temperature": 1.0,
        "seed": 0, "model": "m", "model_digest": "d", "engine": "own", "exact": True, "untruncated": True,
        "answer": "42", "category": "sums",
    }  # fmt: skip
    data = read(tmp_path, row)
    (found,) = data.rows
    assert data.shape == "lists"
    assert (found.prompt, found.responses, found.ended) == ("p", ("x", "y"), (True, False))
    assert dict(found.extras) == {"answer": "42", "category": "sums"}
    assert dict(found.values) == row
    assert [item.ended for item in found.items] == [True, False]


@pytest.mark.parametrize(
    "order", [{"scores": [1, 2]}, {"ranks": [1, 1]}, {"comparisons": [[0, 1]]}, {"scores": [1, None]}]
)
def test_an_order_that_the_rows_have_is_not_read(tmp_path, order):
    (found,) = read(tmp_path, {"prompt": "p", "completions": ["x", "y"], **order}).rows
    assert found.responses == ("x", "y")
    assert dict(found.extras) == {}


def test_pairs_and_what_is_known_about_them(tmp_path):
    row = {"prompt": "p", "chosen": "x", "rejected": "y", "preference": 0.7, "score_chosen": 1, "score_rejected": 2}
    data = read(tmp_path, {**row, "rubric": ["be kind"]})
    assert data.shape == "pairs"
    assert data.rows[0].responses == ("x", "y")
    assert dict(data.rows[0].extras) == {"rubric": ["be kind"]}


def test_turns_and_whole_conversations(tmp_path):
    user, other = {"role": "user", "content": "hello"}, {"role": "user", "content": "and?"}
    row = {
        "chosen": [user, {"role": "assistant", "content": "x"}],
        "rejected": [user, {"role": "assistant", "content": "y"}],
    }
    (found,) = read(tmp_path, row).rows
    assert (found.prompt, found.responses) == ((user,), ("x", "y"))
    prompt = [user, {"role": "assistant", "content": "a"}, other]
    (found,) = read(tmp_path, {"prompt": prompt, "completions": ["x", "y"], "system": "be kind"}).rows
    assert found.prompt == ({"role": "system", "content": "be kind"}, *prompt)
    (found,) = read(tmp_path, {"prompt": "p", "system": "be kind", "completions": ["x", "y"]}).rows
    assert found.prompt == ({"role": "system", "content": "be kind"}, {"role": "user", "content": "p"})


def test_another_tools_pairs_come_out_in_our_columns(tmp_path):
    row = {"prompt": "p", "response_a": "x", "response_b": "y", "winner": "b", "domain": "d"}
    (found,) = read(tmp_path, row).rows
    assert found.responses == ("y", "x")
    assert {c: found.values[c] for c in ("prompt", "chosen", "rejected")} == {
        "prompt": "p",
        "chosen": "y",
        "rejected": "x",
    }
    assert "winner" not in found.values


def test_named_and_ignored_columns(tmp_path):
    row = {"passage": "p", "completions": ["x", "y"], "secret": 1, "remark": 2}
    data = read(tmp_path, row, columns={"prompt": "passage"}, ignore=("secret",))
    assert data.rows[0].prompt == "p"
    assert "remark" in data.rows[0].extras


def test_single_responses(tmp_path):
    data = read(tmp_path, {"prompt": "p", "completion": "x", "answer": 3})
    assert data.shape == "demonstrations"
    assert (data.rows[0].responses, dict(data.rows[0].extras)) == (("x",), {"answer": 3})
    assert read(tmp_path, {"prompt": "p", "completion": "x", "label": True}).shape == "unpaired"


def test_defects_are_counted_as_in_training(tmp_path):
    good = {"prompt": "p", "completions": ["x", "y"]}
    with raises(DataError, "too_many_defects"):
        read(tmp_path, good, {"prompt": "p", "completions": ["x", ""]})
    data = read(tmp_path, good, {"completions": ["x", "y"]}, max_bad=0.5)
    assert (len(data.rows), data.accounting.dropped) == (1, 1)
    with raises(DataError, "no_responses"):
        read(tmp_path, {"prompt": "p", "remark": 1})
