"""Chat templates of four kinds: start and end of the response, and scored tokens."""

from datetime import date

import numpy as np
import pytest

from support.errors import raises
from support.tokenizers_and_templates import CHATML, FORGETFUL, LLAMA, PLAIN_TURNS, TEMPLATES
from tiltlm.core.errors import DataError
from tiltlm.data.accounting import Defect
from tiltlm.data.rows.records import Record
from tiltlm.data.tokens.encoder import Encoder
from tiltlm.data.tokens.templates import ChatTemplate


def turn(role: str, content: str, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


QUESTION = (turn("system", "system message"), turn("user", "the sky?"))
ANSWER = (turn("assistant", "it is blue"),)


def record(prompt, *responses, **more) -> Record:
    return Record(location="here:1", id="1", prompt=prompt, responses=responses, **more)


def encode(encoder: Encoder, row: Record):
    encoded = encoder.encode(row)
    return encoded.prompt_ids, encoded.responses, encoded.changes


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [
        (CHATML, "<|im_start|>system\nsystem message<|im_end|>\n<|im_start|>user\nthe sky?<|im_end|>\n"
         "<|im_start|>assistant\n", "it is blue<|im_end|>"),
        (LLAMA, "<s><|turn|>system\n\nsystem message<|eot|><|turn|>user\n\nthe sky?<|eot|><|turn|>assistant\n\n",
         "it is blue<|eot|>"),
        (PLAIN_TURNS, "system: system message\nuser: the sky?\nassistant: ", "it is blue</s>"),
    ],
    ids=["chatml", "llama", "plain"],
)  # fmt: skip
def test_prompt_and_answer_read_as_the_template_has_them(encoder, template, prompt, answer):
    """One end token with nothing after it (chatml writes a line break there); the prompt ends where sampling starts."""
    chat = encoder.with_template(template, {})
    prompt_ids, (response,), _ = encode(chat, record(QUESTION, ANSWER))
    assert chat.decode(prompt_ids) == prompt
    assert chat.decode(response.token_ids) == answer
    assert response.scored is None
    assert response.token_ids[-1] == chat.turn_end_token_id
    assert response.token_ids.tolist().count(chat.turn_end_token_id) == 1
    assert prompt_ids.tolist().count(encoder.begin_token_id) == (1 if template is LLAMA else 0)


@pytest.mark.parametrize("template", ["chatml", "llama"])
def test_tokens_are_those_of_transformers(encoder, template):
    """Prompt + response is the output of `apply_chat_template` without its last line break."""
    chat = encoder.with_template(TEMPLATES[template], {})
    prompt_ids, (response,), _ = encode(chat, record(QUESTION, ANSWER))
    whole = encoder.tokenizer.apply_chat_template(
        [*QUESTION, *ANSWER], chat_template=TEMPLATES[template], return_dict=False
    )
    mine = [*prompt_ids, *response.token_ids]
    assert whole[: len(mine)] == mine
    assert encoder.decode(whole[len(mine) :]).strip() == ""


def test_the_tokenizers_own_template_is_used(encoder):
    tokenizer = type(encoder.tokenizer)(tokenizer_object=encoder.tokenizer.backend_tokenizer, eos_token="</s>")
    tokenizer.chat_template = CHATML
    own = Encoder(tokenizer, tokenizer.eos_token_id)
    assert own.template.source == CHATML
    assert own.turn_end_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_template_from_a_file(encoder, tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text(CHATML)
    assert encoder.with_template(str(file), {}).template.source == CHATML
    with raises(DataError, "no_such_path", key="data.chat_template", mentions=["none.jinja"]):
        _ = encoder.with_template(str(tmp_path / "none.jinja"), {}).template


def test_no_template_is_refused_with_the_way_out(encoder):
    facts = ["here:1", "data.chat_template=FILE"]
    with raises(DataError, "no_chat_template", key="data.chat_template", row="here:1", mentions=facts):
        encode(encoder, record(QUESTION, ANSWER))


def test_every_assistant_turn_is_scored_with_its_end_token(encoder):
    chat = encoder.with_template(CHATML, {})
    answer = (*ANSWER, turn("user", "and?"), turn("assistant", "black"))
    prompt_ids, (response,), _ = encode(chat, record(QUESTION, answer))
    assert chat.decode(prompt_ids).endswith("<|im_start|>assistant\n")
    assert chat.decode(response.token_ids[response.scored]) == "it is blue<|im_end|>black<|im_end|>"
    unscored = np.setdiff1d(np.arange(len(response.token_ids)), response.scored)
    assert chat.decode(response.token_ids[unscored]) == "\n<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n"


def test_a_tool_turn_inside_an_answer_is_not_scored(encoder):
    chat = encoder.with_template(CHATML, {})
    answer = (turn("assistant", "look"), turn("tool", "blue"), turn("assistant", "it is blue"))
    _, (response,), _ = encode(chat, record(QUESTION, answer))
    assert chat.decode(response.token_ids[response.scored]) == "look<|im_end|>it is blue<|im_end|>"


def test_context_of_each_turn_is_the_context_at_inference(encoder):
    """The tokens before the second response are those of its prompt at inference."""
    chat = encoder.with_template(CHATML, {})
    later = (*ANSWER, turn("user", "and?"))
    prompt_ids, (response,), _ = encode(chat, record(QUESTION, (*later, turn("assistant", "black"))))
    context = encoder.tokenizer.apply_chat_template(
        [*QUESTION, *later], chat_template=CHATML, add_generation_prompt=True, return_dict=False
    )
    assert [*prompt_ids, *response.token_ids][: len(context)] == context


def test_a_template_that_rewrites_history_is_a_defect_only_where_it_matters(encoder):
    """The template removes thoughts from earlier turns, so only the last response can be learned."""
    chat = encoder.with_template(FORGETFUL, {})
    thoughtful = turn("assistant", "<think>the sky</think>it is blue")
    history = (*QUESTION, thoughtful, turn("user", "and?"))
    prompt_ids, (response,), _ = encode(chat, record(history, ANSWER))
    assert "think" not in chat.decode(prompt_ids)
    assert chat.decode(response.token_ids) == "it is blue<|im_end|>"
    with pytest.raises(Defect) as caught:
        encode(chat, record(QUESTION, (thoughtful, turn("user", "and?"), *ANSWER)))
    assert caught.value.code == "template_rewrites"


def test_a_generation_prompt_that_the_answer_lacks_is_a_defect(encoder):
    template = CHATML.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    with pytest.raises(Defect) as caught:
        encode(encoder.with_template(template, {}), record(QUESTION, ANSWER))
    assert caught.value.code == "template_rewrites"


def test_tools_and_variables_reach_the_template(encoder):
    template = "{% if tools %}{{ tools[0].name }} {% endif %}{{ mood }} {{ place }}\n" + CHATML
    chat = encoder.with_template(template, {"mood": "glum", "place": "here"})
    row = record(QUESTION, ANSWER, tools=({"name": "look"},), template_kwargs={"mood": "merry"})
    assert chat.decode(encode(chat, row)[0]).startswith("look merry here\n")


CALL = ({"type": "function", "function": {"name": "look", "arguments": {}}},)


READS_SCHEMAS = "{% if tools %}{{ tools[0].name }}{% endif %}" + CHATML
READS_CALLS = CHATML.replace("{{ m.content }}", "{{ m.content }}{{ m.tool_calls or '' }}")


@pytest.mark.parametrize(
    ("template", "schemas", "calls", "is_counted"),
    [
        (CHATML, True, False, True),
        (CHATML, False, True, True),
        (CHATML, False, False, False),
        (READS_SCHEMAS, True, False, False),
        (READS_SCHEMAS, False, True, True),
        (READS_CALLS, False, True, False),
        (READS_CALLS, True, True, True),
    ],
)
def test_tools_that_a_template_does_not_write_are_counted(encoder, template, schemas, calls, is_counted):
    """Else a model would learn answers to tools that it never saw, without a word."""
    answer = (turn("assistant", "let me look", **({"tool_calls": CALL} if calls else {})),)
    row = record(QUESTION, answer, tools=({"name": "look"},) if schemas else ())
    _, _, changes = encode(encoder.with_template(template, {}), row)
    assert ("tools_left_out" in changes) is is_counted


def test_an_answer_of_unwritten_tool_calls_names_the_template(encoder):
    with pytest.raises(Defect) as caught:
        encode(encoder.with_template(CHATML, {}), record(QUESTION, (turn("assistant", "", tool_calls=CALL),)))
    assert caught.value.code == "empty_response"
    assert "chat template" in caught.value.detail


def test_a_refusing_template_is_a_defect_of_the_row(encoder):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    chat = encoder.with_template(template, {})
    with pytest.raises(Defect) as caught:
        encode(chat, record(QUESTION, ANSWER))
    assert caught.value.code == "template_error"
    assert "no system" in caught.value.detail  # the template's own message
    assert encode(chat, record(QUESTION[1:], ANSWER))


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{{ raise_exception('never') }}", "template_error"),
        ("{{ messages[0].content }}", "template_without_answer"),
    ],
)
def test_a_template_that_cannot_serve_is_refused(encoder, template, code):
    with raises(DataError, code, key="data.chat_template"):
        _ = encoder.with_template(template, {}).turn_end_token_id


def test_two_tokens_after_an_answer_the_first_ends_it(encoder):
    """Phi-3 writes its end of turn, then the end of text. Samplers stop at the first."""
    template = CHATML.replace("<|im_end|>\n{% endfor %}", "<|im_end|>{% endfor %}</s>")
    chat = encoder.with_template(template, {})
    assert chat.decode([chat.turn_end_token_id]) == "<|im_end|>"


def test_an_added_line_break_ends_nothing(encoder):
    """Gemma's added tokens include line breaks. A template that ends turns with one has no end token."""
    from copy import deepcopy

    tokenizer = deepcopy(encoder.tokenizer)
    tokenizer.add_tokens(["\n"])
    assert Encoder(tokenizer, encoder.end_token_id, chat_template=PLAIN_TURNS).turn_end_token_id == encoder.end_token_id


def test_named_templates_without_a_default(encoder):
    from copy import deepcopy

    tokenizer = deepcopy(encoder.tokenizer)
    tokenizer.chat_template = {"one": CHATML, "two": LLAMA}
    with raises(DataError, "several_templates", key="data.chat_template", mentions=["data.chat_template=FILE"]):
        _ = Encoder(tokenizer, encoder.end_token_id).template


def test_digest_depends_on_template_and_variables(encoder):
    digests = {
        ChatTemplate(encoder.tokenizer, source, kwargs).digest
        for source in (CHATML, LLAMA)
        for kwargs in ({}, {"mood": "glum"})
    }
    assert len(digests) == 4


@pytest.mark.parametrize("template", ["chatml", "llama", "plain"])
@pytest.mark.parametrize("begun", ["Sure, ", "Sure,"])
def test_an_answer_continues_the_turn_that_the_prompt_begins(encoder, template, begun):
    """The prompt is that of transformers' `continue_final_message`, and the whole is one turn."""
    chat = encoder.with_template(TEMPLATES[template], {})
    prompt = (*QUESTION, turn("assistant", begun))
    prompt_ids, (response,), _ = encode(chat, record(prompt, ANSWER))
    opened = encoder.tokenizer.apply_chat_template(
        list(prompt), chat_template=TEMPLATES[template], continue_final_message=True, tokenize=False
    )
    assert chat.decode(prompt_ids) == opened
    assert opened.rstrip().endswith("Sure,")  # a template may trim the white space after it
    whole = chat.template.render((*QUESTION, turn("assistant", begun + "it is blue")), open_response=False)
    learned = chat.decode([*prompt_ids, *response.token_ids[:-1]])
    assert whole.startswith(learned)
    assert learned.endswith(begun + "it is blue")


def test_a_tool_call_at_the_end_of_a_prompt_is_closed(encoder):
    chat = encoder.with_template(CHATML, {})
    call = turn("assistant", "look", tool_calls=[{"name": "look"}])
    prompt_ids, _, _ = encode(chat, record((*QUESTION, call), ANSWER))
    assert chat.decode(prompt_ids).endswith("look<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("start", ["", "\n", "  {% if mood %}x{% endif %}\n", " text "])
def test_a_standalone_template_has_the_variables_as_defaults(encoder, start):
    """A saved model has no settings: its template alone gives the same text, and can still be overridden."""
    source = start + "{% if mood is defined %}{{ mood }} {{ day }} {{ more | tojson }}{% endif %}" + PLAIN_TURNS
    kwargs = {"mood": 'it\'s "glum"\n{% if %}', "day": date(2026, 1, 2), "more": {"a": [True, None, 1.5, "é"]}}
    tokenizer = encoder.tokenizer
    template = Encoder(tokenizer, encoder.end_token_id, chat_template=source, template_kwargs=kwargs)
    kwargs = {**kwargs, "day": "2026-01-02"}
    for variables in ({}, {"mood": "calm", "day": False}):
        expected = ChatTemplate(tokenizer, source, kwargs).render(ANSWER, open_response=True, kwargs=variables)
        alone = ChatTemplate(tokenizer, template.given_template, {})
        assert alone.render(ANSWER, open_response=True, kwargs=variables) == expected
    assert encoder.given_template is None, "the tokenizer has its own template already"
