"""Roles of columns, shapes of data, and refusal of unknown columns."""

import pickle

import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.accounting import Defect
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.rows.columns import detect
from tiltlm.data.rows.formats.catalog import FORMATS
from tiltlm.data.rows.formats.names import GUESSES, NAMES
from tiltlm.data.rows.roles import ALL_ROLES, METADATA


def find(*columns, reference=False, **settings):
    seen = {column: f"a.jsonl:{i + 1}" for i, column in enumerate(columns)}
    return detect(seen, DataSettings(train="a.jsonl", **settings), use_reference_columns=reference)


@pytest.mark.parametrize(
    ("columns", "shape"),
    [
        (("prompt", "chosen", "rejected"), "pairs"),
        (("chosen", "rejected"), "pairs"),
        (("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "weight", "offset", "votes"), "pairs"),
        (("prompt", "completion", "label"), "unpaired"),
        (("messages", "label"), "unpaired"),
        (("prompt", "completions", "ranks"), "lists"),
        (("prompt", "completions", "scores", "id", "source"), "lists"),
        (("prompt", "completions", "comparisons"), "lists"),
        (("prompt", "completion"), "demonstrations"),
        (("messages", "tools", "chat_template_kwargs"), "demonstrations"),
        (("text",), "demonstrations"),
    ],
)
def test_shapes(columns, shape):
    schema = find(*columns)
    assert schema.shape == shape
    assert schema.roles == set(columns)
    assert schema.unused == ()


def test_all_unknown_columns_are_in_one_message_with_settings_that_work():
    facts = [
        "'inner'",
        "'user'",
        "'zzz'",
        "data.ignore=[inner, user, zzz]",
        "data.columns.prompt=user data.ignore=[inner, zzz]",
    ]
    with raises(DataError, "unknown_column", key="data.columns", row="a.jsonl:5", mentions=facts) as caught:
        find("chosen", "rejected", "zzz", "user", "inner")
    assert caught.value.exit_code == 2
    schema = find("chosen", "rejected", "zzz", "user", "inner", columns={"prompt": "user"}, ignore=("inner", "zzz"))
    assert schema.roles == {"prompt", "chosen", "rejected"}
    assert schema.unused == ("inner", "zzz")
    row = {"chosen": "a", "rejected": "b", "user": "c", "inner": 1, "zzz": 2}
    assert schema.values(row) == {"chosen": "a", "rejected": "b", "prompt": "c"}


@pytest.mark.parametrize(
    ("columns", "proposed", "not_proposed"),
    [
        (("prompt", "chosen", "rejected", "margin"), "data.columns.offset=margin", "data.columns.prompt"),
        (("chosen", "rejected", "zzz"), "data.columns.prompt=zzz", "data.columns.ROLE"),
        (("prompt", "chosen", "rejected", "zzz"), "data.columns.ROLE=", "data.columns.prompt"),
        (("chosen", "rejected", "zzz", "external"), "data.columns.ROLE=", "data.columns.prompt"),
        (("chosen", "rejected", "question", "context"), "question", "data.columns.prompt=context"),
        (("prompt", "chosen", "rejected", "question"), "data.columns.ROLE=", "data.columns.prompt=question"),
    ],
)
def test_only_settings_that_would_work_are_proposed(columns, proposed, not_proposed):
    with raises(DataError, "unknown_column", mentions=[proposed]) as caught:
        find(*columns)
    assert not_proposed not in str(caught.value)


def test_columns_for_pictures_are_refused_by_what_they_are():
    with raises(DataError, "not_supported", row="a.jsonl:4", mentions=["'images'", "data.ignore=[images]"]):
        find("prompt", "chosen", "rejected", "images")


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        (("question", "chosen", "rejected"), {"prompt", "chosen", "rejected"}),
        (("Prompt", "Chosen", "REJECTED"), {"prompt", "chosen", "rejected"}),
        (("instruction", "output"), {"prompt", "completion"}),
        (("system", "question", "chosen", "rejected"), {"system", "prompt", "chosen", "rejected"}),
        (("conversations", "chosen", "rejected"), {"prompt", "chosen", "rejected"}),
        (("conversations",), {"messages"}),
        (("messages", "kto_tag"), {"messages", "label"}),
        (("", "Unnamed: 0", "prompt", "chosen", "rejected"), {"prompt", "chosen", "rejected"}),
        (("prompt", "winner", "loser"), {"prompt", "chosen", "rejected"}),
        (("Question", "Answer A", "Answer B", "Winner"), {"prompt", "answer_a", "answer_b", "winner"}),
        (("conversation_a", "conversation_b", "winner", "model_a", "model_b"), {"answer_a", "answer_b", "winner"}),
        (("prompt_input_ids", "chosen_input_ids", "rejected_input_ids"), {"prompt_ids", "chosen_ids", "rejected_ids"}),
    ],
)
def test_other_names_are_read_where_their_meaning_is_plain_and_announced(columns, roles):
    schema = find(*columns)
    assert schema.roles == roles
    renamed = [column for column in columns if column in schema.renamed]
    assert all(any(column in note for note in schema.notes) for column in renamed)


@pytest.mark.parametrize(
    "columns",
    [
        ("instruction", "query", "chosen", "rejected"),  # two could be the prompt
        ("prompt", "question", "chosen", "rejected"),
        ("prompt", "response_0", "response_1", "response_2", "winner"),
        ("prompt", "response_a", "winner"),
    ],
)
def test_names_with_two_meanings_are_not_read(columns):
    with pytest.raises(DataError) as caught:
        find(*columns)
    assert caught.value.code in ("unknown_column", "missing_column")


@pytest.mark.parametrize(
    ("columns", "winner", "expected"),
    [
        (("answer_a", "answer_b"), "A", ("x", "y", 1.0)),
        (("answer_a", "answer_b"), "b", ("y", "x", 1.0)),
        (("answer_a", "answer_b"), "answer_b", ("y", "x", 1.0)),
        (("answer_a", "answer_b"), "model_a", ("x", "y", 1.0)),
        (("answer_a", "answer_b"), "tie (bothbad)", ("x", "y", 0.5)),
        (("answer_a", "answer_b"), "Tie", ("x", "y", 0.5)),
        (("answer_1", "answer_2"), 2, ("y", "x", 1.0)),
        (("answer_1", "answer_2"), "1.0", ("x", "y", 1.0)),
        (("response_0", "response_1"), 1.0, ("y", "x", 1.0)),
        (("answer_a", "answer_b"), 1, "wrong_type"),
        (("answer_1", "answer_2"), 0, "wrong_type"),
        (("answer_1", "answer_2"), -1, "wrong_type"),
        (("answer_a", "answer_b"), "neither of them", ("x", "y", 0.5)),
        (("answer_a", "answer_b"), "maybe", "wrong_type"),
        (("answer_a", "answer_b"), "", "missing_value"),
        (("answer_a", "answer_b"), None, "missing_value"),
    ],
)
def test_two_answers_and_a_winner_are_a_pair(columns, winner, expected):
    schema = find(*columns, "winner")
    row = dict(zip((*columns, "winner"), ("x", "y", winner), strict=True))
    assert schema.shape == "pairs"
    if isinstance(expected, str):
        with pytest.raises(Defect) as caught:
            schema.values(row)
        assert caught.value.code == expected
    else:
        assert schema.values(row) == dict(zip(("chosen", "rejected", "preference"), expected, strict=True))


def test_named_answers_and_the_names_of_their_columns_as_winner():
    schema = find("q", "left", "right", "best", columns={
        "prompt": "q", "answer_a": "left", "answer_b": "right", "winner": "best",
    })  # fmt: skip
    row = {"q": "?", "left": "x", "right": "y", "best": "right"}
    assert schema.values(row) == {"prompt": "?", "chosen": "y", "rejected": "x", "preference": 1.0}
    with raises(DataError, "missing_column", mentions=["data.columns.winner"]):
        find("prompt", "answer_a", "answer_b")


@pytest.mark.parametrize(("value", "chosen"), [(-3, "x"), (-1, "x"), (1, "y"), ("2", "y"), (0, "x")])
def test_helpsteer_states_the_winner_by_its_sign(value, chosen):
    schema = find("context", "response1", "response2", "overall_preference", "domain", "individual_preference")
    row = {"context": "?", "response1": "x", "response2": "y", "overall_preference": value}
    values = schema.values(row)
    assert (values["prompt"], values["chosen"], values["preference"]) == ("?", chosen, 1.0 if value else 0.5)
    assert schema.unused == ("domain", "individual_preference")
    assert pickle.loads(pickle.dumps(schema)).values(row) == values  # worker processes get a copy


@pytest.mark.parametrize("answers", [("output",), ("chosen", "rejected"), ("output", "text")])
@pytest.mark.parametrize(
    ("given", "prompt"),
    [("1, 2, 3", "Add.\n\n1, 2, 3"), ("", "Add."), (None, "Add."), (" a ", "Add.\n\n a "), (["x"], "wrong_type")],
)
def test_an_instruction_and_its_input_are_one_prompt_as_in_alpaca(answers, given, prompt):
    schema = find("instruction", "input", *answers)
    assert schema.roles == {"prompt", "prompt_input", *({"completion"} if "output" in answers else answers)}
    assert [note.code for note in schema.notes] == ["format", "columns_by_name", "input_joined"]
    assert schema.unused == (("text",) if "text" in answers else ())
    row = {"instruction": "Add.", "input": given, **dict.fromkeys(answers, "6")}
    if prompt == "wrong_type":
        with pytest.raises(Defect) as caught:
            schema.values(row)
        assert caught.value.code == prompt
    else:
        values = schema.values(row)
        assert values["prompt"] == prompt
        assert "prompt_input" not in values
        assert pickle.loads(pickle.dumps(schema)).values(row) == values  # worker processes get a copy


def test_an_input_without_an_instruction_is_not_read():
    with raises(DataError, "unknown_column", mentions=["data.columns.prompt=input"]):
        find("input", "output")
    with raises(DataError, "missing_column", key="data.columns", row="a.jsonl:1", mentions=["data.columns.prompt"]):
        find("input", "output", columns={"prompt_input": "input"})
    schema = find("task_text", "context", "output", columns={"prompt": "task_text", "prompt_input": "context"})
    assert schema.values({"task_text": "?", "context": "x", "output": "y"}) == {"prompt": "?\n\nx", "completion": "y"}


def test_nectar_has_ranks_in_its_answers():
    schema = find("prompt", "answers", "turns", "num_responses", "good_natured")
    assert schema.shape == "lists"
    answers = [{"answer": "x", "rank": 2.0, "model": "m"}, {"answer": "y", "rank": 1.0, "model": "n"}]
    assert schema.values({"prompt": "?", "answers": answers})["completions"] == ["x", "y"]
    assert schema.values({"prompt": "?", "answers": answers})["ranks"] == [2.0, 1.0]
    with pytest.raises(Defect) as caught:
        schema.values({"prompt": "?", "answers": ["x"]})
    assert caught.value.code == "wrong_type"


def test_metadata_and_the_repeated_conversation_are_listed_as_unused():
    schema = find("prompt", "prompt_id", "chosen", "rejected", "messages", "score_chosen", "score_rejected", "metadata")
    assert schema.unused == ("messages", "metadata", "prompt_id")


@pytest.mark.parametrize(
    ("columns", "code", "mentions"),
    [
        (("prompt", "chosen"), "missing_column", ("`rejected`",)),
        (("prompt", "rejected"), "missing_column", ("`chosen`",)),
        (("prompt",), "no_responses", ("chosen", "completions")),
        (("prompt", "label"), "no_responses", ("chosen", "completions")),
        (("prompt", "completions"), "needs_one_order", ("`ranks`", "`scores`", "`comparisons`")),
        (("prompt", "completions", "ranks", "scores"), "needs_one_order", ("`ranks`", "`scores`", "`comparisons`")),
        (("prompt", "completion", "text"), "several_responses", ("completion", "text")),
    ],
)
def test_roles_that_do_not_go_together(columns, code, mentions):
    with raises(DataError, code, key="data.columns", mentions=[*mentions, ", ".join(sorted(columns))]):
        find(*columns)


@pytest.mark.parametrize(
    ("columns", "without_use"),
    [
        (("prompt", "chosen", "rejected", "label"), "label"),
        (("prompt", "completion", "offset"), "offset"),
        (("prompt", "completion", "label", "votes"), "votes"),
        (("prompt", "chosen", "rejected", "completion"), "completion"),
    ],
)
def test_a_column_that_its_shape_cannot_use(columns, without_use):
    row = f"a.jsonl:{len(columns)}"
    with raises(DataError, "column_without_use", row=row, mentions=[row, f"data.ignore=[{without_use}]"]):
        find(*columns)


def test_all_columns_without_use_are_in_one_message():
    with raises(DataError, "column_without_use", key="data.ignore", mentions=["data.ignore=[completion, label]"]):
        find("prompt", "chosen", "rejected", "label", "completion")


def test_reference_columns_only_where_the_reference_is_named_so():
    columns = ("prompt", "chosen", "rejected", "ref_chosen_logps", "ref_rejected_logps")
    facts = ["reference=columns", "data.ignore=[ref_chosen_logps, ref_rejected_logps]"]
    with raises(DataError, "unused_reference_columns", key="reference.name", mentions=facts):
        find(*columns)
    assert find(*columns, reference=True).roles == set(columns)


@pytest.mark.parametrize(
    ("settings", "error", "code", "key", "mentions"),
    [
        ({"columns": {"promt": "q"}}, ConfigError, "unknown_name", "data.columns.promt", ["data.columns.promt"]),
        ({"columns": {"prompt": "q"}}, DataError, "no_such_column", "data.columns.prompt", ["prompt=q", "chosen"]),
        ({"columns": {"chosen": "rejected"}}, DataError, "conflict", "data.columns.chosen", ["data.ignore=[chosen]"]),
        ({"ignore": ("q",)}, DataError, "no_such_column", "data.ignore", ["data.ignore=[q]", "chosen"]),
    ],
)
def test_settings_that_fit_no_column(settings, error, code, key, mentions):
    with raises(error, code, key=key, mentions=mentions):
        find("chosen", "rejected", **settings)


def test_a_name_means_one_thing():
    names = [ALL_ROLES, METADATA, NAMES.keys(), GUESSES.keys()]
    assert len(set().union(*names)) == sum(map(len, names))
    given = [role for table in (NAMES, GUESSES, *(form.roles for form in FORMATS)) for role in table.values()]
    assert set(given) <= ALL_ROLES
