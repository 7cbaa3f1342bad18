"""From files to examples: splits, row counts, fingerprints, notes and refusals."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.errors import raises
from support.tokenizers_and_templates import CHATML, pair
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.example import Comparison
from tiltlm.data import DataSettings, load_data
from tiltlm.data.cache.fingerprints import fingerprint, is_held_out
from tiltlm.data.tokens.encoder import Encoder

PAIRS = [pair(i) for i in range(40)]


@pytest.fixture
def load(encoder, jsonl):
    """Return a function that loads rows (or raw lines) from the file `data.jsonl`."""

    def run(rows, shape="pairs", *, needs=(), uses=None, partners=False, reference=False, **settings):
        return load_data(
            DataSettings(train=jsonl(rows), **settings),
            encoder,
            shape,
            needs=frozenset(needs),
            uses=uses,
            needs_partners=partners,
            use_reference_columns=reference,
        )

    return run


def test_pairs(load, encoder):
    data = load(PAIRS)
    assert len(data.train) == 40
    assert len(data.held_out) == 0
    first = data.train[0]
    assert first.id == "data.jsonl:1"
    assert encoder.decode(first.prompt_ids) == "<s>question 0"
    assert [encoder.decode(r.token_ids) for r in first.responses] == [" yes 0</s>", " no 0</s>"]
    assert first.comparisons == (Comparison(0, 1),)
    assert data.end_token_id == encoder.end_token_id
    assert any("'</s>'" in note and "1" in note for note in data.notes)
    assert not data.has_reference


GOOD = st.builds(pair, st.integers(0, 9))
BAD = st.sampled_from(
    [
        "{", "[]", '{"prompt": 1}', pair(chosen=None), pair(rejected=" "), pair(rejected=" yes 0"),
        pair(chosen=" yes" * 400), pair(weight=-1), pair(prompt=None), pair(chosen=" x </s>", rejected=" x "),
    ]
)  # fmt: skip


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(GOOD, BAD), max_size=12))
def test_every_row_is_accounted_for(load, rows):
    """total = train + held out + dropped for any rows, and the counts agree with the examples."""
    data = load([*PAIRS[:8], *rows], max_bad=1.0, eval_fraction=0.3, max_length=200)
    accounting = data.accounting
    assert accounting.total == 8 + len(rows) == accounting.kept + accounting.dropped
    assert (accounting.kept_train, accounting.held_out) == (len(data.train), len(data.held_out))
    assert accounting.lengths["prompt"].total() == accounting.kept


def test_defects_are_named_by_line(load):
    rows = [*PAIRS, "{broken", pair(chosen=""), pair(rejected=" yes 0"), pair(rejected=None)]
    places = [f"data.jsonl:{line}" for line in (41, 42, 43, 44)]
    with raises(DataError, "too_many_defects", key="data.max_bad", mentions=[*places, "9.1%", "malformed_json × 1"]):
        load(rows)
    data = load(rows, max_bad=0.1)
    assert len(data.train) == 40
    assert {cause: t.count for cause, t in data.accounting.losses.items()} == {
        "malformed_json": 1, "empty_response": 2, "identical_responses": 1,
    }  # fmt: skip
    assert data.accounting.losses["malformed_json"].examples[0].startswith("data.jsonl:41: ")


def test_on_bad_error_stops_at_one(load):
    facts = ["41", "data.on_bad=error", "malformed_json × 1", "data.jsonl:41"]
    with raises(DataError, "too_many_defects", key="data.on_bad", mentions=facts):
        load([*PAIRS, "{broken"], on_bad="error")


@pytest.mark.parametrize(("rows", "cause"), [(["{", "nonsense"], "malformed_json"), ([{}, {}], "missing_value")])
def test_a_file_without_a_readable_row(load, rows, cause):
    with raises(DataError, "too_many_defects", mentions=["100.0%", f"{cause} × 2", "data.jsonl:1", "data.jsonl:2"]):
        load(rows, max_bad=1.0)


def test_nothing_left_to_train_on(load):
    with raises(DataError, "no_rows_left", mentions=["too_long"]):
        load(PAIRS, truncation="drop", max_length=3)


def test_unknown_column_wins_over_everything(load):
    facts = ["data.jsonl:2", "'user'", "data.columns.prompt=user"]
    with raises(DataError, "unknown_column", key="data.columns", row="data.jsonl:2", mentions=facts):
        load([{"chosen": "a", "rejected": "b"}, {"chosen": "a", "rejected": "b", "user": "c"}])


def test_a_renamed_prompt_trains_on_the_prompt(load, encoder):
    rows = [{"user": "what", "chosen": " a", "rejected": " b"}]
    data = load(rows, columns={"prompt": "user"})
    assert encoder.decode(data.train[0].prompt_ids) == "<s>what"


def test_held_out_prompts_are_whole_and_stay_when_rows_are_added(load):
    twice = [pair(i, chosen=f" {word}") for i in range(40) for word in ("a", "b")]
    few, many = load(twice, eval_fraction=0.25), load([*twice, *(pair(i) for i in range(40, 80))], eval_fraction=0.25)
    prompts = {e.prompt_ids.tobytes() for e in few.held_out}
    assert prompts.isdisjoint(e.prompt_ids.tobytes() for e in few.train)
    assert len(few.held_out) == 2 * len(prompts)
    assert 2 <= len(prompts) <= 18
    assert prompts == {e.prompt_ids.tobytes() for e in many.held_out[: len(few.held_out)]}
    other = load(twice, eval_fraction=0.25, eval_seed=1)
    assert prompts != {e.prompt_ids.tobytes() for e in other.held_out}


def test_share_of_held_out_prompts():
    """Binomial(20,000, ¼): within five standard deviations, 306."""
    assert abs(sum(is_held_out(f"question {i}", 0.25, seed=0) for i in range(20_000)) - 5000) < 306
    assert not any(is_held_out(f"question {i}", 0.0, seed=0) for i in range(100))


def test_no_prompt_is_held_out_by_chance(load):
    with raises(DataError, "nothing_held_out", key="data.eval_fraction", mentions=["data.eval_fraction=0.001", "40"]):
        load(PAIRS, eval_fraction=0.001)


def test_an_evaluation_file_of_its_own(load, jsonl):
    data = load(PAIRS, eval=jsonl([pair(1), pair(99)], "held.jsonl"))
    assert [e.id for e in data.held_out] == ["held.jsonl:1", "held.jsonl:2"]
    assert (data.accounting.total, data.accounting.kept_train, data.accounting.held_out) == (42, 40, 2)
    (note,) = {*data.notes} - {*load(PAIRS, eval=jsonl([pair(99)], "held.jsonl")).notes}
    assert "1" in note  # the number of prompts in both parts


def test_fingerprint_is_of_content(load):
    """Ids and locations do not change it; order, tokens and all other fields do."""
    data = load(PAIRS)
    assert data.fingerprint == load([{**row, "id": str(i), "source": "lab"} for i, row in enumerate(PAIRS)]).fingerprint
    changed = [
        load(PAIRS[::-1]),
        load(PAIRS[1:]),
        load([pair(0, weight=2), *PAIRS[1:]]),
        load([pair(0, offset=0.5), *PAIRS[1:]]),
        load([pair(0, score_chosen=1, score_rejected=0), *PAIRS[1:]]),
        load([pair(0, chosen=" yes"), *PAIRS[1:]]),
        load(PAIRS, "unpaired"),
        load(PAIRS, eval_fraction=0.5),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in changed)}) == 1 + len(changed)


def test_fingerprint_depends_on_where_parts_and_responses_end(load):
    a, b = load(PAIRS).train[:2]
    assert fingerprint([a, b], []) != fingerprint([a], [b]) != fingerprint([], [a, b])


def test_pairs_as_labels_with_partners(load):
    data = load(PAIRS, "unpaired", partners=True, eval_fraction=0.3)
    assert all(e.labels == (True, False) and len(e.partners) == 2 for e in (*data.train, *data.held_out))
    assert data.notes[0].startswith("pairs → unpaired")
    assert data.fingerprint == load(PAIRS, "unpaired", eval_fraction=0.3).fingerprint


def test_unpaired_rows(load):
    rows = [{"prompt": f"q{i}", "completion": f" a{i}", "label": i % 3 == 0} for i in range(9)]
    data = load(rows, "unpaired", partners=True)
    assert [e.labels for e in data.train] == [(i % 3 == 0,) for i in range(9)]
    with raises(DataError, "wrong_data_shape", mentions=["kto", "`chosen`", "`rejected`"]):
        load(rows)


def test_lists_are_one_example_each(load):
    rows = [{"prompt": "q", "completions": [" a", " b", " c"], "scores": [3, 1, 2]} for _ in range(2)]
    data = load(rows)
    assert [len(e.comparisons) for e in data.train] == [3, 3]
    assert data.train[0].scores == (3.0, 1.0, 2.0)


def test_lists_for_an_objective_of_lists(load):
    rows = [{"prompt": f"q{i}", "completions": [" a", " b", " c"], "ranks": [2, 1, 2]} for i in range(3)]
    data = load([*rows, {**rows[0], "ranks": [1, None, 2]}], "lists", needs=["ranks"], max_bad=0.5)
    assert [e.ranks for e in data.train] == [(2, 1, 2)] * 3
    (loss,) = data.accounting.losses["missing_value"].examples
    assert loss.startswith("data.jsonl:4: ranks[1] ")
    assert data.accounting.changes == {}
    with raises(DataError, "missing_column", key="data.columns.scores"):
        load(rows, "lists", needs=["scores"])


def test_pairs_for_an_objective_of_lists_stay_apart(load):
    """Two pairs of one prompt are two lists, because the order between their responses is unknown."""
    rows = [pair(0, score_chosen=2, score_rejected=1), pair(0, chosen=" maybe", score_chosen=1, score_rejected=1)]
    data = load(rows, "lists", needs=["scores"])
    assert [(e.ranks, e.scores) for e in data.train] == [((1, 2), (2.0, 1.0)), ((1, 2), (1.0, 1.0))]
    assert data.notes[0].startswith("pairs → lists")


def test_a_score_tie_names_row_and_way_out(load):
    rows = [*(pair(i, score_chosen=i + 1, score_rejected=i) for i in range(9)), pair(score_chosen=1, score_rejected=1)]
    with raises(DataError, "too_many_defects", mentions=["score_tie × 1", "dpo", "data.jsonl:10"]):
        load(rows, needs=["scores", "strict_scores"])
    assert len(load(rows, needs=["scores"]).train) == 10


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("weight", -0.5, "-0.5"),
        ("weight", "NaN", "'NaN'"),
        ("weight", "heavy", "'heavy'"),
        ("preference", 1.5, "1.5"),
        ("offset", "inf", "'inf'"),
        ("votes", [-1, 2], "-1"),
    ],
)
def test_impossible_numbers_name_row_and_column(load, column, value, shown):
    facts = ["50.0%", "wrong_type × 1", f"data.jsonl:2: {column}", shown]
    with raises(DataError, "too_many_defects", key="data.max_bad", mentions=facts):
        load([pair(0), pair(1, **{column: value})])


def test_columns_an_objective_cannot_use(load):
    with raises(DataError, "not_used_by_objective", mentions=["data.ignore=[weight]"]):
        load([pair(weight=2)], uses=frozenset({"offset"}))
    assert load([pair(weight=2)], uses=frozenset(), ignore=("weight",)).train[0].weight == 1.0


def test_reference_columns(load):
    rows = [pair(i, ref_chosen_logps=-i - 1, ref_rejected_logps=-2) for i in range(4)]
    with raises(DataError, "unused_reference_columns", key="reference.name", mentions=["ref_chosen_logps"]):
        load(rows)
    data = load(rows, reference=True)
    assert data.has_reference
    assert [r.ref_logps for r in data.train[1].responses] == [-2.0, -2.0]
    with raises(ConfigError, "conflict", key="reference.name"):
        load(rows, "unpaired", reference=True, partners=True)
    with raises(DataError, "missing_column", key="reference.name", mentions=["reference=columns", "ref_chosen_logps"]):
        load(PAIRS, reference=True)
    with raises(DataError, "too_many_defects", mentions=["missing_value × 1", "data.jsonl:5"]):
        load([*rows, pair(5)], reference=True)


def test_conversations(load, encoder):
    user, blue, black = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "b"), ("assistant", "c")))
    rows = [{"chosen": [user, blue], "rejected": [user, black]}]
    data = load(rows, chat_template=CHATML)
    assert data.encoder.decode(data.train[0].prompt_ids) == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert data.end_token_id == encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert any("'</s>'" in note for note in data.notes)  # not the model's own end token
    with raises(DataError, "no_chat_template", key="data.chat_template", row="data.jsonl:1"):
        load(rows)
    with raises(DataError, "text_and_conversations"):
        load([*rows, {"prompt": "a", "chosen": "b", "rejected": "c"}], chat_template=CHATML, as_chat=False)


def test_long_conversations_are_cut_at_turns_and_counted(load):
    """Oldest turns are removed first, then tokens of a too long last question; both are counted separately."""
    history = [{"role": r, "content": c} for i in range(6) for r, c in (("user", f"q {i}"), ("assistant", f"a {i}"))]
    blue, black = ([{"role": "assistant", "content": c}] for c in ("blue", "black"))
    short = {"prompt": [{"role": "user", "content": "the sky?"}], "chosen": blue, "rejected": black}
    many = {**short, "prompt": [*history, *short["prompt"]]}
    long = {**short, "prompt": [*history, {"role": "user", "content": "the sky and " * 20}]}
    data = load([short, many, long], chat_template=CHATML, max_length=60)
    texts = [data.encoder.decode(e.prompt_ids) for e in data.train]
    opening, question = "<|im_start|>user\n", "<|im_start|>user\nthe sky?<|im_end|>\n<|im_start|>assistant\n"
    assert texts[0] == question
    assert texts[1].startswith(opening)
    assert texts[1].endswith(f"a 5<|im_end|>\n{question}")
    assert not texts[2].startswith(opening)
    assert texts[2].endswith("the sky and <|im_end|>\n<|im_start|>assistant\n")
    assert {cause: t.examples for cause, t in data.accounting.changes.items()} == {
        "turns_cut": ["data.jsonl:2"], "prompt_cut_left": ["data.jsonl:3"],
    }  # fmt: skip
    dropped = load([short, many], chat_template=CHATML, max_length=60, truncation="drop", max_bad=1.0)
    assert (len(dropped.train), list(dropped.accounting.losses)) == (1, ["too_long"])


def test_long_transcripts_are_cut_at_turns(load):
    start = "".join(f"\n\nHuman: question {i}\n\nAssistant: answer {i}" for i in range(9))
    rows = [{"chosen": start + " yes", "rejected": start + " no"}]
    data = load(rows, max_length=40)
    text = data.encoder.decode(data.train[0].prompt_ids)
    assert text.startswith("<s>\n\nHuman: question ")
    assert text.endswith("\n\nHuman: question 8\n\nAssistant:")
    assert list(data.accounting.changes) == ["turns_cut"]


def test_a_template_with_todays_date_gives_a_note(load):
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]
    dated = "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b') %}{% endif %}" + CHATML
    notes = load(rows, "demonstrations", chat_template=dated).notes
    assert any("data.chat_template_kwargs" in note for note in notes)


def test_every_assistant_turn(load):
    turns = [("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")]
    rows = [{"messages": [{"role": role, "content": content} for role, content in turns]}]
    last = load(rows, "demonstrations", chat_template=CHATML).train[0]
    every = load(rows, "demonstrations", chat_template=CHATML, assistant_turns="all").train[0]
    assert last.responses[0].scored is None
    assert every.responses[0].num_tokens == 2 * last.responses[0].num_tokens
    assert len(every.prompt_ids) < len(last.prompt_ids)
    with raises(ConfigError, "conflict", key="data.assistant_turns", mentions=["data.assistant_turns=all", "sft"]):
        load(PAIRS, assistant_turns="all")
    with raises(ConfigError, "no_effect", key="data.assistant_turns", mentions=["`messages`"]):
        load([{"text": "the sky"}], "demonstrations", assistant_turns="all")


def test_bare_text(load, encoder):
    data = load([{"text": "the sky"}, {"text": "hello"}], "demonstrations")
    assert [e.prompt_ids.tolist() for e in data.train] == [[encoder.begin_token_id]] * 2
    assert data.accounting.changes["empty_prompt"].count == 2
    many = load([{"text": f"the sky {i}"} for i in range(50)], "demonstrations", eval_fraction=0.3)
    assert 0 < len(many.held_out) < 50


def test_contradictions_and_unused_columns_are_noted(load):
    rows = [pair(0, metadata={"a": 1}), pair(0, chosen=" no 0", rejected=" yes 0"), pair(1), pair(1)]
    notes = load(rows).notes
    assert any("metadata" in note for note in notes)
    (note,) = {*notes} - {*load([rows[0], *rows[2:]]).notes}
    assert "1" in note  # the number of contradictions


def test_counts_are_json(load):
    accounting = load(PAIRS, eval_fraction=0.3).accounting.as_dict()
    assert json.loads(json.dumps(accounting)) == accounting


def test_a_limit_beyond_the_window(encoder, jsonl):
    from dataclasses import replace

    narrow = replace(encoder, window=16)
    path = jsonl(PAIRS)
    assert load_data(DataSettings(train=path), narrow, "pairs").max_length == 16
    with raises(DataError, "beyond_window", key="data.max_length", mentions=["17", "16"]):
        load_data(DataSettings(train=path, max_length=17), narrow, "pairs")


def noted(data, code):
    return [note for note in data.notes if getattr(note, "code", None) == code]


def test_text_is_wrapped_as_chat_where_there_is_a_template(load):
    data = load(PAIRS, chat_template=CHATML)
    first = data.train[0]
    decode = data.encoder.decode
    assert decode(first.prompt_ids) == "<|im_start|>user\nquestion 0<|im_end|>\n<|im_start|>assistant\n"
    assert [decode(r.token_ids) for r in first.responses] == ["yes 0<|im_end|>", "no 0<|im_end|>"]
    assert data.end_token_id == data.encoder.turn_end_token_id
    assert len(noted(data, "as_chat")) == 1
    assert not noted(load(PAIRS), "as_chat")
    chat = [{"role": "user", "content": "question 0"}]
    mixed = load([*PAIRS, {**pair(0), "prompt": chat, "chosen": "yes", "rejected": "no"}], chat_template=CHATML)
    assert (mixed.train[40].prompt_ids == first.prompt_ids).all()
    assert mixed.train[40].responses[0].token_ids[-1] == first.responses[0].token_ids[-1]


def test_as_chat_false_keeps_text(load, encoder, jsonl):
    with_template = Encoder(encoder.tokenizer, encoder.end_token_id, chat_template=CHATML)
    settings = DataSettings(train=jsonl(PAIRS))
    kept = load_data(replace(settings, as_chat=False), with_template, "pairs")
    assert kept.fingerprint == load(PAIRS).fingerprint
    assert not noted(kept, "as_chat")
    wrapped, asked = (load_data(s, with_template, "pairs") for s in (settings, replace(settings, as_chat=True)))
    assert wrapped.fingerprint == asked.fingerprint != kept.fingerprint
    held = [
        [e.id for e in load_data(replace(settings, eval_fraction=0.25, as_chat=c), with_template, "pairs").held_out]
        for c in (None, False)
    ]
    assert held[0] == held[1]  # the same rows are held out


HUMAN = "\n\nHuman: question {}\n\nAssistant:"
TRANSCRIPTS = [{"chosen": f"{HUMAN.format(k)} yes {k}", "rejected": f"{HUMAN.format(k)} no {k}"} for k in range(8)]


def test_transcripts_become_messages_where_there_is_a_template_unless_a_setting_keeps_them(load):
    data = load(TRANSCRIPTS, chat_template=CHATML)
    first = load(PAIRS, chat_template=CHATML).train[0]
    assert (data.train[0].prompt_ids == first.prompt_ids).all()
    assert len(noted(data, "transcripts")) == 1
    assert not noted(data, "as_chat")
    assert load(TRANSCRIPTS, chat_template=CHATML, transcripts="messages").fingerprint == data.fingerprint
    plain = load(TRANSCRIPTS)
    assert not noted(plain, "transcripts")
    assert plain.encoder.decode(plain.train[0].prompt_ids).endswith(HUMAN.format(0))


def test_the_setting_for_transcripts_is_not_that_for_other_text(load, encoder, jsonl):
    with_template = Encoder(encoder.tokenizer, encoder.end_token_id, chat_template=CHATML)
    both = DataSettings(train=jsonl(TRANSCRIPTS))
    kept = load_data(replace(both, transcripts="text"), with_template, "pairs")
    assert kept.fingerprint == load(TRANSCRIPTS).fingerprint
    mixed = [{"prompt": HUMAN.format(k), "chosen": f" yes {k}", "rejected": f" no {k}"} for k in range(8)]
    settings = DataSettings(train=jsonl([*mixed, *PAIRS], "mixed.jsonl"), as_chat=False, transcripts="messages")
    alike = replace(with_template, end_token_id=with_template.turn_end_token_id)  # so that both may stand together
    data = load_data(settings, alike, "pairs")
    assert data.encoder.decode(data.train[0].prompt_ids).startswith("<|im_start|>user")
    assert "<|im_start|>" not in data.encoder.decode(data.train[8].prompt_ids)


CHAT_PAIR = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("rows", "shape", "settings", "key"),
    [
        (PAIRS, "pairs", {"as_chat": False}, "as_chat"),
        (PAIRS, "pairs", {"as_chat": True}, "as_chat"),
        ([CHAT_PAIR], "pairs", {"as_chat": False, "chat_template": CHATML}, "as_chat"),
        ([CHAT_PAIR], "pairs", {"as_chat": True, "chat_template": CHATML}, "as_chat"),
        (PAIRS, "pairs", {"as_chat": False, "chat_template": CHATML}, "chat_template"),
        (PAIRS, "pairs", {"chat_template_kwargs": {"mood": "glum"}}, "chat_template_kwargs"),
        ([{"text": "Once"}], "demonstrations", {"chat_template": CHATML}, "chat_template"),
        (PAIRS, "pairs", {"split": "train"}, "split"),
        (PAIRS, "pairs", {"transcripts": "messages", "chat_template": CHATML}, "transcripts"),
        (PAIRS, "pairs", {"transcripts": "text", "chat_template": CHATML}, "transcripts"),
        (TRANSCRIPTS, "pairs", {"transcripts": "messages"}, "transcripts"),
        (TRANSCRIPTS, "pairs", {"transcripts": "text"}, "transcripts"),
        (TRANSCRIPTS, "pairs", {"transcripts": "messages", "as_chat": False, "chat_template": CHATML}, "as_chat"),
        (TRANSCRIPTS, "pairs", {"transcripts": "text", "as_chat": True, "chat_template": CHATML}, "as_chat"),
    ],
)
def test_settings_of_chat_and_splits_without_effect(load, rows, shape, settings, key):
    with raises(ConfigError, "no_effect", key=f"data.{key}"):
        load(rows, shape, **settings)


def test_reference_columns_of_text_need_to_know_its_form(load):
    rows = [pair(i, ref_chosen_logps=-1, ref_rejected_logps=-2) for i in range(4)]
    with raises(ConfigError, "missing_setting", key="data.as_chat"):
        load(rows, reference=True, chat_template=CHATML)
    assert load(rows, reference=True, chat_template=CHATML, as_chat=True).has_reference


def test_text_without_a_prompt_stays_text(load):
    assert not noted(load([{"text": "Once"}, {"text": "Twice"}], "demonstrations"), "as_chat")


@pytest.mark.parametrize(
    "column", [{"system": "be brief"}, {"tools": [{"name": "look"}]}, {"chat_template_kwargs": {"a": 1}}]
)
def test_columns_for_conversations_are_not_lost_in_text(load, column):
    rows = [pair(i, **column) for i in range(4)]
    with raises(DataError, "too_many_defects", mentions=["no_turns × 4"]):
        load(rows)
    assert len(load(rows, chat_template=CHATML).train) == 4


def test_labels_of_one_kind_are_refused(load):
    for label in (True, False):
        rows = [{"prompt": f"q{i}", "completion": f" a{i}", "label": label} for i in range(6)]
        with raises(DataError, "one_label", key="data.columns.label", mentions=["6", str(label).lower()]):
            load(rows, "unpaired")
        rows[0]["label"] = not label
        assert len(load(rows, "unpaired").train) == 6


@pytest.mark.parametrize("other", [0, False, "false"])
def test_minus_one_and_zero_are_not_one_label(load, other):
    rows = [{"prompt": f"q{i}", "completion": f" a{i}", "label": label} for i, label in enumerate([1, -1, 1, -1])]
    data = load(rows, "unpaired")
    assert [e.labels[0] for e in data.train] == [True, False, True, False]
    assert data.accounting.changes["minus_one"].count == 2
    with raises(DataError, "mixed_labels", key="data.columns.label", mentions=["data.jsonl:2"]):
        load([*rows, {**rows[0], "label": other}], "unpaired")


def test_held_out_labels_of_one_kind_are_noted(load, jsonl):
    rows = [{"prompt": f"q{i}", "completion": f" a{i}", "label": i % 2 == 0} for i in range(6)]
    held = jsonl([rows[0], rows[2]], "held.jsonl")
    assert len(noted(load(rows, "unpaired", eval=held), "one_label")) == 1
    assert not noted(load(rows, "unpaired", eval=jsonl(rows[:2], "held.jsonl")), "one_label")


@pytest.mark.parametrize("partners", [False, True])
def test_the_advice_on_held_out_prompts_where_all_rows_have_one(load, partners):
    rows = [{"prompt": "q", "completion": f" a{i}", "label": i % 2 == 0} for i in range(6)]
    code = "prompt_above_half" if partners else "nothing_held_out"
    with raises(DataError, code) as caught:
        load(rows, "unpaired", partners=partners, eval_fraction=1e-9)
    assert "raise" not in str(caught.value)


def test_ties_need_an_objective_that_uses_them(load):
    rows = [
        {"question": f"q{i}", "answer_a": f" a{i}", "answer_b": f" b{i}", "winner": w} for i, w in enumerate("ABABAB")
    ]
    rows.append({**rows[0], "winner": "tie"})
    data = load(rows)
    assert [e.comparisons[0].preference for e in data.train] == [1.0] * 6 + [0.5]
    texts = [data.encoder.decode(e.responses[0].token_ids) for e in data.train]
    assert [text[1] for text in texts] == list("ABABABA".lower())
    for shape, uses in (("pairs", frozenset({"weight"})), ("unpaired", None), ("lists", None)):
        data = load(rows, shape, uses=uses, max_bad=0.2)
        assert {cause: t.count for cause, t in data.accounting.losses.items()} == {"no_comparison": 1}
