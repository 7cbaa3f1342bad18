"""Roles of columns, shapes of data, and refusal of unknown columns."""

import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.rows.columns import ALIASES, ALL_ROLES, METADATA, detect


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


def test_question_beside_chosen_and_rejected_is_refused_with_the_way_out():
    facts = ["a.jsonl:3", "'question'", "data.columns.prompt=question", "data.ignore=[question]"]
    with raises(DataError, "unknown_column", key="data.columns", row="a.jsonl:3", mentions=facts) as caught:
        find("chosen", "rejected", "question")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("column", "role"), [("margin", "offset"), ("response", "completion"), ("zzz", "ROLE"), ("Question", "ROLE")]
)
def test_the_refusal_guesses_the_role(column, role):
    with raises(DataError, "unknown_column", row="a.jsonl:4", mentions=[f"data.columns.{role}={column}"]):
        find("prompt", "chosen", "rejected", column)


def test_the_way_out_works():
    renamed = find("chosen", "rejected", "question", columns={"prompt": "question"})
    assert renamed.roles == {"prompt", "chosen", "rejected"}
    row = {"chosen": "a", "rejected": "b", "question": "c"}
    assert renamed.values(row) == {"chosen": "a", "rejected": "b", "prompt": "c"}
    ignored = find("chosen", "rejected", "question", ignore=("question",))
    assert ignored.values(row) == {"chosen": "a", "rejected": "b"}
    assert ignored.unused == ("question",)


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
    assert not ALL_ROLES & METADATA
    assert not ALL_ROLES & ALIASES.keys()
    assert set(ALIASES.values()) <= ALL_ROLES
