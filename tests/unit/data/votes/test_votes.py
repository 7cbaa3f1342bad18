"""Files of votes: long and wide, every way to name an answer, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import raises
from tiltlm.core.errors import ConfigError, DataError, TiltError
from tiltlm.data import DataSettings
from tiltlm.data.votes import read_votes

PAIR = {"prompt": "Why?", "answer_a": "Because.", "answer_b": "No idea."}


@pytest.fixture
def read(tmp_path):
    def read(rows, name="votes.jsonl", **settings):
        path = tmp_path / name
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        return read_votes(DataSettings(train=str(path), **settings))

    return read


def choices(votes):
    return [
        (votes.items[i].id, votes.annotators[j], int(c), int(left))
        for i, j, c, left in zip(votes.item, votes.annotator, votes.choice, votes.left, strict=True)
    ]


def test_a_long_table_in_csv(read):
    text = "id,prompt,answer_a,answer_b,annotator,vote\n2,p,x,y,bob,right\n1,p,u,v,ann,left\n1,p,u,v,bob,tie\n"
    votes = read(text, "votes.csv")
    assert choices(votes) == [("1", "ann", 0, 0), ("1", "bob", 2, -1), ("2", "bob", 1, 0)]
    assert (votes.items[0].prompt, votes.items[0].a, votes.items[0].b) == ("p", "u", "v")


def test_a_list_of_votes_in_a_row(read):
    listed = [{"annotator": "ann", "vote": "left"}, {"annotator": "bob", "vote": "both_bad"}]
    votes = read([{"id": "x", **PAIR, "votes": listed}])
    assert choices(votes) == [("x", "ann", 0, 0), ("x", "bob", 2, -1)]
    assert votes.is_bad.tolist() == [False, True]


def test_both_forms_say_the_same(read):
    rows = [("1", "ann", "a"), ("1", "bob", "b"), ("2", "ann", "tie")]
    long = read([{"id": i, "annotator": who, "vote": vote} for i, who, vote in rows])
    wide = read(
        [
            {"id": i, "votes": [{"annotator": who, "vote": vote} for item, who, vote in rows if item == i]}
            for i in ("2", "1")
        ]
    )
    assert choices(long) == choices(wide)


@pytest.mark.parametrize(
    ("vote", "choice"),
    [
        *(("left", 0), ("Right", 1), ("a", 0), ("B", 1), ("answer_b", 1), ("model_a", 0), ("tie", 2), ("Draw", 2)),
        *(("both_bad", 2), ("tie (bothbad)", 2), ("both good", 2)),
    ],
)
def test_names_of_votes(read, vote, choice):
    votes = read([{**PAIR, "annotator": "ann", "vote": vote}])
    assert votes.choice.tolist() == [choice]


@pytest.mark.parametrize("form", [1, 1.0, "1", "1.0", "response_1"])
def test_numbers_name_answers_whose_columns_have_them(read, form):
    row = {"prompt": "p", "response_1": "x", "response_2": "y", "annotator": "ann"}
    assert read([{**row, "vote": form}]).choice.tolist() == [0]
    assert read([{**row, "vote": 2}]).choice.tolist() == [1]


def test_numbers_alone_mean_nothing(read):
    with raises(DataError, "too_many_defects"):
        read([{**PAIR, "annotator": "ann", "vote": 1}])


def test_chosen_and_rejected_may_be_the_answers(read):
    row = {"prompt": "p", "chosen": "x", "rejected": "y", "annotator": "ann", "vote": "rejected"}
    assert read([row]).choice.tolist() == [1]


def test_the_side_is_kept_and_the_answer_is_found(read):
    rows = [{**PAIR, "annotator": f"w{k}", "vote": vote, "left": left} for k, (vote, left) in enumerate(
        [("left", "b"), ("right", "b"), ("left", "a"), ("a", "b"), ("tie", "b")])]  # fmt: skip
    votes = read(rows)
    assert votes.choice.tolist() == [1, 0, 0, 0, 2]
    assert votes.left.tolist() == [1, 1, 0, 1, 1]
    assert votes.sides_vary


def test_a_row_with_the_answers_in_the_other_order_is_the_same_item(read):
    mirrored = {"prompt": PAIR["prompt"], "answer_a": PAIR["answer_b"], "answer_b": PAIR["answer_a"]}
    votes = read([{**PAIR, "annotator": "ann", "vote": "left"}, {**mirrored, "annotator": "bob", "vote": "left"}])
    assert len(votes.items) == 1
    assert votes.choice.tolist() == [0, 1]
    assert votes.left.tolist() == [0, 1]


def test_an_id_has_one_pair_of_answers(read):
    other = {**PAIR, "answer_b": "Another one."}
    row = {"id": 1, "annotator": "ann", "vote": "a"}
    votes = read([{**row, **PAIR}] * 30 + [{**row, **other}])
    assert votes.accounting.losses["wrong_type"].examples[0].startswith("votes.jsonl:31")


def test_texts_may_be_in_another_row(read):
    rows = [{"id": 1, "annotator": "ann", "vote": "a"}, {"id": 1, **PAIR, "annotator": "bob", "vote": "b"}]
    votes = read(rows)
    assert votes.items[0].has_text
    assert votes.choice.tolist() == [0, 1]


def test_arena_votes_are_read_as_they_are(read):
    """Conversations of two models, the winner by side, the judge; a question is asked of many pairs of models."""

    def said(text):
        return [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": text}]

    rows = [
        {"question_id": 81, "model_a": a, "model_b": b, "winner": winner, "judge": who, "turn": 1,
         "conversation_a": said(a), "conversation_b": said(b)}
        for a, b, winner, who in [("x", "y", "model_a", "ann"), ("y", "x", "model_a", "bob"), ("x", "z", "tie", "ann"),
                                  ("x", "z", "tie (bothbad)", "bob")]
    ]  # fmt: skip
    votes = read(rows)
    assert len(votes.items) == 2
    by_item = {votes.items[k].b[-1]["content"]: votes.choice[votes.item == k].tolist() for k in range(2)}
    assert by_item == {"y": [0, 1], "z": [2, 2]}
    assert votes.is_bad.sum() == 1


def test_parquet_with_lists_of_structs(tmp_path):
    """Arrow gives every vote all fields, with nulls where it lacks one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    listed = [[{"annotator": "ann", "vote": "left", "left": "b"}, {"annotator": "bob", "vote": "b"}], []]
    table = pa.table({"id": ["1", "2"], "votes": listed})
    pq.write_table(table, tmp_path / "votes.parquet")
    votes = read_votes(DataSettings(train=str(tmp_path / "votes.parquet")))
    assert choices(votes) == [("1", "ann", 1, 1), ("1", "bob", 1, -1)]
    assert len(votes.items) == 2


def test_skips_say_nothing(read):
    rows = [{**PAIR, "annotator": "ann", "vote": "skip"}, {**PAIR, "annotator": "bob", "vote": "a"}]
    votes = read(rows)
    assert (votes.num_skips, len(votes.choice)) == (1, 1)
    with raises(DataError, "no_rows_left", key="data.train"):
        read(rows[:1])


def test_columns_of_other_names(read):
    rows = [{"nr": 7, "who": "ann", "said": "a", "comment": "hm"}]
    votes = read(rows, columns={"id": "nr", "annotator": "who", "vote": "said"})
    assert choices(votes) == [("7", "ann", 0, -1)]
    assert [note.code for note in votes.notes] == ["unused_columns"]


@pytest.mark.parametrize(
    ("rows", "settings", "error", "code", "key"),
    [
        ([{"id": 1, "vote": "a"}], {}, DataError, "missing_column", "data.columns.annotator"),
        ([{"id": 1, "annotator": "a"}], {}, DataError, "missing_column", "data.columns.vote"),
        ([{"annotator": "a", "vote": "a"}], {}, DataError, "missing_column", "data.columns.id"),
        ([{"id": 1}], {"columns": {"vote": "v"}}, DataError, "no_such_column", "data.columns.vote"),
        ([{"id": 1}], {"columns": {"score": "id"}}, ConfigError, "unknown_name", "data.columns.score"),
        ([{"id": 1}], {"ignore": ("v",)}, DataError, "no_such_column", "data.ignore"),
        ([{"id": 1, "annotator": None, "vote": "a"}], {}, DataError, "too_many_defects", "data.max_bad"),
        ([{"id": 1, "annotator": "x", "vote": None}], {}, DataError, "too_many_defects", "data.max_bad"),
        ([{"id": 1, "annotator": "x", "vote": "maybe"}], {}, DataError, "too_many_defects", "data.max_bad"),
        ([{"id": 1, "votes": ["left"]}], {}, DataError, "too_many_defects", "data.max_bad"),
    ],
)
def test_what_cannot_be_read(read, rows, settings, error, code, key):
    with raises(error, code, key=key):
        read(rows, **settings)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["a", "left"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["annotator", "vote", "x"]), inner),
    max_leaves=6,
)
ROWS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["id", "prompt", "answer_a", "answer_b", "annotator", "vote", "votes", "left"], VALUES)
)


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_no_row_is_a_traceback(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("fuzz") / "votes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        votes = read_votes(DataSettings(train=str(path), max_bad=1.0))
    except TiltError:
        return
    assert votes.accounting.total == len(rows)
    assert np.all(np.diff(votes.item) >= 0)
