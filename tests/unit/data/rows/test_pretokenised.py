"""Token ids instead of text: used unchanged, or refused with location and reason."""

import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.example import Comparison
from tiltlm.data import DataSettings, load_data
from tiltlm.data.accounting import Defect
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows.columns import detect
from tiltlm.data.rows.records import to_record

BEGIN, END, TURN_END = 0, 1, 3
"""`<s>`, `</s>` and `<|im_end|>` of the tokenizer in conftest."""


def ids_pair(**more):
    return {"prompt_ids": [BEGIN, 30, 31], "chosen_ids": [32, 33, END], "rejected_ids": [34, END], **more}


def listed(**more):
    return {"prompt_ids": [30], "completions_ids": [[31, END], [32], [33, END]], "scores": [3, 1, 2], **more}


def single(**more):
    return {"prompt_ids": [30], "completion_ids": [31, 32], "label": True, **more}


def record_of(row):
    return to_record(Row("a:1", row), detect(dict.fromkeys(row, "a:1"), DataSettings(train="a")))


def encode(encoder, row):
    return encoder.encode(record_of(row))


def cause(encoder, row):
    with pytest.raises(Defect) as caught:
        encode(encoder, row)
    return caught.value.code


@pytest.fixture
def load(encoder, jsonl):
    def run(rows, shape="pairs", **settings):
        return load_data(DataSettings(train=jsonl(rows), **settings), encoder, shape)

    return run


def test_the_tokenizer_of_this_file_has_these_ends(encoder):
    assert encoder.tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<|im_end|>"]) == [BEGIN, END, TURN_END]


def test_a_pair_is_taken_as_it_stands(encoder):
    encoded = encode(encoder, ids_pair())
    assert encoded.prompt_ids.tolist() == [BEGIN, 30, 31]
    assert [r.token_ids.tolist() for r in encoded.responses] == [[32, 33, END], [34, END]]
    assert [r.ended for r in encoded.responses] == [True, True]
    assert encoded.changes == ()


def test_no_beginning_token_is_added(encoder):
    assert encode(encoder, ids_pair(prompt_ids=[30])).prompt_ids.tolist() == [30]


def test_text_and_its_own_ids_are_the_same_example(load, encoder):
    """Token ids give the same example as their text, with the same weight and offset."""
    rows = [{"prompt": "the sky", "chosen": " is blue", "rejected": " is", "weight": 2, "offset": 0.5}]
    text = load(rows).train[0]
    chosen, rejected = (r.token_ids.tolist() for r in text.responses)
    again = {"prompt_ids": text.prompt_ids.tolist(), "chosen_ids": chosen, "rejected_ids": rejected}
    data = load([{**again, "weight": 2, "offset": 0.5}])
    ids = data.train[0]
    assert [r.key for r in ids.responses] == [r.key for r in text.responses]
    assert ids.prompt_ids.tolist() == text.prompt_ids.tolist()
    assert (ids.comparisons, ids.weight) == ((Comparison(0, 1, offset=0.5),), 2.0)
    assert data.fingerprint == load(rows).fingerprint
    assert data.end_token_id == END


@pytest.mark.parametrize(("flag", "ids"), [(False, [31, 32]), (None, [31, 32]), (False, [31, TURN_END])])
def test_what_did_not_end_gets_no_end_token(encoder, flag, ids):
    """In the last case, a plain-text model wrote the end-of-turn token of another model."""
    (response,) = encode(encoder, single(completion_ids=ids, ended=flag)).responses
    assert response.token_ids.tolist() == ids
    assert not response.ended


@pytest.mark.parametrize(("flag", "ids"), [(True, [31, END]), (None, [31, END]), (True, [31, TURN_END]), (1, [END])])
def test_what_ended_by_itself(encoder, flag, ids):
    (response,) = encode(encoder, single(completion_ids=ids, ended=flag)).responses
    assert response.token_ids.tolist() == ids
    assert response.ended


def test_a_flag_for_each_response(encoder):
    responses = encode(encoder, ids_pair(chosen_ids=[32], chosen_ended=False, rejected_ended=True)).responses
    assert [r.ended for r in responses] == [False, True]
    row = listed(ended=[True, False, True])
    assert [r.ended for r in encode(encoder, row).responses] == [True, False, True]
    assert record_of(row).scores == (3.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (ids_pair(chosen_ids=[31, 10_000, END]), "unknown_token"),
        (ids_pair(chosen_ids=[31, -1]), "unknown_token"),
        (ids_pair(prompt_ids=[2**40]), "unknown_token"),
        (ids_pair(chosen_ids=[]), "empty_response"),
        (ids_pair(chosen_ids=None), "empty_response"),
        (ids_pair(prompt_ids=[]), "missing_value"),
        (ids_pair(prompt_ids=None), "missing_value"),
        (ids_pair(chosen_ids=[31.5]), "wrong_type"),
        (ids_pair(chosen_ids=[True]), "wrong_type"),
        (ids_pair(chosen_ids="31"), "wrong_type"),
        (ids_pair(chosen_ids=[34, END]), "identical_responses"),
        (ids_pair(chosen_ended=False), "wrong_end"),
        (ids_pair(chosen_ids=[32, 33], chosen_ended=True), "wrong_end"),
        (ids_pair(chosen_ended="no"), "wrong_type"),
        (ids_pair(chosen_ids=[32, END, END]), "end_inside"),
        (ids_pair(chosen_ids=[32, END, 33]), "end_inside"),
        (ids_pair(chosen_ids=[32, TURN_END, 33, TURN_END]), "end_inside"),
        (listed(completions_ids=[[31], None, [32]]), "wrong_type"),
        (listed(completions_ids=[[31], [], [32]]), "empty_response"),
        (listed(ended=[True, None, True]), "missing_value"),
        (listed(ended=[True, False]), "wrong_type"),
    ],
)
def test_defects(encoder, row, expected):
    assert cause(encoder, row) == expected


def test_ids_in_cells_of_text(encoder):
    assert encode(encoder, ids_pair(chosen_ids="[32, 33, 1]")).responses[0].token_ids.tolist() == [32, 33, END]


def test_rows_are_named(load):
    with raises(DataError, "too_many_defects", mentions=["unknown_token × 1", "data.jsonl:2", "10000"]):
        load([ids_pair(), ids_pair(chosen_ids=[10_000])])


@pytest.mark.parametrize(
    ("columns", "code", "mentions"),
    [
        (("prompt", "chosen_ids", "rejected_ids"), "text_and_token_ids", ["chosen_ids, rejected_ids", "prompt_ids"]),
        (("prompt_ids", "chosen", "rejected"), "text_and_token_ids", ["prompt_ids", "chosen_ids, rejected_ids"]),
        (("prompt_ids", "chosen_ids", "rejected"), "text_and_token_ids", ["chosen_ids, prompt_ids", "rejected_ids"]),
        (("prompt_ids", "messages", "label"), "text_and_token_ids", ["completion_ids"]),
        (("prompt", "prompt_ids", "chosen_ids", "rejected_ids"), "column_without_use", ["data.ignore=[prompt]"]),
        (("prompt_ids", "completion", "completion_ids"), "column_without_use", ["data.ignore=[completion]"]),
        (("prompt_ids", "completion_ids", "tools"), "column_without_use", ["data.ignore=[tools]"]),
        (("prompt_ids", "completion_ids", "chosen_ended"), "column_without_use", ["data.ignore=[chosen_ended]"]),
        (("prompt", "completion", "ended"), "column_without_use", ["data.ignore=[ended]"]),
    ],
)
def test_text_and_ids_do_not_mix(columns, code, mentions):
    with raises(DataError, code, mentions=mentions):
        detect(dict.fromkeys(columns, "a:1"), DataSettings(train="a"))


@pytest.mark.parametrize(
    ("columns", "shape"),
    [
        (("prompt_ids", "chosen_ids", "rejected_ids", "score_chosen", "score_rejected", "messages"), "pairs"),
        (("prompt_ids", "completion_ids", "ended", "label"), "unpaired"),
        (("prompt_ids", "completions_ids", "ended", "ranks"), "lists"),
        (("prompt_ids", "completion_ids", "ended"), "demonstrations"),
    ],
)
def test_shapes(columns, shape):
    schema = detect(dict.fromkeys(columns, "a:1"), DataSettings(train="a"))
    assert (schema.shape, schema.is_tokenised) == (shape, True)


def test_the_end_of_the_data_is_what_ends_most_responses(load):
    """Samplers stop at the token that ends most responses in the data."""
    rows = [{"prompt_ids": [30 + i], "completion_ids": [31, TURN_END]} for i in range(3)]
    data = load([*rows, {"prompt_ids": [40], "completion_ids": [31, END]}], "demonstrations")
    assert data.end_token_id == TURN_END
    assert any("'<|im_end|>'" in note and str(TURN_END) in note for note in data.notes)


def test_lengths_are_cut_by_token(load):
    data = load([ids_pair(prompt_ids=[BEGIN, *range(40, 60)])], max_length=6)
    assert data.train[0].prompt_ids.tolist() == [BEGIN, 58, 59]
    assert list(data.accounting.changes) == ["prompt_cut_left"]


def test_prompts_are_held_out_whole(load):
    rows = [ids_pair(prompt_ids=[30 + i], chosen_ids=[32, 33 + j, END]) for i in range(40) for j in range(2)]
    data = load(rows, eval_fraction=0.25)
    held = {e.prompt_ids.tobytes() for e in data.held_out}
    assert len(data.held_out) == 2 * len(held) > 0
    assert held.isdisjoint(e.prompt_ids.tobytes() for e in data.train)


def test_a_chat_template_is_not_rendered(load):
    """A template for token ids alone is refused, even a broken one, because nothing is rendered."""
    with raises(ConfigError, "no_effect", key="data.chat_template"):
        load([ids_pair()], chat_template="{{ raise_exception('never') }}")
    with raises(ConfigError, "no_effect", key="data.assistant_turns"):
        load(
            [{"prompt_ids": [30], "completion_ids": [31]}],
            "demonstrations",
            assistant_turns="all",
        )
