"""Length limit: the same cut for a whole row, by `data.truncation`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import raises
from support.tokenizers_and_templates import TEMPLATES
from tiltlm.core.errors import DataError
from tiltlm.core.example import Comparison, Response, token_ids
from tiltlm.data.accounting import Defect
from tiltlm.data.data_settings import LONGEST
from tiltlm.data.rows.records import Record
from tiltlm.data.tokens.length_limit import cut_left, cut_right, longest_allowed, to_example, without_oldest_turns

PROMPT, CHOSEN, REJECTED = "the sky is the sky", " blue and black", " black"


def record(prompt=PROMPT, chosen=CHOSEN, rejected=REJECTED, **more) -> Record:
    return Record("a.jsonl:1", "1", prompt, (chosen, rejected), (Comparison(0, 1),), **more)


def example_of(row, encoder, max_length, policy):
    return to_example(row, encoder.encode(row), max_length, policy, encoder.begin_token_id)


@pytest.fixture(scope="module")
def whole(encoder):
    return example_of(record(), encoder, 1000, "error")[0]


def lengths(example):
    return len(example.prompt_ids), *(len(r.token_ids) for r in example.responses)


@pytest.mark.parametrize("policy", ["left_prompt", "drop", "right_response", "error"])
def test_what_fits_is_left_alone(encoder, whole, policy):
    prompt, chosen, rejected = lengths(whole)
    example, changes = example_of(record(), encoder, prompt + max(chosen, rejected), policy)
    assert lengths(example) == lengths(whole)
    assert changes == []


@settings(deadline=None)
@given(st.data())
def test_left_prompt_keeps_beginning_and_answers(encoder, whole, data):
    """For any limit: responses are whole, the beginning token is first, the end of the prompt stays, and all fits."""
    prompt, chosen, rejected = lengths(whole)
    limit = data.draw(st.integers(max(chosen, rejected) + 1, prompt + chosen - 1))
    example, changes = example_of(record(), encoder, limit, "left_prompt")
    assert changes == ["prompt_cut_left"]
    assert len(example.prompt_ids) + max(chosen, rejected) == limit
    assert example.prompt_ids[0] == encoder.begin_token_id
    kept = len(example.prompt_ids) - 1
    assert example.prompt_ids[1:].tolist() == whole.prompt_ids[prompt - kept :].tolist()
    for cut, full in zip(example.responses, whole.responses, strict=True):
        assert cut.token_ids.tolist() == full.token_ids.tolist()
        assert cut.ended


def test_an_answer_that_fits_not_even_alone_is_a_defect(encoder, whole):
    _, chosen, rejected = lengths(whole)
    with pytest.raises(Defect) as caught:
        example_of(record(), encoder, max(chosen, rejected), "left_prompt")
    assert caught.value.code == "response_too_long"


def test_left_cut_without_a_beginning_token():
    assert cut_left(token_ids([5, 6, 7]), 2, None).tolist() == [6, 7]
    assert cut_left(token_ids([5, 6, 7]), 2, 1).tolist() == [6, 7]
    assert cut_left(token_ids([1, 6, 7]), 2, 1).tolist() == [1, 7]
    assert cut_left(token_ids([1, 6, 7]), 1, 1).tolist() == [1]


def test_drop_is_a_policy(encoder, whole):
    with pytest.raises(Defect) as caught:
        example_of(record(), encoder, sum(lengths(whole)[:2]) - 1, "drop")
    assert caught.value.code == "too_long"
    prompt, chosen, _ = lengths(whole)
    for part in (f"{prompt} + {chosen}", f"> {prompt + chosen - 1}"):
        assert part in caught.value.detail


def test_error_names_row_numbers_and_ways_out(encoder):
    facts = ["a.jsonl:1", "> 5", "data.max_length", "data.truncation="]
    with raises(DataError, "too_long", key="data.max_length", row="a.jsonl:1", mentions=facts):
        example_of(record(), encoder, 5, "error")


def test_right_response_cuts_answers_which_then_have_no_end(encoder, whole):
    prompt, chosen, rejected = lengths(whole)
    assert chosen > rejected + 1
    example, changes = example_of(record(), encoder, prompt + rejected, "right_response")
    assert changes == ["response_cut_right"]
    long, short = example.responses
    assert (long.ended, short.ended) == (False, True)
    assert long.token_ids.tolist() == whole.responses[0].token_ids[:rejected].tolist()
    assert encoder.end_token_id not in long.token_ids
    assert short.token_ids.tolist() == whole.responses[1].token_ids.tolist()


def test_right_response_needs_room_behind_the_prompt(encoder, whole):
    with pytest.raises(Defect) as caught:
        example_of(record(), encoder, len(whole.prompt_ids), "right_response")
    assert caught.value.code == "prompt_too_long"


def test_answers_that_a_cut_makes_equal_are_a_defect(encoder):
    row = record(chosen=" blue and black", rejected=" blue and the sky")
    prompt = len(example_of(row, encoder, 1000, "error")[0].prompt_ids)
    with pytest.raises(Defect) as caught:
        example_of(row, encoder, prompt + 1, "right_response")
    assert caught.value.code == "identical_responses"


def test_a_cut_row_has_no_use_for_reference_columns(encoder, whole):
    row = record(ref_logps=(-1.0, -2.0))
    assert [r.ref_logps for r in example_of(row, encoder, 1000, "left_prompt")[0].responses] == [-1.0, -2.0]
    with pytest.raises(Defect) as caught:
        example_of(row, encoder, sum(lengths(whole)[:2]) - 1, "left_prompt")
    assert caught.value.code == "reference_of_other_tokens"


def test_cut_right_keeps_scored_offsets_in_range():
    response = Response(token_ids([7, 8, 9, 10]), scored=token_ids([1, 3]))
    cut = cut_right(response, 3)
    assert cut.scored.tolist() == [1]
    assert not cut.ended
    with pytest.raises(Defect) as caught:
        cut_right(response, 1)
    assert caught.value.code == "response_too_long"


@pytest.mark.parametrize(
    ("max_length", "window", "expected"),
    [(None, None, LONGEST), (None, 512, 512), (None, 131072, LONGEST), (300, 512, 300), (4096, None, 4096)],
)
def test_longest_allowed(max_length, window, expected):
    assert longest_allowed(max_length, window) == expected


def test_a_limit_beyond_the_window_is_refused():
    with raises(DataError, "beyond_window", key="data.max_length", mentions=["data.max_length=1024", "512"]):
        longest_allowed(1024, 512)


def turns(*pairs):
    return tuple({"role": role, "content": content} for role, content in pairs)


SYSTEM, QUESTION = turns(("system", "a system message")), turns(("user", "the sky?"))
HISTORY = [turns(("user", f"question {i}"), ("assistant", f"answer {i}")) for i in range(4)]
ANSWERS = turns(("assistant", "blue")), turns(("assistant", "black"))


def conversation(history, **more) -> Record:
    return Record("a.jsonl:1", "1", (*SYSTEM, *sum(history, ()), *QUESTION), ANSWERS, (Comparison(0, 1),), **more)


@pytest.mark.parametrize("template", ["chatml", "llama"])
def test_conversations_lose_whole_turns(encoder, template):
    """For any limit: the longest shortened conversation that fits, as the template renders it."""
    chat = encoder.with_template(TEMPLATES[template], {})
    whole = [chat.encode(conversation(HISTORY[k:])) for k in range(len(HISTORY) + 1)]
    lengths = [w.num_tokens for w in whole]
    assert lengths == sorted(set(lengths), reverse=True)
    for limit in range(lengths[-1], lengths[0]):
        cut = without_oldest_turns(conversation(HISTORY), chat, limit)
        expected = next(w for w in whole if w.num_tokens <= limit)
        assert cut.prompt_ids.tolist() == expected.prompt_ids.tolist()
        assert [r.key for r in cut.responses] == [r.key for r in expected.responses]
        assert cut.changes == ("turns_cut",)
        assert "a system message" in chat.decode(cut.prompt_ids)
    assert without_oldest_turns(conversation(HISTORY), chat, lengths[-1] - 1) is None


def test_a_row_that_lost_turns_has_no_use_for_reference_columns(encoder):
    chat = encoder.with_template(TEMPLATES["chatml"], {})
    row = conversation(HISTORY, ref_logps=(-1.0, -2.0))
    limit = chat.encode(row).num_tokens - 1
    with pytest.raises(Defect) as caught:
        to_example(row, without_oldest_turns(row, chat, limit), limit, "left_prompt", None)
    assert (caught.value.code, caught.value.detail) == ("reference_of_other_tokens", "turns_cut")
