"""The distinct prompts of data of any shape: the tokens of training, in order, with the columns beside them."""

import pytest

from support.errors import raises
from support.tokenizers_and_templates import CHATML, byte_level
from tiltlm.core.errors import DataError
from tiltlm.data import DataSettings, Encoder
from tiltlm.data.distinct_prompts import find_prompts, prompt_digest, rows_in_memory
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows.columns import detect
from tiltlm.data.rows.records import to_record


@pytest.fixture(scope="module")
def chat_encoder() -> Encoder:
    tokenizer = byte_level(bos=True)
    return Encoder(tokenizer, tokenizer.eos_token_id, chat_template=CHATML)


SETTINGS = {"train": "memory"}
HH = "\n\nHuman: Where is it?\n\nAssistant:"


def found(encoder: Encoder, *rows, limit=None, too_long="drop", max_new_tokens=4, **settings):
    return find_prompts(
        rows_in_memory(rows), DataSettings(**SETTINGS, **settings), encoder, max_new_tokens=max_new_tokens,
        limit=limit, too_long=too_long,
    )  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Where is it?"},
        "Where is it?",
        {"question": "Where is it?"},
        {"prompt": "Where is it?", "chosen": "here", "rejected": "there"},
        {"prompt": "Where is it?", "chosen": "same", "rejected": "same"},
        {"prompt": "Where is it?", "completion": "here"},
        {"prompt": "Where is it?", "answer": 5},
        {"prompt": "Where is it?", "completion": "here", "label": True},
        {"prompt": "Where is it?", "completions": ["here", "there"], "ranks": [1, 2]},
        {
            "prompt": "Where is it?",
            "completions": ["here"],
            "completions_ids": [[5]],
            "prompt_ids": [9],
            "engine": "own",
        },
    ],
)
def test_every_shape_gives_the_prompt(encoder, row):
    (prompt,) = found(encoder, row).prompts
    assert prompt.content == "Where is it?"
    assert prompt.token_ids.tolist() == encoder.prompt_ids("Where is it?").tolist()
    assert prompt.id == prompt_digest("Where is it?")


@pytest.mark.parametrize(
    "row",
    [{"chosen": HH + " here", "rejected": HH + " there"}, {"prompt": HH, "chosen": HH + " a", "rejected": HH + " b"}],
)
def test_the_prompt_of_transcripts(encoder, row):
    (prompt,) = found(encoder, row).prompts
    assert prompt.content == HH


def test_the_tokens_are_those_of_training(chat_encoder):
    """With a template text becomes a turn; the encoder of training gives the same ids."""
    rows = [
        {"prompt": "Where is it?", "chosen": "here", "rejected": "there"},
        {"prompt": "And this?", "chosen": "here", "rejected": "there", "system": "Be kind."},
        {
            "prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"},
                       {"role": "user", "content": "Where?"}],
            "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}],
        },
    ]  # fmt: skip
    for row in rows:
        for as_chat in (None, False) if isinstance(row["prompt"], str) and "system" not in row else (None,):
            settings = DataSettings(**SETTINGS, as_chat=as_chat)
            schema = detect(dict.fromkeys(row, "r:1"), settings)
            record = to_record(Row("r:1", row), schema)
            trained = record.as_chat() if as_chat is None and record.form == "text" else record
            (prompt,) = found(chat_encoder, row, as_chat=as_chat).prompts
            assert prompt.token_ids.tolist() == chat_encoder.encode(trained).prompt_ids.tolist()


def test_messages_that_end_with_the_user_are_a_prompt(chat_encoder):
    turns = [{"role": "user", "content": "Where?"}]
    asked, answered = (
        found(chat_encoder, {"messages": messages}).prompts[0]
        for messages in (turns, [*turns, {"role": "assistant", "content": "here"}])
    )
    assert asked.token_ids.tolist() == answered.token_ids.tolist()
    assert asked.content == tuple(turns)


def test_repeated_prompts_are_asked_once_and_order_is_kept(encoder):
    prompts = found(encoder, "b", "a", "b", "c")
    assert [p.content for p in prompts.prompts] == ["b", "a", "c"]
    assert prompts.accounting.total == 4
    assert [p.content for p in found(encoder, "b", "a", "b", "c", limit=2).prompts] == ["b", "a"]


def test_other_columns_are_kept_and_responses_are_not(encoder):
    row = {"prompt": "a", "category": "x", "answer": 5, "chosen": "c", "rejected": "d", "source": "s", "id": "n1"}
    (prompt,) = found(encoder, row).prompts
    assert prompt.row == {"category": "x", "answer": 5, "source": "s"}
    assert prompt.id == "n1"
    (prompt,) = found(encoder, {"q": "a", "category": "x"}, columns={"prompt": "q"}, ignore=("category",)).prompts
    assert prompt.row == {}


def test_a_prompt_above_the_window_is_left_out_or_stops(encoder):
    small = Encoder(encoder.tokenizer, encoder.end_token_id, window=len(encoder.prompt_ids("a b")) + 4)
    prompts = found(small, "a b", "a b c d e f g h i j k l m n o p")
    assert [p.content for p in prompts.prompts] == ["a b"]
    assert prompts.accounting.losses["prompt_above_window"].count == 1
    assert len(found(small, "a b", max_new_tokens=4).prompts) == 1
    with raises(DataError, "too_long", key="sampling.max_new_tokens", row="prompts[1]"):
        found(small, "a b", "a b c d e f g h i j k l m n o p", too_long="error")
    with raises(DataError, "no_rows_left", mentions=["prompt_above_window × 1", "--max-new-tokens"]):
        found(small, "a b", max_new_tokens=5)


def test_defects_are_counted_and_too_many_stop(encoder):
    rows = [*(str(i) for i in range(30)), {"prompt": ""}]
    assert found(encoder, *rows).accounting.losses["missing_value"].count == 1
    with raises(DataError, "too_many_defects"):
        found(encoder, "a", {"prompt": ""})


def test_data_without_prompts_are_refused(encoder, chat_encoder):
    with raises(DataError, "missing_column", key="data.columns.prompt", mentions=["wolf"]):
        found(encoder, {"wolf": "a"})
    with raises(DataError, "no_chat_template"):
        found(encoder, {"prompt": [{"role": "user", "content": "a"}]})


def test_the_digest_changes_with_any_prompt_or_column(encoder):
    base = found(encoder, {"prompt": "a", "x": 1}, "b").digest
    assert base == found(encoder, {"prompt": "a", "x": 1}, "b").digest
    others = [
        found(encoder, {"prompt": "a", "x": 2}, "b"), found(encoder, {"prompt": "a", "x": 1}),
        found(encoder, "b", {"prompt": "a", "x": 1}), found(encoder, {"prompt": "a", "x": 1, "id": "n"}, "b"),
    ]  # fmt: skip
    assert len({base, *(other.digest for other in others)}) == 5
