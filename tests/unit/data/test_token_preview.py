"""Previews: pieces with roles that join to the text of the row."""

import pytest

from support.tokenizers_and_templates import CHATML, sentencepiece
from tiltlm.core.example import Comparison, Example
from tiltlm.data.rows.records import Record
from tiltlm.data.token_preview import preview_examples
from tiltlm.data.tokens.encoder import Encoder
from tiltlm.data.tokens.length_limit import to_example


def example_of(row, encoder, max_length, policy):
    return to_example(row, encoder.encode(row), max_length, policy, encoder.begin_token_id)


def shown(encoder: Encoder, record: Record, end: int, max_length: int = 1000):
    example, _ = example_of(record, encoder, max_length, "right_response")
    return preview_examples([example], encoder, end)[0]


def text(pieces, *roles):
    return "".join(p.text for p in pieces if not roles or p.role in roles)


def pair(prompt, chosen, rejected, **more) -> Record:
    return Record("a:1", "row 1", prompt, (chosen, rejected), (Comparison(0, 1, **more),))


def test_pieces_spell_prompt_and_answers(any_encoder):
    row = shown(any_encoder, pair("the sky?\n", " is blue", " is black"), any_encoder.end_token_id)
    assert row.id == "row 1"
    assert text(row.prompt, "prompt").removeprefix("<s>").lstrip(" ") == "the sky?\n"
    assert [text(r, "response") for r in row.responses] == [" is blue", " is black"]
    assert [[p.text for p in r if p.role == "end"] for r in row.responses] == [["</s>"], ["</s>"]]
    assert row.titles == ("chosen", "rejected")


def test_pieces_of_sentencepiece_keep_their_spaces():
    tokenizer = sentencepiece()
    encoder = Encoder(tokenizer, tokenizer.eos_token_id)
    row = shown(encoder, pair("x", " is it", " the é"), tokenizer.eos_token_id)
    assert [p.text for p in row.responses[0]] == [" is", " ", "i", "t", "</s>"]


def test_later_turns_are_unscored(encoder):
    chat = encoder.with_template(CHATML, {})
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "hello")]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    row = shown(chat, Record("a:1", "1", messages[:1], (messages[1:],)), chat.turn_end_token_id)
    assert text(row.responses[0], "response") == "bhello"
    assert text(row.responses[0], "end") == "<|im_end|><|im_end|>"
    assert text(row.responses[0], "unscored") == "\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    assert row.titles == ("response",)


def test_a_cut_response_and_soft_labels_are_shown(encoder):
    row = pair("the sky", " is blue and black and blue", " black", preference=0.75, offset=0.5)
    prompt = len(example_of(row, encoder, 1000, "error")[0].prompt_ids)
    cut = shown(encoder, row, encoder.end_token_id, prompt + 3)
    assert cut.titles[0] == "chosen, cut: no end token"
    assert all(p.role == "response" for p in cut.responses[0])
    assert cut.notes == ("0 ≻ 1, P(chosen ≻ rejected) = 0.75, offset 0.5",)


@pytest.mark.parametrize(
    ("known", "titles"),
    [
        ({"labels": (True, False)}, ("desirable", "undesirable")),
        ({"ranks": (1, 2)}, ("rank 1", "rank 2")),
        ({"scores": (0.5, -1.0), "weight": 2.0}, ("score 0.5", "score -1")),
    ],
)
def test_titles(encoder, known, titles):
    example, _ = example_of(pair("a", " b", " c"), encoder, 1000, "error")
    row = preview_examples(
        [Example("1", example.prompt_ids, example.responses, **known)], encoder, encoder.end_token_id
    )[0]
    assert row.titles == titles
    assert row.notes == (("weight 2",) if "weight" in known else ())
