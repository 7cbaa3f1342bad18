"""Boundaries, beginning tokens and end tokens: properties that hold for three families of tokenizers."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from support.errors import raises
from support.tokenizers_and_templates import sentencepiece
from tiltlm.core.errors import ModelError
from tiltlm.data.accounting import Defect
from tiltlm.data.rows.records import Record
from tiltlm.data.tokens.encoder import Encoder, end_once

PLAIN = st.text(
    st.one_of(st.sampled_from(" \n:.?abehistly1é中😀"), st.characters(codec="utf-8", exclude_categories=["Cs"])),
    min_size=1,
    max_size=30,
)
PROPERTY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def record(prompt, *responses) -> Record:
    return Record(location="here:1", id="1", prompt=prompt, responses=responses)


def encode(encoder: Encoder, row: Record):
    encoded = encoder.encode(row)
    return encoded.prompt_ids, encoded.responses, list(encoded.changes)


def spelled(encoder: Encoder, text: str) -> str:
    return encoder.decode(encoder.tokens([text])[0])


@PROPERTY
@given(prompt=PLAIN, first=PLAIN.filter(str.strip), second=PLAIN.filter(str.strip))
def test_prompt_is_a_prefix_and_the_whole_spells_the_text(any_encoder, prompt, first, second):
    """Prompt ids depend only on the prompt, and prompt + response decodes to the text and one end token."""
    prompt_ids, responses, _ = encode(any_encoder, record(prompt, first, second))
    alone, _, _ = encode(any_encoder, record(prompt, "x"))
    assert np.array_equal(prompt_ids, alone)
    begin = any_encoder.begin_token_id
    body = prompt_ids[1:] if begin is not None else prompt_ids
    for response, text in zip(responses, (first, second), strict=True):
        assert any_encoder.decode([*body, *response.token_ids[:-1]]) == spelled(any_encoder, prompt + text)


@PROPERTY
@given(prompt=PLAIN, text=PLAIN.filter(str.strip))
def test_one_beginning_and_one_end(any_encoder, prompt, text):
    """A beginning token, if there is one, comes first and nowhere else; the end token comes last."""
    prompt_ids, (response,), _ = encode(any_encoder, record(prompt, text))
    end, begin = any_encoder.end_token_id, any_encoder.begin_token_id
    assert response.token_ids.tolist().count(end) == 1
    assert response.token_ids[-1] == end
    assert response.ended
    whole = [*prompt_ids, *response.token_ids]
    if begin is None:
        assert prompt_ids.tolist() == any_encoder.tokens([prompt])[0]
    else:
        assert whole.count(begin) == 1
        assert whole[0] == begin


def test_beginning_and_end_in_the_text_are_not_doubled(any_encoder):
    plain, (bare,), _ = encode(any_encoder, record("the sky", " is blue"))
    for text in (" is blue</s>", " is blue</s></s>"):
        ids, (ended,), _ = encode(any_encoder, record("the sky", text))
        assert ended.token_ids.tolist() == bare.token_ids.tolist()
        assert ids.tolist() == plain.tolist()
    if any_encoder.begin_token_id is not None:
        for text in ("<s>the sky", "<s><s>the sky"):
            ids, _, _ = encode(any_encoder, record(text, " is blue"))
            assert ids.tolist().count(any_encoder.begin_token_id) == 1
            assert ids[0] == any_encoder.begin_token_id


def test_no_token_covers_the_boundary(encoder):
    """`Answer: Yes` has the token ` Yes`. After the prompt `Answer: ` the response is `Yes`, as when sampled."""
    joint = encoder.tokens(["Answer: Yes"])[0]
    prompt = encoder.tokens(["Answer: "])[0]
    assert joint[: len(prompt)] != prompt, "the tokenizer of this test must merge here"
    prompt_ids, (response,), changes = encode(encoder, record("Answer: ", "Yes"))
    assert prompt_ids[1:].tolist() == prompt
    assert response.token_ids[:-1].tolist() == encoder.tokens(["Yes"])[0]
    assert changes == ["boundary_merge"]


def test_sentencepiece_adds_no_space_at_the_boundary():
    """By itself, `the` gets a space before it; after a prompt it must not. `:▁a` is one token over the boundary."""
    tokenizer = sentencepiece()
    encoder = Encoder(tokenizer, tokenizer.eos_token_id)
    prompt_ids, (response,), changes = encode(encoder, record("x:", " a"))
    assert changes == ["boundary_merge"]
    assert tokenizer.convert_ids_to_tokens(prompt_ids.tolist()) == ["<s>", "▁", "x", ":"]
    assert tokenizer.convert_ids_to_tokens(response.token_ids.tolist()) == ["▁a", "</s>"]
    _, (response,), changes = encode(encoder, record("x", "the"))
    assert changes == []
    assert tokenizer.convert_ids_to_tokens(response.token_ids.tolist()) == ["the", "</s>"]


def test_text_without_a_prompt_follows_the_beginning_token(any_encoder):
    prompt_ids, (response,), changes = encode(any_encoder, record("", "the sky is blue"))
    begin = any_encoder.tokenizer.bos_token_id
    assert prompt_ids.tolist() == [any_encoder.end_token_id if begin is None else begin]
    assert changes == ["empty_prompt"]
    assert response.token_ids.tolist() == [*any_encoder.tokens(["the sky is blue"])[0], any_encoder.end_token_id]


def test_bare_text_that_brings_its_beginning_token(encoder):
    _, (response,), _ = encode(encoder, record("", "<s>the sky"))
    assert response.token_ids.tolist() == [*encoder.tokens(["the sky"])[0], encoder.end_token_id]


def test_a_response_of_special_tokens_is_empty(encoder):
    with pytest.raises(Defect) as caught:
        encode(encoder, record("the sky", "</s>"))
    assert caught.value.code == "empty_response"


def test_an_answer_that_goes_on_after_its_end_is_a_defect(encoder):
    with pytest.raises(Defect) as caught:
        encode(encoder, record("the sky", " is blue</s> and"))
    assert caught.value.code == "end_inside"
    assert all(number in caught.value.detail for number in ("2", "5"))  # its position, and the length


def test_many_at_once_are_as_one_by_one(any_encoder):
    rows = [record("the sky", " is blue", " is black"), record("a", "</s>"), record("Answer: ", "Yes")]
    first, defect, last = any_encoder.encode_many(rows)
    assert defect.code == "empty_response"
    for together, row in ((first, rows[0]), (last, rows[2])):
        alone = any_encoder.encode(row)
        assert together.prompt_ids.tolist() == alone.prompt_ids.tolist()
        assert [r.key for r in together.responses] == [r.key for r in alone.responses]
        assert together.changes == alone.changes


def test_a_tokenizer_that_cannot_continue_is_a_defect(encoder):
    """A tokenizer that lower-cases a text only at its start cannot tokenise the continuation separately."""

    class Fickle(Encoder):
        def tokens(self, texts):
            return [[5, 6, 7] if len(text) > 6 else [9] for text in texts]

    with pytest.raises(Defect) as caught:
        encode(Fickle(encoder.tokenizer, encoder.end_token_id), record("prompt", " yes"))
    assert caught.value.code == "boundary"


def test_a_tokenizer_without_an_end_token_is_refused(encoder):
    files = ["tokenizer_config.json", "generation_config.json"]
    with raises(ModelError, "no_end_token", mentions=files) as caught:
        Encoder(encoder.tokenizer, None)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


@given(st.lists(st.integers(0, 3), max_size=6))
def test_end_once(ids):
    ended = end_once(ids, 3)
    assert ended[-1] == 3
    assert ended[-2:-1] != [3]
    assert ended[:-1] == ids[: len(ended) - 1]


def test_response_text_keeps_its_first_space():
    tokenizer = sentencepiece()
    encoder = Encoder(tokenizer, tokenizer.eos_token_id)
    prompt_ids, (response,), _ = encode(encoder, record("x", " is it"))
    assert encoder.decode(response.token_ids) == "is it</s>"
    assert encoder.response_text(prompt_ids, response.token_ids) == " is it</s>"


@PROPERTY
@given(texts=st.lists(PLAIN | st.just("a <s> b</s>"), max_size=4))
def test_tokens_are_those_of_the_tokenizers_own_call(any_encoder, texts):
    """Calling the Rust tokenizer directly changes only the speed."""
    assert any_encoder._engine is not None
    own = any_encoder.tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    assert any_encoder.tokens(texts) == own


def test_padding_set_on_the_tokenizer_is_not_used():
    tokenizer = sentencepiece()
    tokenizer.pad_token = "</s>"
    encoder = Encoder(tokenizer, tokenizer.eos_token_id)
    alone = encoder.tokens(["a", "the sky"])
    assert len({len(ids) for ids in tokenizer(["a", "the sky"], padding=True).input_ids}) == 1
    assert encoder.tokens(["a", "the sky"]) == alone


def test_a_tokenizer_class_with_its_own_call_is_called():
    class Shouting(PreTrainedTokenizerFast):
        def _encode_plus(self, text, **kwargs):
            return super()._encode_plus([t.upper() for t in text], **kwargs)

    plain = sentencepiece()
    encoder = Encoder(Shouting(tokenizer_object=plain.backend_tokenizer, eos_token="</s>"), 2)
    assert encoder.tokens(["ab"]) == Encoder(plain, 2).tokens(["AB"])
