"""A row of each format in its true shape, written by hand, is recognised and read as its author meant."""

import re

import pytest

from support.formats import read_rows_of
from support.pages import ROOT
from tiltlm.core.example import Comparison
from tiltlm.data.accounting import Defect
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows.columns import detect_prompts
from tiltlm.data.rows.formats.catalog import FORMATS, WRITTEN
from tiltlm.data.rows.records import to_prompt
from tiltlm.recipes.answers.judged_rows import read_judged

ASKED = {"role": "user", "content": "Is it cold?"}
YES, NO = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
TEXTS = ("Is it cold?", ("Yes.", "No."))
TURNS = ((ASKED,), ((YES,), (NO,)))
HUMAN = {"from": "human", "value": "Is it cold?"}
SURE, NOT_SURE = {"from": "gpt", "value": "Yes."}, {"from": "gpt", "value": "No."}
WON = (Comparison(0, 1),)
TIE = (Comparison(0, 1, preference=0.5),)
HH = "\n\nHuman: Is it cold?\n\nAssistant:"

PAIRS = {
    "trl": ("", {"prompt": "Is it cold?", "chosen": "Yes.", "rejected": "No."}, TEXTS),
    "trl conversational": ("", {"prompt": [ASKED], "chosen": [YES], "rejected": [NO]}, TURNS),
    "trl implicit": ("", {"chosen": [ASKED, YES], "rejected": [ASKED, NO]}, TURNS),
    "hh": ("", {"chosen": f"{HH} Yes.", "rejected": f"{HH} No."}, (HH, (" Yes.", " No."))),
    "ultrafeedback-binarized": (
        "ultrafeedback-binarized",
        {
            "prompt": "Is it cold?", "prompt_id": "ab12", "chosen": [ASKED, YES], "rejected": [ASKED, NO],
            "messages": [ASKED, YES], "score_chosen": 8.5, "score_rejected": 6.0,
        },
        TURNS,
    ),
    "helpsteer2-preference": (
        "helpsteer2-preference",
        {
            "split": "train", "prompt": "Is it cold?", "response_1": "No.", "response_2": "Yes.",
            "preference_strength": 2, "preference_statement": "2 is better", "preference_elaboration": "It is.",
            "three_most_similar_preferences": [{"statement": "x", "strength": 2}],
            "all_preferences_unprocessed": [{"strength": 2}],
        },
        TEXTS,
    ),
    "helpsteer3": (
        "helpsteer3",
        {
            "domain": "general", "language": "english", "context": [ASKED], "response1": "Yes.", "response2": "No.",
            "overall_preference": -1, "individual_preference": [{"score": -1, "reasoning": "r"}],
        },
        TURNS,
    ),
    "argilla": (
        "argilla",
        {
            "instruction": "Is it cold?", "chosen_response": "Yes.", "rejected_response": "No.",
            "chosen_avg_rating": 4.5, "rejected_avg_rating": 2.0, "chosen_model": "a", "chosen-rating": 4.5,
            "chosen-rating-suggestion": None, "external_id": None, "status": "submitted",
        },
        TEXTS,
    ),
    "argilla-records": (
        "argilla-records",
        {
            "id": "7", "fields": {"instruction": "Is it cold?", "response1": "No.", "response2": "Yes."},
            "metadata": {"topic": "x"}, "suggestions": {"preference": {"value": "response1", "score": None}},
            "responses": {"preference": [{"value": "response2", "user_id": "u"}]}, "vectors": {}, "_server_id": "s",
        },
        TEXTS,
    ),
    "argilla's server": (
        "argilla-records",
        {
            "id": "7", "fields": {"prompt": "Is it cold?", "response_a": "Yes.", "response_b": "No."},
            "responses": [
                {
                    "values": {"preference": {"value": [
                        {"value": "response_a", "rank": 1}, {"value": "response_b", "rank": 2},
                    ]}},
                    "user_id": "u", "status": "submitted",
                },
                {"values": {"preference": {"value": "B"}}, "user_id": "v", "status": "discarded"},
            ],
            "suggestions": [], "external_id": None, "status": "completed",
        },
        TEXTS,
    ),
    "argilla on the hub": (
        "argilla-records",
        {
            "id": "7", "prompt": "Is it cold?", "response1": "No.", "response2": "Yes.", "_server_id": "s",
            "preference.responses": ["response2"], "preference.responses.users": ["u"],
            "preference.responses.status": ["submitted"], "preference.suggestion": "response1",
            "preference.suggestion.score": None, "preference.suggestion.agent": None, "status": "completed",
        },
        TEXTS,
    ),
    "argilla's rankings on the hub": (
        "argilla-records",
        {
            "instruction": "Is it cold?", "response_a": "Yes.", "response_b": "No.", "ranking.responses.users": ["u"],
            "ranking.responses": [[{"value": "response_b", "rank": 2}, {"value": "response_a", "rank": 1}]],
        },
        TEXTS,
    ),
    "winner and loser": ("winner-loser", {"prompt": "Is it cold?", "winner": "Yes.", "loser": "No."}, TEXTS),
    "openai's other names": (
        "openai",
        {
            "input": {"messages": [ASKED]}, "preferred_completion": [YES], "non_preferred_completion": [NO],
        },
        TURNS,
    ),
    "label-studio": (
        "label-studio",
        {
            "id": 1, "data": {"prompt": "Is it cold?", "answer1": "No.", "answer2": "Yes."},
            "annotations": [
                {
                    "id": 3, "completed_by": 1, "was_cancelled": False,
                    "result": [
                        {"id": "w", "type": "textarea", "value": {"text": ["It is."]}},
                        {
                            "id": "x", "from_name": "pw", "to_name": "text1,text2", "type": "pairwise",
                            "value": {"selected": "right"},
                        },
                    ],
                },
                {"was_cancelled": True, "result": [{"type": "pairwise", "value": {"selected": "left"}}]},
            ],
            "predictions": [], "created_at": "2026-01-01", "total_annotations": 1, "project": 2,
        },
        TEXTS,
    ),
    "openrlhf": (
        "openrlhf",
        {"chosen": [ASKED, YES], "rejected": [ASKED, NO], "chosen_score": 5.0, "rejected_score": 1, "source": "mix"},
        TURNS,
    ),
    "sharegpt": ("sharegpt", {"conversations": [HUMAN], "chosen": SURE, "rejected": NOT_SURE}, TURNS),
    "alpaca": ("alpaca", {"instruction": "Is it cold?", "input": "", "chosen": "Yes.", "rejected": "No."}, TEXTS),
    "axolotl": ("axolotl", {"messages": [ASKED], "chosen": YES, "rejected": NO}, TURNS),
    "axolotl that repeats": (
        "axolotl",
        {"messages": [ASKED, YES], "chosen": [ASKED, YES], "rejected": [ASKED, NO]},
        TURNS,
    ),
    "axolotl-intel": (
        "axolotl-intel",
        {"system": "", "question": "Is it cold?", "chosen": "Yes.", "rejected": "No."},
        TEXTS,
    ),
    "axolotl-icr": (
        "axolotl-icr",
        {"system": "", "input": "Is it cold?", "chosen": "Yes.", "rejected": "No."},
        TEXTS,
    ),
    "halos": (
        "halos",
        {
            "prompt_id": 3, "prompt": [ASKED], "output_A": [NO], "output_B": [YES], "label": 0, "reward_A": 0.1,
            "reward_B": 0.9, "reward_difference": 0.8, "type": "pairwise_feedback",
        },
        TURNS,
    ),
    "openai": (
        "openai",
        {
            "input": {"messages": [ASKED], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [YES], "non_preferred_output": [NO],
        },
        TURNS,
    ),
    "answers": (
        "answers",
        {"prompt": "Is it cold?", "answer_a": "No.", "answer_b": "Yes.", "winner": "B"},
        TEXTS,
    ),
    "answers of named models": (
        "answers",
        {
            "question": "Is it cold?", "answer_a": "No.", "answer_b": "Yes.", "model_a": "small 1b",
            "model_b": "large-b", "winner": "large-b",
        },
        TEXTS,
    ),
    "arena": (
        "arena",
        {
            "question_id": "q", "model_a": "m", "model_b": "n", "winner": "model_a", "judge": "arena_user_9",
            "conversation_a": [ASKED, YES], "conversation_b": [ASKED, NO], "turn": 1, "anony": True,
            "language": "English", "tstamp": 1682351591.1, "openai_moderation": {}, "toxic_chat_tag": {},
        },
        TURNS,
    ),
    "mt-bench's first turns": (
        "arena",
        {
            "question_id": 81, "model_a": "m", "model_b": "n", "winner": "model_b", "judge": "expert_1", "turn": 1,
            "conversation_a": [ASKED, NO, ASKED, NO], "conversation_b": [ASKED, YES, ASKED, YES],
        },
        TURNS,
    ),
}  # fmt: skip
"""Name → format that is recognised, a row, and its prompt with the better and the worse response."""


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name):
    recognised, row, (prompt, responses) = PAIRS[name]
    schema, (record,) = read_rows_of([row])
    assert schema.format == recognised
    assert schema.shape == "pairs"
    assert (record.prompt, record.responses) == (prompt, responses)
    assert record.comparisons == WON


@pytest.mark.parametrize("name", PAIRS)
def test_prompts_are_read_alone_and_judges_read_the_same_responses(name, jsonl):
    _, row, (prompt, (better, worse)) = PAIRS[name]
    settings = DataSettings(train=jsonl([row]))
    first_seen = dict.fromkeys(row, "a.jsonl:1")
    assert to_prompt(Row("a.jsonl:1", row), detect_prompts(first_seen, settings)).prompt == prompt
    (judged,) = read_judged(settings).rows
    texts = [response if isinstance(response, str) else response[0]["content"] for response in (better, worse)]
    assert judged.prompt == prompt
    assert sorted(judged.responses) == sorted(texts)
    assert not {"fields", "data", "preferred_output", "output_A", "conversation_a"} & judged.values.keys()


SCORES = {
    "ultrafeedback-binarized": (8.5, 6.0),
    "argilla": (4.5, 2.0),
    "openrlhf": (5.0, 1.0),
    "halos": (0.9, 0.1),
}


@pytest.mark.parametrize("name", PAIRS)
def test_scores_belong_to_their_responses(name):
    (record,) = read_rows_of([PAIRS[name][1]])[1]
    assert record.scores == SCORES.get(name, ())


def _ultrafeedback(response, **known):
    rating = {"Rating": "4", "Rationale": "r"}
    annotations = {"helpfulness": rating, "honesty": {"Rating": "5"}, "truthfulness": {"Rating": "N/A"}}
    return {"annotations": annotations, "custom_system_prompt": "Be kind.", "model": "m", "principle": "p",
            "response": response, "critique": "c", **known}  # fmt: skip


LISTS = {
    "ultrafeedback": (
        [{
            "source": "flan", "instruction": "Is it cold?", "models": ["m", "n"], "correct_answers": ["None"],
            "incorrect_answers": ["None"],
            "completions": [_ultrafeedback("Yes.", overall_score=8.5), _ultrafeedback("No.", overall_score=1)],
        }],
        TEXTS, (), (8.5, 1.0),
    ),
    "ultrafeedback without overall scores": (
        [{"instruction": "Is it cold?", "models": [], "completions": [_ultrafeedback("Yes."), _ultrafeedback("No.")]}],
        TEXTS, (), (4.5, 4.5),
    ),
    "nectar": (
        [{
            "prompt": f"{HH} ", "turns": 1, "num_responses": 2, "source": ["lmsys"], "good_natured": True,
            "answers": [{"answer": "Yes.", "model": "m", "rank": 1.0}, {"answer": "No.", "model": "n", "rank": 2.0}],
        }],
        (f"{HH} ", TEXTS[1]), (1, 2), (),
    ),
    "nemo": (
        [{"context": [ASKED], "completions": [{"rank": 0, "completion": [YES]}, {"rank": 1, "completion": [NO]}]}],
        TURNS, (0, 1), (),
    ),
    "distilabel": (
        [{"instruction": "Is it cold?", "generations": ["Yes.", "No."], "ratings": [5, 2], "rationales": ["a", "b"],
          "generation_models": ["m", "n"], "distilabel_metadata": {}, "model_name": "j", "system_prompt": ""}],
        TEXTS, (), (5.0, 2.0),
    ),
    "helpsteer": (
        [
            {"prompt": "Is it cold?", "response": text, "helpfulness": score, "correctness": 4, "coherence": 4,
             "complexity": 1, "verbosity": 0}
            for text, score in (("Yes.", 4), ("No.", 1))
        ],
        TEXTS, (), (4.0, 1.0),
    ),
}  # fmt: skip
"""Name → rows, prompt with responses, ranks, scores."""


@pytest.mark.parametrize("name", LISTS)
def test_lists(name):
    rows, (prompt, responses), ranks, scores = LISTS[name]
    schema, (record,) = read_rows_of(rows)
    assert schema.format == name.split(" ")[0]
    assert schema.shape == "lists"
    assert (record.prompt, record.responses) == (prompt, responses)
    assert (record.ranks, record.scores) == (ranks, scores)


SINGLE = {
    "kto": ("", {"prompt": "Is it cold?", "completion": "Yes.", "label": True}, TEXTS[0], "Yes.", (True,)),
    "kto_tag": ("sharegpt", {"conversations": [HUMAN, SURE], "kto_tag": False}, (ASKED,), (YES,), (False,)),
    "alpaca with kto_tag": (
        "alpaca",
        {"instruction": "Is it cold?", "input": "Outside.", "output": "Yes.", "kto_tag": "true"},
        "Is it cold?\n\nOutside.", "Yes.", (True,),
    ),
    "alpaca with history": (
        "alpaca",
        {"instruction": "Is it cold?", "input": "", "output": "Yes.", "system": "Short.", "history": [["Hi.", "Yes."]]},
        ({"role": "system", "content": "Short."}, {"role": "user", "content": "Hi."}, YES, ASKED), (YES,), (),
    ),
    "halos": (
        "halos",
        {"prompt_id": 3, "prompt": [ASKED], "output": [YES], "label": 1, "reward": 0.7, "type": "binary_feedback"},
        (ASKED,), (YES,), (True,),
    ),
    "messages": ("", {"messages": [ASKED, YES]}, (ASKED,), (YES,), ()),
    "prompt and completion": ("", {"prompt": "Is it cold?", "completion": "Yes."}, "Is it cold?", "Yes.", ()),
}  # fmt: skip
"""Name → format that is recognised, a row, its prompt, its response and its label."""


@pytest.mark.parametrize("name", SINGLE)
def test_single_responses(name):
    recognised, row, prompt, response, labels = SINGLE[name]
    schema, (record,) = read_rows_of([row])
    assert schema.format == recognised
    assert (record.prompt, record.responses, record.labels) == (prompt, (response,), labels)


def test_tools_of_openai_are_read():
    row = {**PAIRS["openai"][1], "input": {"messages": [ASKED], "tools": [{"type": "function"}]}}
    (record,) = read_rows_of([row])[1]
    assert record.tools == ({"type": "function"},)


TIES = {
    "answers": {"prompt": "q", "answer_a": "x", "answer_b": "y", "winner": "Tie"},
    "arena": {"conversation_a": [ASKED, YES], "conversation_b": [ASKED, NO], "winner": "tie (bothbad)"},
    "helpsteer3": {"context": [ASKED], "response1": "x", "response2": "y", "overall_preference": 0},
    "label-studio": {
        "data": {"question": "q", "text1": "x", "text2": "y"},
        "annotations": [
            {"result": [{"type": "choices", "value": {"choices": ["Tie"]}}]},
            {"result": [{"type": "pairwise", "value": {"selected": "left"}}]},
            {"result": [{"type": "pairwise", "value": {"selected": "right"}}]},
        ],
    },
    "argilla-records": {
        "fields": {"prompt": "q", "chosen": "x", "rejected": "y"},
        "responses": {"which is better?": [{"value": "chosen"}, {"value": "rejected"}], "comment": [{"value": "hm"}]},
    },
}


@pytest.mark.parametrize("name", TIES)
def test_ties_are_a_preference_of_one_half(name):
    schema, (record,) = read_rows_of([TIES[name]])
    assert schema.format == name
    assert record.comparisons == TIE
    assert "winner" in schema.roles  # an objective without soft labels leaves such rows out


def test_the_share_of_votes_is_the_preference():
    def annotation(side):
        return {"result": [{"type": "pairwise", "value": {"selected": side}}]}

    row = {
        "data": {"prompt": "q", "answer1": "x", "answer2": "y"},
        "annotations": [annotation("right"), annotation("right"), annotation("left"), {"result": []}],
    }
    (record,) = read_rows_of([row])[1]
    assert record.responses == ("y", "x")
    assert record.comparisons[0].preference == pytest.approx(2 / 3)


def test_a_suggestion_counts_where_nobody_responded():
    row = {
        "fields": {"prompt": "q", "response1": "x", "response2": "y"},
        "responses": {}, "suggestions": {"preference": {"value": 2}},
    }  # fmt: skip
    (record,) = read_rows_of([row])[1]
    assert record.responses == ("y", "x")


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"data": {"prompt": "q", "answer1": "x", "answer2": "y"}, "annotations": []}, "missing_value"),
        ({"data": {"prompt": "q", "answer1": "x"}, "annotations": [{"result": []}]}, "missing_value"),
        ({"data": "text", "annotations": []}, "wrong_type"),
        ({"fields": {"prompt": "q", "response1": "x", "response2": "y"}, "responses": {}}, "missing_value"),
        (
            {
                "fields": {"prompt": "q", "response1": "x", "response2": "y"},
                "responses": {"helpful": [{"value": 1}], "harmless": [{"value": 2}]},
            },
            "missing_value",
        ),
        ({"input": {"tools": []}, "preferred_output": [YES], "non_preferred_output": [NO]}, "missing_value"),
        ({"context": [ASKED], "completions": [{"completion": [YES]}]}, "missing_value"),
        ({"instruction": "q", "models": [], "completions": [{"response": "x", "annotations": {}}]}, "missing_value"),
        ({"instruction": "q", "models": [], "completions": ["x", "y"]}, "wrong_type"),
        ({"instruction": "q", "input": "", "output": "x", "history": [["x"]]}, "wrong_type"),
        ({"prompt": [ASKED], "output_A": [YES], "output_B": [NO], "label": 3, "type": "pairwise_feedback"},
         "wrong_type"),
        (
            {
                "winner": "model_a", "turn": 2,
                "conversation_a": [ASKED, NO, ASKED, NO], "conversation_b": [ASKED, YES, ASKED, YES],
            },
            "no_common_prompt",
        ),
    ],
)  # fmt: skip
def test_rows_that_a_format_cannot_mean_are_defects(row, code):
    with pytest.raises(Defect) as caught:
        read_rows_of([row])
    assert caught.value.code == code


def test_every_format_has_a_sample():
    sampled = {recognised for recognised, *_ in (*PAIRS.values(), *SINGLE.values())} | {n.split(" ")[0] for n in LISTS}
    without_columns = {form.name for form in FORMATS if not form.columns}
    assert {form.name for form in FORMATS} - sampled - without_columns == {"answers-of-tiltlm"}
    assert {"trl", "hh", "hh-messages", "kto", "messages", "tiltlm"} <= without_columns <= WRITTEN.keys()


def test_the_page_of_formats_has_all_of_them_and_says_which_are_written():
    page = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\| (yes|no) \|$", page, re.MULTILINE))
    assert rows == {form.name: "yes" if form.name in WRITTEN else "no" for form in FORMATS}
