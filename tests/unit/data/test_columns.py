"""What a column is for: the shapes of data, and the refusal of what no role claims."""

import pytest

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.columns import ALIASES, ALL_ROLES, METADATA, detect
from tiltlm.data.settings import DataSettings


def find(*columns, reference=False, **settings):
    seen = {column: f"a.jsonl:{i + 1}" for i, column in enumerate(columns)}
    return detect(seen, DataSettings(train="a.jsonl", **settings), use_reference_columns=reference)


@pytest.mark.parametrize(
    ("columns", "shape"),
    [
        (("prompt", "chosen", "rejected"), "pairs"),
        (("chosen", "rejected"), "pairs"),
        (("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "weight", "offset", "votes"), "pairs"),
        (("prompt", "completion", "label"), "labelled"),
        (("messages", "label"), "labelled"),
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
    with pytest.raises(DataError) as caught:
        find("chosen", "rejected", "question")
    message = str(caught.value)
    for part in ("a.jsonl:3", "'question'", "data.columns.prompt=question", "data.ignore=[question]"):
        assert part in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("column", "role"), [("margin", "offset"), ("response", "completion"), ("zzz", "ROLE"), ("Question", "ROLE")]
)
def test_the_refusal_guesses_the_role(column, role):
    with pytest.raises(DataError, match=f"data.columns.{role}={column}"):
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
    ("columns", "message"),
    [
        (("prompt", "chosen"), "`chosen` and `rejected` go together"),
        (("prompt", "rejected"), "`chosen` and `rejected` go together"),
        (("prompt",), "no column holds responses"),
        (("prompt", "label"), "no column holds responses"),
        (("prompt", "completions"), "exactly one of `ranks`, `scores` and `comparisons`"),
        (("prompt", "completions", "ranks", "scores"), "exactly one of"),
        (("prompt", "completion", "text"), "completion and text are two places"),
        (("prompt", "chosen", "rejected", "label"), r"'label' has no use.*data.ignore=\[label\]"),
        (("prompt", "completion", "offset"), "'offset' has no use"),
        (("prompt", "completion", "label", "votes"), "'votes' has no use"),
        (("prompt", "chosen", "rejected", "completion"), "'completion' has no use"),
    ],
)
def test_roles_that_do_not_go_together(columns, message):
    with pytest.raises(DataError, match=message):
        find(*columns)


def test_reference_columns_only_where_the_reference_is_named_so():
    columns = ("prompt", "chosen", "rejected", "ref_chosen_logps", "ref_rejected_logps")
    with pytest.raises(DataError, match=r"ref_chosen_logps.*reference=columns.*data.ignore=\["):
        find(*columns)
    assert find(*columns, reference=True).roles == set(columns)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"columns": {"promt": "q"}}, ConfigError, "data.columns.promt: no such role"),
        ({"columns": {"prompt": "q"}}, DataError, "data.columns.prompt=q: no such column; the data has chosen"),
        ({"columns": {"chosen": "rejected"}}, DataError, "the data has a column 'chosen' too"),
        ({"ignore": ("q",)}, DataError, r"data.ignore=\[q\]: no such column"),
    ],
)
def test_settings_that_fit_no_column(settings, error, message):
    with pytest.raises(error, match=message):
        find("chosen", "rejected", **settings)


def test_a_name_means_one_thing():
    assert not ALL_ROLES & METADATA
    assert not ALL_ROLES & ALIASES.keys()
    assert set(ALIASES.values()) <= ALL_ROLES
