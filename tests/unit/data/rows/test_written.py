"""Rows written in a format and read again are the same records; what a format has no room for is counted."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import raises
from support.formats import read_rows_of
from tiltlm.core.errors import DataError
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.dataset import survey
from tiltlm.data.files.sources import read_rows
from tiltlm.data.files.writing import write_rows
from tiltlm.data.rows.columns import detect
from tiltlm.data.rows.formats.catalog import FORMATS, WRITTEN
from tiltlm.data.rows.records import to_record
from tiltlm.data.rows.written import Target
from tiltlm.data.whole_rows import whole_rows

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ANSWERS = WORDS.filter(str.strip)
PLAIN = st.text("abcåß \n\t\"'{}[],;", min_size=1, max_size=12).filter(lambda text: text.strip() == text)
"""Text that stays the same in a transcript, whose turns lose white space at their ends."""
SCORE = st.integers(-5, 5).map(float)


def asked(words):
    return [{"role": "user", "content": words}]


def answered(words):
    return [{"role": "assistant", "content": words}]


@st.composite
def prompts(draw, form):
    """Draw a prompt in the form that a format needs."""
    if form in ("text", "any", "history"):
        return draw(ANSWERS)
    if form == "transcript":
        turns = draw(st.lists(PLAIN, min_size=1, max_size=5).filter(lambda t: len(t) % 2))
        names = ("\n\nHuman: ", "\n\nAssistant: ")
        return "".join(names[k % 2] + text for k, text in enumerate(turns)) + "\n\nAssistant:"
    system = draw(st.lists(WORDS.filter(str.strip), max_size=1))
    turns = draw(st.lists(ANSWERS, min_size=1, max_size=5).filter(lambda t: len(t) % 2))
    roles = ("user", "assistant")
    return [{"role": "system", "content": text} for text in system] + [
        {"role": roles[k % 2], "content": text} for k, text in enumerate(turns)
    ]


def of_form(form, text):
    if form in ("turns", "whole"):
        return answered(text)
    return f" {text}" if form == "transcript" else text


@st.composite
def rows(draw, form, shape):
    """Draw a row of our columns that a format holds without loss."""
    kind, holds = form.form, form.holds
    row = {"prompt": draw(prompts(kind))}
    texts = PLAIN if kind == "transcript" else ANSWERS
    if shape == "pairs":
        answers = draw(st.lists(texts, min_size=2, max_size=2, unique_by=str.strip))
        row |= {"chosen": of_form(kind, answers[0]), "rejected": of_form(kind, answers[1])}
        if {"score_chosen", "score_rejected"} <= holds:
            row |= {"score_chosen": draw(SCORE), "score_rejected": draw(SCORE)}
        if "preference" in holds:
            row["preference"] = draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
        elif "tie" in holds:
            row["preference"] = draw(st.sampled_from([0.5, 1.0]))
    elif shape == "lists":
        answers = draw(st.lists(texts, min_size=2, max_size=4, unique_by=str.strip))
        values = draw(st.lists(st.integers(1, 4), min_size=len(answers), max_size=len(answers)))
        order = ("ranks", sorted(values)) if "ranks" in holds else ("scores", [float(v) for v in values])
        if order[0] == "ranks":
            order = ("ranks", [value - min(values) + 1 for value in values])
        row |= {"completions": [of_form(kind, text) for text in answers], order[0]: order[1]}
    else:
        row["completion"] = of_form(kind, draw(texts))
        if shape == "unpaired":
            row["label"] = draw(st.booleans())
    more = {
        "id": st.integers(0, 99).map(str), "source": st.sampled_from(["a", "b"]), "weight": st.sampled_from([0.5, 1.0]),
        "system": ANSWERS.map(str.strip), "tools": st.just([{"name": "look", "parameters": {}}]),
        "chat_template_kwargs": st.just({"thinking": True}), "offset": st.sampled_from([0.0, 1.5]),
    }  # fmt: skip
    text_only = {"system"} if kind in ("turns", "whole") else {"tools", "chat_template_kwargs"}
    of_pairs = {"offset"} if shape != "pairs" else set()
    for role in sorted(more.keys() & holds - text_only - of_pairs):
        row[role] = draw(more[role])
    return row


CASES = [(form, shape) for form in WRITTEN.values() for shape in sorted(form.writers)]


def comparable(record, schema, form):
    """Return a record without its place, and in the order in which a format may give its responses."""
    name = record.id if "id" in schema.roles else ""
    (comparison, *_) = record.comparisons or (None,)
    if schema.shape == "pairs" and comparison.preference == 0.5 and "preference" not in form.holds:
        first, second = sorted(range(2), key=lambda k: json.dumps(record.responses[k]))
        record = replace(record, responses=(record.responses[first], record.responses[second]))
    ranks = tuple(rank - min(record.ranks) for rank in record.ranks)  # NeMo counts from 0
    return replace(record, location="", id=name, changes=(), ranks=ranks)


def written(given_rows, form):
    """Return the rows of a format, and what was lost."""
    schema, records = read_rows_of(given_rows)
    losses = {}
    target = Target.of(form, schema)
    return schema, records, [row for record in records for row in target.write(record, losses)], losses


@pytest.mark.parametrize(("form", "shape"), CASES, ids=lambda case: getattr(case, "name", case))
@settings(max_examples=20)
@given(data=st.data())
def test_what_is_written_is_read_as_it_was(form, shape, data):
    first = data.draw(rows(form, shape))
    given_rows = [first, *data.draw(st.lists(rows(form, shape), max_size=2))]
    if form.rows_per_list:  # two lists of one prompt that follow each other are one
        given_rows = [{**row, "prompt": f"{k} {row['prompt']}"} for k, row in enumerate(given_rows)]
    schema, records, found, losses = written(given_rows, form)
    assert losses == {}
    again, reread = read_rows_of(found)
    assert again.shape == shape
    assert [comparable(r, again, form) for r in reread] == [comparable(r, schema, form) for r in records]
    assert written(given_rows, form)[2] == found


def samples(form, shape):
    """Return two rows of our columns that a format holds."""
    kind = form.form
    prompt = asked("Why?") if kind in ("turns", "whole") else "Why?"
    prompt = "\n\nHuman: Why?\n\nAssistant:" if kind == "transcript" else prompt
    answers = [of_form(kind, "Yes."), of_form(kind, "No.")]
    scores = {"score_chosen": 2.0, "score_rejected": 1.0} if "score_chosen" in form.holds else {}
    order = {"ranks": [1, 2]} if "ranks" in form.holds else {"scores": [2.0, 1.0]}
    row = {
        "pairs": {"prompt": prompt, "chosen": answers[0], "rejected": answers[1], **scores},
        "lists": {"prompt": prompt, "completions": answers, **order},
        "unpaired": {"prompt": prompt, "completion": answers[0], "label": True},
        "demonstrations": {"prompt": prompt, "completion": answers[0]},
    }[shape]
    tie = {"preference": 0.5} if "tie" in form.holds else {}
    return [{"id": "1", **row}, {"id": "2", **row, **tie}]


@pytest.mark.parametrize("ending", [".csv", ".json", ".parquet", ".arrow", ""])
@pytest.mark.parametrize(("form", "shape"), CASES, ids=lambda case: getattr(case, "name", case))
def test_every_format_in_every_kind_of_file(form, shape, ending, tmp_path):
    _, records, found, losses = written(samples(form, shape), form)
    assert losses == {}
    write_rows(tmp_path / f"rows{ending}", found)
    read = list(whole_rows(read_rows(DataSettings(train=str(tmp_path / f"rows{ending}")))))
    schema = detect(survey([read])[0], DataSettings(train="a"))
    assert schema.format == (form.name if form.columns else "")
    reread = [to_record(row, schema) for row in read]
    if form.rows_per_list:  # these two are lists of one prompt
        assert reread[0].responses == records[0].responses * 2
    else:
        assert [comparable(r, schema, form) for r in reread] == [comparable(r, schema, form) for r in records]


def pair(**more):
    return {"prompt": "Why?", "chosen": "So.", "rejected": "No.", **more}


def lost(row, name):
    *_, found, losses = written([row], WRITTEN[name])
    return found, set(losses)


LOST = {
    "a tie": (pair(preference=0.5), "trl", "ties", 0),
    "a soft label": (pair(preference=0.75), "trl", "soft_labels", 1),
    "a soft label in ranks": (pair(preference=0.75), "nemo", "soft_labels", 1),
    "a weight": (pair(weight=0.5), "trl", "weight", 1),
    "a margin": (pair(offset=1.0), "trl", "offset", 1),
    "scores": (pair(score_chosen=2, score_rejected=1), "hh", "scores", 1),
    "reference log-probabilities": (pair(ref_chosen_logps=-1, ref_rejected_logps=-2), "trl", "ref_logps", 1),
    "a system turn": (pair(system="Be brief."), "hh", "system", 1),
    "the system turn of a conversation": (
        pair(prompt=[{"role": "system", "content": "Be brief."}, *asked("Why?")]), "hh", "system", 1,
    ),
    "tools": (pair(prompt=asked("Why?"), tools=[{"name": "look"}]), "axolotl", "tools", 1),
    "a tool call": (
        pair(prompt=asked("Why?"), chosen=[{"role": "assistant", "content": "", "tool_calls": [{"name": "look"}]}]),
        "sharegpt", "turn_keys", 0,
    ),
    "earlier turns": (pair(prompt=[*asked("Hi."), *answered("Yes?"), *asked("Why?")]), "ultrafeedback", "turns", 0),
    "a mark of transcripts in text": (pair(chosen="So.\n\nHuman: ha"), "hh", "turns", 0),
    "an empty prompt": ({"prompt": " ", "completion": "So."}, "messages", "no_prompt", 0),
    "turns of two speakers": (
        pair(prompt=asked("Why?"), chosen=[*answered("So"), *asked("?"), *answered("Yes")], rejected=answered("No")),
        "hh-messages", "turns", 0,
    ),
    "more than two responses": (
        {"prompt": "Why?", "completions": ["a", "b", "c"], "ranks": [1, 2, 3]}, "trl", "lists", 3,
    ),
    "a tie in a list": ({"prompt": "Why?", "completions": ["a", "b", "c"], "ranks": [1, 1, 2]}, "trl", "ties", 2),
    "scores in ranks": ({"prompt": "Why?", "completions": ["a", "b"], "scores": [3, 1]}, "nemo", "scores", 1),
    "weights of comparisons": (
        {"prompt": "Why?", "completions": ["a", "b"], "comparisons": [[0, 1, 0.5]]}, "trl", "comparison_weights", 1,
    ),
    "scores against the preference": (
        pair(preference=1, score_chosen=1, score_rejected=2), "distilabel", "score_order", 0,
    ),
    "the rejected response": (pair(), "prompt-completion", "rejected", 1),
    "the pairing": (pair(), "kto", "pairing", 2),
    "an undesirable row": ({"prompt": "Why?", "completion": "No.", "label": False}, "prompt-completion", "labels", 0),
    "token ids": ({"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}, "trl", "tokens", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_is_counted(name):
    row, form, cause, num_written = LOST[name]
    if form == "ultrafeedback":
        row = {**row, "score_chosen": 2, "score_rejected": 1}
    found, causes = lost(row, form)
    assert cause in causes
    assert len(found) == num_written


def test_a_certain_preference_for_the_rejected_response_is_turned_round_without_loss():
    found, causes = lost(pair(preference=0.0, score_chosen=1, score_rejected=2), "trl")
    assert causes == set()
    assert found == [{"prompt": "Why?", "chosen": "No.", "rejected": "So.", "score_chosen": 2, "score_rejected": 1}]


def test_token_ids_are_kept_in_our_own_columns():
    rows = [
        {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3, 0], "chosen_ended": False, "rejected_ended": True},
    ]
    assert written(rows, WRITTEN["tiltlm"])[2:] == (rows, {})
    lists = [{"prompt_ids": [1], "completions_ids": [[2], [3]], "scores": [1.0, 2.0]}]
    assert written(lists, WRITTEN["tiltlm"])[2:] == (lists, {})


def test_text_without_a_prompt_stays_such_text():
    assert written([{"text": "Once."}], WRITTEN["tiltlm"])[2:] == ([{"text": "Once."}], {})


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "Why?", "completion": "So."}, "hh"),
        ({"prompt": "Why?", "completion": "So.", "label": True}, "sharegpt-pairs"),
        ({"prompt": "Why?", "completions": ["a", "b"], "ranks": [1, 2]}, "distilabel"),
        ({"prompt": "Why?", "completions": ["a", "b"], "comparisons": [[0, 1]]}, "nemo"),
        (pair(), "distilabel"),
    ],
)
def test_a_format_without_room_for_such_data_is_refused(row, name):
    form = WRITTEN.get(name) or replace(WRITTEN["sharegpt"], writers={"pairs": dict})
    with raises(DataError, "wrong_data_shape", key="--to", mentions=[f"--to {form.name}"]):
        written([row], form)


def test_the_first_answer_is_not_always_the_winner():
    rows = [pair(prompt=f"Why {k}?") for k in range(40)]
    winners = [row["winner"] for row in written(rows, WRITTEN["answers"])[2]]
    assert 10 <= winners.count("A") <= 30


def test_names_of_formats_that_are_written_are_one_a_format():
    names = [form.name for form in FORMATS if form.writers]
    assert len(set(names)) == len(names)
