"""Rows become records, or defects with a cause."""

import json
import math

import pytest

from support.tokenizers_and_templates import pair
from tiltlm.core.example import Comparison
from tiltlm.data.accounting import Defect
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows import cells
from tiltlm.data.rows.columns import detect
from tiltlm.data.rows.records import to_record

REFERENCE = {"ref_chosen_logps", "ref_rejected_logps", "ref_logps"}


def read(row, *, columns=(), every_turn=False):
    seen = dict.fromkeys([*row, *columns], "a.jsonl:7")
    schema = detect(seen, DataSettings(train="a"), use_reference_columns=bool(REFERENCE & row.keys()))
    return to_record(Row("a.jsonl:7", row), schema, every_turn=every_turn)


def cause(row, *, columns=()):
    with pytest.raises(Defect) as caught:
        read(row, columns=columns)
    return caught.value.code


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def listed(**known):
    return {"prompt": "q", "completions": [" a", " b", " c"], **known}


def test_a_pair_with_everything():
    record = read(
        pair(
            3, id=17, weight=0.5, offset=-1, votes=[3, 1], source="lab", score_chosen=2, score_rejected=1.5,
            ref_chosen_logps=-3, ref_rejected_logps=-4.5, tools=[{"name": "look"}], chat_template_kwargs={"a": 1},
        )
    )  # fmt: skip
    assert record.prompt == "question 3"
    assert record.responses == (" yes 3", " no 3")
    assert record.comparisons == (Comparison(0, 1, preference=0.75, offset=-1.0),)
    assert (record.id, record.weight, record.source, record.location) == ("17", 0.5, "lab", "a.jsonl:7")
    assert record.scores == (2.0, 1.5)
    assert record.ref_logps == (-3.0, -4.5)
    assert record.tools == ({"name": "look"},)
    assert record.template_kwargs == {"a": 1}


def test_a_row_without_an_id_is_called_by_its_place():
    assert read(pair()).id == "a.jsonl:7"


@pytest.mark.parametrize("votes", [[0, 0], [1], [1, -1], "3", [1, None], [True, False]])
def test_invalid_votes(votes):
    assert cause(pair(votes=votes)) == "wrong_type"


@pytest.mark.parametrize(("votes", "preference"), [([1, 3], 0.25), ([2, 2], 0.5), ([1, 0], 1.0), ([0, 1], 0.0)])
def test_votes_are_soft_labels(votes, preference):
    assert read(pair(votes=votes)).comparisons[0].preference == preference


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (pair(chosen=None), "empty_response"),
        (pair(rejected=""), "empty_response"),
        (pair(chosen=" \n "), "empty_response"),
        (pair(rejected=" yes 0"), "identical_responses"),
        (pair(chosen=7), "wrong_type"),
        (pair(chosen=["a", "b"]), "wrong_type"),
        (pair(chosen=[{"content": "a"}]), "wrong_type"),
        (pair(prompt=None), "missing_value"),
        (pair(prompt=3), "wrong_type"),
        (pair(chosen="\ud800"), "invalid_unicode"),
        (pair(chosen=turns(("assistant", "\udc00"))), "invalid_unicode"),
        (pair(weight=-1), "wrong_type"),
        (pair(weight=math.nan), "wrong_type"),
        (pair(weight=math.inf), "wrong_type"),
        (pair(weight="heavy"), "wrong_type"),
        (pair(weight=True), "wrong_type"),
        (pair(weight=10**400), "wrong_type"),
        (pair(preference=1.01), "wrong_type"),
        (pair(preference=-0.01), "wrong_type"),
        (pair(preference=0.5, votes=[1, 1]), "wrong_type"),
        (pair(offset=math.inf), "wrong_type"),
        (pair(score_chosen=1), "missing_value"),
        (pair(score_chosen=1, score_rejected="high"), "wrong_type"),
        (pair(tools="look"), "wrong_type"),
        (pair(tools={"name": "look"}), "wrong_type"),
        (pair(chat_template_kwargs=[1]), "wrong_type"),
        (pair(chosen=turns(("user", "a"), ("assistant", "b"))), "prompt_mismatch"),
        (pair(chosen=turns(("user", "question 0"))), "no_response"),
        (pair(chosen=turns(("assistant", "a"))), "wrong_type"),
        (pair(prompt=[{"role": "user", "content": [{"type": "image"}]}]), "wrong_type"),
        (pair(prompt=[{"role": "user", "content": 3}]), "wrong_type"),
        ({"chosen": "a", "rejected": "b"}, "no_common_prompt"),
        ({"chosen": "a", "rejected": turns(("assistant", "a"))}, "wrong_type"),
        ({"prompt": "q", "completion": "a", "label": None}, "missing_value"),
        ({"prompt": "q", "completion": "a", "label": "good"}, "wrong_type"),
        ({"prompt": "q", "completion": "a", "label": 2}, "wrong_type"),
        ({"prompt": "q", "completion": "a", "label": 0.5}, "wrong_type"),
        ({"prompt": "q", "completion": None, "label": True}, "empty_response"),
        ({"completion": "no transcript", "label": True}, "no_common_prompt"),
        ({"messages": turns(("user", "q"))}, "no_response"),
        ({"messages": []}, "no_response"),
        ({"text": " "}, "empty_response"),
        (listed(ranks=[1, 2]), "wrong_type"),
        (listed(ranks=[1, 2, 2.5]), "wrong_type"),
        (listed(ranks=None), "missing_value"),
        (listed(ranks=[1, None, 3]), "missing_value"),
        (listed(scores=[None, 1, 2]), "missing_value"),
        (listed(scores=[1, 2, 3], ref_logps=[-1, -2]), "wrong_type"),
        (listed(scores=[1, 2, math.nan]), "wrong_type"),
        (listed(comparisons=[[0, 3]]), "wrong_type"),
        (listed(comparisons=[[0, 0]]), "wrong_type"),
        (listed(comparisons=[[0]]), "wrong_type"),
        (listed(comparisons=[[0, 0.5]]), "wrong_type"),
        (listed(comparisons=[[0, 1, -1]]), "wrong_type"),
        (listed(completions=[], scores=[]), "empty_response"),
        (listed(completions=[" a", None, " c"], scores=[1, 2, 3]), "empty_response"),
        (listed(completions=[" a", "", " c"], scores=[1, 2, 3]), "empty_response"),
        (listed(completions=["a", turns(("assistant", "b")), "c"], scores=[1, 2, 3]), "wrong_type"),
    ],
)
def test_defects(row, expected):
    assert cause(row) == expected


def test_a_row_without_a_value_that_others_have():
    assert cause({"prompt": "q", "chosen": "a"}, columns=("rejected",)) == "empty_response"
    assert cause({"chosen": "a", "rejected": "b"}, columns=("prompt",)) == "no_common_prompt"
    assert cause({"prompt": None, "chosen": "a", "rejected": "b"}) == "missing_value"


def test_explicit_and_implicit_prompts_in_one_source():
    row = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    assert read(row, columns=("prompt",)).prompt == "\n\nHuman: q\n\nAssistant:"


def test_defects_show_the_value():
    with pytest.raises(Defect) as caught:
        read(pair(weight=-1))
    assert caught.value.code == "wrong_type"
    assert all(fact in caught.value.detail for fact in ("weight", "-1"))


def test_a_missing_rank_is_named():
    with pytest.raises(Defect) as caught:
        read(listed(ranks=[1, None, 3]))
    assert caught.value.code == "missing_value"
    assert "ranks[1]" in caught.value.detail


def test_csv_cells_are_text():
    record = read(pair(weight="0.5", preference="0.75", offset=""))
    assert record.weight == 0.5
    assert record.comparisons == (Comparison(0, 1, preference=0.75),)
    record = read(
        {key: str(value) for key, value in listed(ranks=[2, 1, 3]).items()} | {"completions": '["a", "b", "c"]'}
    )
    assert (record.responses, record.ranks) == (("a", "b", "c"), (2, 1, 3))
    for text, label in (("true", True), ("False", False), ("1", True), ("0", False)):
        assert read({"prompt": "q", "completion": "a", "label": text}).labels == (label,)


def test_arrow_nulls_inside_messages_are_absent():
    turn = {"role": "assistant", "content": "blue", "tool_calls": None, "name": None}
    assert read({"prompt": "q", "completion": [turn]}).responses == (
        ({"role": "assistant", "content": "blue"},),
    )  # fmt: skip


def test_content_in_parts_of_text():
    parts = [{"type": "text", "text": "bl"}, {"type": "text", "text": "ue"}]
    record = read({"prompt": "sky?", "completion": [{"role": "assistant", "content": parts}]})
    assert record.responses == (tuple(turns(("assistant", "blue"))),)


def test_unpaired_transcript_and_conversation():
    row = {"completion": "\n\nHuman: q\n\nAssistant: a", "label": True}
    record = read(row)
    assert (record.prompt, record.responses, record.labels) == ("\n\nHuman: q\n\nAssistant:", (" a",), (True,))
    record = read({"messages": turns(("user", "q"), ("assistant", "a")), "label": False})
    assert record.prompt == tuple(turns(("user", "q")))
    assert record.labels == (False,)


def test_demonstrations():
    assert read({"text": "Once"}).prompt == ""
    record = read({"prompt": "q", "completion": " a"})
    assert (record.prompt, record.responses, record.comparisons) == ("q", (" a",), ())
    messages = turns(("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b"))
    assert read({"messages": messages}).prompt == tuple(messages[:3])
    assert read({"messages": messages}, every_turn=True).prompt == tuple(messages[:1])
    split = {"prompt": messages[:3], "completion": messages[3:]}
    assert read(split, every_turn=True).responses == (tuple(messages[1:]),)


def test_ranks_become_comparisons_and_ties_none():
    record = read(listed(ranks=[2, 1, 2]))
    assert record.ranks == (2, 1, 2)
    assert record.comparisons == (Comparison(1, 0), Comparison(1, 2))
    assert record.changes == ("tie",)


def test_scores_become_comparisons():
    record = read(listed(scores=[0.1, -3, 0.2]))
    assert set(record.comparisons) == {Comparison(0, 1), Comparison(2, 0), Comparison(2, 1)}
    assert record.changes == ()


def test_explicit_comparisons():
    record = read(listed(comparisons=[[0, 1], [2, 0, 0.5], [2, 1, 0]]))
    assert record.comparisons == (Comparison(0, 1), Comparison(2, 0, weight=0.5))


def test_equal_responses_are_not_compared():
    record = read(listed(completions=[" a", " a", " c"], scores=[3, 2, 1]))
    assert record.comparisons == (Comparison(0, 2), Comparison(1, 2))
    assert record.changes == ("identical_comparison",)


def test_prompt_keys():
    assert read(pair(1)).prompt_key == read(pair(1, chosen="x")).prompt_key
    assert read(pair(1)).prompt_key != read(pair(2)).prompt_key
    assert read({"text": "a"}).prompt_key != read({"text": "b"}).prompt_key
    chat = {"completion": "a", "prompt": turns(("user", "q"))}
    assert read(chat).prompt_key == read({**chat, "completion": "b"}).prompt_key


USER, BLUE, BLACK = turns(("user", "sky?")), turns(("assistant", "blue")), turns(("assistant", "black"))


@pytest.mark.parametrize("spell", [json.dumps, repr, lambda turns: json.dumps(turns, indent=1)])
def test_messages_spelled_as_text_are_read(spell):
    written = read({"prompt": spell(USER), "chosen": spell(BLUE), "rejected": spell(BLACK[0])})
    assert written == read({"prompt": USER, "chosen": BLUE, "rejected": BLACK})
    assert read({"text": spell(USER + BLUE)}).prompt == tuple(USER)


@pytest.mark.parametrize(
    "text",
    [
        repr(USER + BLUE).replace("}, {", "}\n {"),  # as numpy prints arrays
        f"array({USER + BLUE!r}, dtype=object)",
        json.dumps(USER + BLUE)[:-4],
    ],
)
def test_messages_that_cannot_be_read_are_not_text(text):
    assert cause(pair(chosen=text)) == "wrong_type"


@pytest.mark.parametrize(
    "text",
    [
        '{"value": 3}',
        '[{"from": "Paris", "to": "Rome"}]',
        '{"role": "user", "name": "Ada"}',
        '{"role": "user"',
        "[1, 2]",
        'Say [{"role": "user", "content": "x"}]',
        "{{ role }}",
    ],
)
def test_other_json_is_text(text):
    assert read(pair(chosen=text)).responses[0] == text


@pytest.mark.parametrize(
    ("given", "read_as"),
    [
        ({"from": "human", "value": "a"}, {"role": "user", "content": "a"}),
        ({"from": "gpt", "value": "a"}, {"role": "assistant", "content": "a"}),
        ({"from": "observation", "value": "a"}, {"role": "tool", "content": "a"}),
        ({"role": "User", "content": "a"}, {"role": "user", "content": "a"}),
        ({"role": "ipython", "content": "a"}, {"role": "ipython", "content": "a"}),
        ({"role": "user", "content": "a", "name": None}, {"role": "user", "content": "a"}),
    ],
)
def test_turns_have_one_form(given, read_as):
    assert cells.conversation("prompt", [given]) == cells.conversation("prompt", given) == (read_as,)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [('{"c": "p", "d": null}', {"c": "p", "d": None}), ({"c": None}, {"c": None}), ("", {}), ("{c", None), ("3", None)],
)
def test_arguments_of_tool_calls_are_mappings(arguments, expected):
    calls = [{"type": "function", "function": {"name": "look", "arguments": arguments}}]
    row = {"prompt": USER, "completion": [{"role": "assistant", "content": None, "tool_calls": calls}]}
    if expected is None:
        assert cause(row) == "wrong_type"
    else:
        (turn,) = read(row).responses[0]
        assert turn["tool_calls"][0]["function"] == {"name": "look", "arguments": expected}


@pytest.mark.parametrize(
    ("value", "label", "changes"),
    [(1, True, ()), (-1, False, ("minus_one",)), ("-1", False, ("minus_one",)), (1.0, True, ()), ("0.0", False, ())],
)
def test_numbers_as_labels(value, label, changes):
    record = read({"prompt": "q", "completion": "a", "label": value})
    assert (record.labels, record.changes) == ((label,), changes)


@pytest.mark.parametrize("shape", ["pairs", "unpaired", "demonstrations", "lists"])
@pytest.mark.parametrize("prompt", ["sky?", "sky?\n", USER, turns(("system", "be brief")) + USER])
def test_a_prompt_beside_whole_conversations_changes_nothing(shape, prompt):
    system, second = turns(("system", "be brief")), turns(("user", "sea?"))
    wholes = [system + USER + BLUE + second + answer for answer in (BLUE, BLACK)]
    shared = tuple(system + USER + BLUE + second)
    rows = {
        "pairs": {"chosen": wholes[0], "rejected": wholes[1]},
        "unpaired": {"completion": wholes[0], "label": True},
        "demonstrations": {"messages": wholes[0]},
        "lists": {"completions": wholes, "ranks": [1, 2]},
    }
    record = read({"prompt": prompt, **rows[shape]})
    assert record.prompt == shared
    assert record.responses[0] == tuple(BLUE)
    if shape == "demonstrations":
        assert read({"prompt": prompt, **rows[shape]}, every_turn=True).prompt == tuple(system + USER)


def test_shared_turns_after_the_prompt_belong_to_it():
    look = turns(("assistant", "look"), ("tool", "dark"))
    record = read({"prompt": USER, "chosen": look + BLUE, "rejected": look + BLACK})
    assert (record.prompt, record.responses) == (tuple(USER + look), (tuple(BLUE), tuple(BLACK)))
    other = turns(("assistant", "see"), ("tool", "dark"))
    record = read({"prompt": USER, "chosen": look + BLUE, "rejected": other + BLACK})
    assert (record.prompt, record.responses[0]) == (tuple(USER), tuple(look + BLUE))


def test_a_transcript_beside_its_prompt():
    start = "\n\nHuman: q\n\nAssistant:"
    for prompt in ("q", start):
        assert read({"prompt": prompt, "chosen": start + " a", "rejected": start + " b"}).responses == (" a", " b")
    assert cause({"prompt": "other", "chosen": start + " a", "rejected": start + " b"}) == "prompt_mismatch"


def test_the_column_system():
    record = read(pair(system="be brief"))
    assert (record.prompt, record.system) == ("question 0", "be brief")
    system = tuple(turns(("system", "be brief")))
    assert record.as_chat().prompt == system + tuple(turns(("user", "question 0")))
    for prompt in (USER, list(system) + USER):
        record = read({"prompt": prompt, "chosen": BLUE, "rejected": BLACK, "system": "be brief"})
        assert (record.prompt, record.system) == (system + tuple(USER), "")
    assert read(pair(system="")).system == ""
    assert cause({"prompt": turns(("system", "x")) + USER, "completion": "a", "system": "be brief"}) == "wrong_type"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (" sky? ", USER),
        ("\n\nHuman: sky?\n\nAssistant: ", USER),
        ("\n\nHuman: sky?\n\nAssistant: blue\n\nHuman: why?\n\nAssistant:", USER + BLUE + turns(("user", "why?"))),
        ("x\n\nHuman: a\n\nAssistant:", turns(("user", "x\n\nHuman: a\n\nAssistant:"))),
    ],
)
def test_text_as_chat(prompt, expected):
    record = read({"prompt": prompt, "chosen": " blue", "rejected": "black\n"}).as_chat()
    assert (record.prompt, record.responses) == (tuple(expected), (tuple(BLUE), tuple(BLACK)))
