"""Votes of annotators from labelling tools: Label Studio's and Argilla's exports.

Each annotator's answer is one vote for the first answer, for the second, or for a tie, which is half a vote for both.
The answer with more votes is chosen, and the preference of the pair is its share of the votes.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from tiltlm.data.accounting import Defect
from tiltlm.data.rows import cells
from tiltlm.data.rows.formats.format import Format, Values, extras, mapping, mappings, plain_name, required, without
from tiltlm.data.rows.formats.names import NAMES
from tiltlm.data.rows.formats.two_answers import SIDES, answer_side, placed, side_of

SIDES_IN_WORDS = {"left": "a", "right": "b", "a": "a", "b": "b"}
SHARES = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""What a vote gives to the first answer."""
PREFERENCE_QUESTIONS = ("preference", "ranking", "winner", "choice", "better", "best")
"""Questions that ask which answer is better, if several could be meant."""


def pair_of_votes(answers: tuple[Any, Any], votes: Iterable[str]) -> Values:
    """Return two answers with the votes on them as a pair.

    Raises:
        Defect: There is no vote.
    """
    shares = [SHARES[vote] for vote in votes]
    if not shares:
        raise Defect("missing_value", "no annotator said which answer is better")
    first = sum(shares) / len(shares)
    chosen, rejected = answers if first >= 0.5 else answers[::-1]
    return {"chosen": chosen, "rejected": rejected, "preference": max(first, 1 - first)}


def _fields(column: str, fields: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """Find the prompt and the two answers among the fields of a task.

    Returns:
        The prompt, and the plain names of both answers by side.

    Raises:
        Defect: One of them is missing, or several could be meant.
    """
    names = [plain_name(str(name)) for name in fields]
    prompts = [name for name, plain in zip(fields, names, strict=True) if NAMES.get(plain, plain) == "prompt"]
    sides = {side: name for name, plain in zip(fields, names, strict=True) if (side := _side(plain, names))}
    if len(prompts) != 1 or len(sides) != 2:
        seen = f"{column} has the fields {', '.join(map(str, fields)) or 'none'}"
        raise Defect("missing_value", f"{seen}; a prompt and two answers, such as answer1 and answer2, are needed")
    return fields[prompts[0]], {"a": sides["answer_a"], "b": sides["answer_b"]}


def _side(name: str, names: list[str]) -> str | None:
    pair = {"chosen": "answer_a", "rejected": "answer_b"}
    return pair[name] if pair.keys() <= {*names} and name in pair else answer_side(name, names)


def _vote(value: object, sides: Mapping[str, str]) -> str | None:
    """Return a, b or tie for an annotator's answer; None if it says nothing about the two.

    Args:
        value: A name, a number, or a ranking: `[{"value": "response1", "rank": 1}, ...]`.
        sides: Side → name of the field.
    """
    if isinstance(value, list):
        ranks = {str(item.get("value")): item.get("rank") for item in value if isinstance(item, Mapping)}
        if not {sides["a"], sides["b"]} <= ranks.keys():
            return None
        a, b = (ranks[sides[side]] for side in "ab")
        if a is None or b is None:
            return None
        first, second = cells.number("rank", a), cells.number("rank", b)
        return "tie" if first == second else "ab"[first > second]
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    named = {plain_name(name): side for side, name in sides.items()}
    numbers = {plain[-1]: side for plain, side in named.items() if plain[-1:].isdigit()}
    try:
        return side_of(value, {**SIDES_IN_WORDS, **numbers, **named})
    except Defect:
        return None


def _read_label_studio(values: Values) -> Values:
    """Read a task of Label Studio with its annotations. Cancelled annotations are no votes."""
    prompt, sides = _fields("data", data := mapping("data", required("data", values)))
    votes = []
    for annotation in mappings("annotations", required("annotations", values)):
        if not annotation.get("was_cancelled"):
            results = mappings("annotations.result", annotation.get("result") or [])
            found = [vote for result in results if (vote := _result(result, sides)) is not None]
            votes += found[:1]
    pair = pair_of_votes((data[sides["a"]], data[sides["b"]]), votes)
    return {**without(values, "data", "annotations"), "prompt": prompt, **pair}


def _result(result: Mapping[str, Any], sides: Mapping[str, str]) -> str | None:
    """Return the vote of one result: of the tag Pairwise, or of Choices with sides or a tie as choices."""
    value = mapping("annotations.result.value", result.get("value") or {})
    if result.get("type") == "pairwise":
        return _vote(value.get("selected"), sides)
    choices = value.get("choices")
    is_one = result.get("type") == "choices" and isinstance(choices, list) and len(choices) == 1
    return _vote(choices[0], sides) if is_one and isinstance(choices, list) else None


def _write_label_studio(values: Values) -> Values:
    a, b, side = placed(values)
    tie = {"from_name": "tie", "to_name": "answer1", "type": "choices", "value": {"choices": ["tie"]}}
    selected = {"selected": {"a": "left", "b": "right"}.get(side)}
    pairwise = {"from_name": "preference", "to_name": "answer1,answer2", "type": "pairwise", "value": selected}
    annotation = {"result": [tie if side == "tie" else pairwise], "was_cancelled": False}
    data = {"prompt": values["prompt"], "answer1": a, "answer2": b}
    return {"data": data, "annotations": [annotation], **extras(values)}


def _read_argilla(values: Values) -> Values:
    """Read a record of Argilla: fields, and the responses of annotators; suggestions where nobody responded."""
    prompt, sides = _fields("fields", fields := mapping("fields", required("fields", values)))
    rest = without(values, "fields", "responses", "suggestions")
    given = _answers_by_question(values.get("responses") or {}) or _suggestions(values.get("suggestions") or {})
    votes = {
        question: found
        for question, answers in given.items()
        if (found := [vote for answer in answers if (vote := _vote(answer, sides)) is not None])
    }
    named = [question for question in votes if set(re.split(r"[\W_]+", question.lower())) & {*PREFERENCE_QUESTIONS}]
    questions = list(votes) if len(votes) == 1 else named
    if len(questions) > 1:
        raise Defect("wrong_type", f"several questions could say which answer is better: {', '.join(questions)}")
    pair = pair_of_votes((fields[sides["a"]], fields[sides["b"]]), votes[questions[0]] if questions else [])
    return {**rest, "prompt": prompt, **pair}


def _read_flat_argilla(values: Values, question: str) -> Values:
    """Read a record of Argilla as it goes to the hub: a column for each field, and the answers to a question in one."""
    answers = cells.items(f"{question}.responses", required(f"{question}_responses", values))
    names = {str(item.get("value")) for value in answers if isinstance(value, list) for item in value
             if isinstance(item, Mapping)}  # fmt: skip
    sides = _ranked_sides(names)
    votes = [vote for value in answers if (vote := _vote(value, sides)) is not None]
    pair = pair_of_votes((values.get("answer_a"), values.get("answer_b")), votes)
    return {**without(values, "answer_a", "answer_b", f"{question}_responses"), **pair}


def _ranked_sides(names: Iterable[str]) -> dict[str, str]:
    """Return side → name of two answers, such as `response1` and `response2`, which are usual if none are named."""
    known = sorted(names)
    for first, second in SIDES:
        if len(known) == 2 and known[0].endswith(first) and known[1].endswith(second):
            return {"a": known[0], "b": known[1]}
    return {"a": "response1", "b": "response2"}


def _answers_by_question(responses: object) -> dict[str, list[Any]]:
    """Return the submitted answers to each question.

    The library's records have `{question: [{value, user_id}]}`, those of the server `[{values: {question: {value}}}]`.
    """
    found: dict[str, list[Any]] = {}
    if isinstance(responses, list):
        for response in mappings("responses", responses):
            if response.get("status", "submitted") == "submitted":
                for question, answer in mapping("responses.values", response.get("values") or {}).items():
                    found.setdefault(str(question), []).append(_value(answer))
        return found
    for question, answers in mapping("responses", responses).items():
        kept = [a for a in cells.items("responses", answers) if _status(a) == "submitted"]
        if kept:
            found[str(question)] = [_value(answer) for answer in kept]
    return found


def _suggestions(suggestions: object) -> dict[str, list[Any]]:
    if isinstance(suggestions, list):
        named = [(item.get("question_name"), item) for item in mappings("suggestions", suggestions)]
    else:
        named = list(mapping("suggestions", suggestions).items())
    return {str(question): [_value(item)] for question, item in named}


def _status(answer: object) -> object:
    return answer.get("status") or "submitted" if isinstance(answer, Mapping) else "submitted"


def _value(answer: object) -> object:
    return answer.get("value") if isinstance(answer, Mapping) else answer


def _write_argilla_table(values: Values) -> Values:
    row = {
        "instruction": values["prompt"],
        "chosen_response": values["chosen"],
        "rejected_response": values["rejected"],
    }
    names = {"score_chosen": "chosen_avg_rating", "score_rejected": "rejected_avg_rating"}
    return {**row, **{column: values[role] for role, column in names.items() if role in values}, **extras(values)}


def _write_argilla(values: Values) -> Values:
    a, b, side = placed(values)
    ranks = {"a": (1, 2), "b": (2, 1), "tie": (1, 1)}[side]
    ranking = [{"value": f"response{k}", "rank": rank} for k, rank in enumerate(ranks, start=1)]
    fields = {"prompt": values["prompt"], "response1": a, "response2": b}
    responses = {"preference": [{"value": ranking, "user_id": ""}]}
    return {"fields": fields, "responses": responses, "suggestions": {}, **extras(values)}


ANNOTATORS = (
    Format(
        "label-studio",
        "Label Studio's export as JSON: tasks with two answers and pairwise annotations",
        frozenset({"data", "annotations"}),
        takes=frozenset({"data", "annotations"}),
        remarks=frozenset(
            {
                *("inner_id", "file_upload", "drafts", "predictions", "updated_at", "project", "updated_by"),
                *("total_annotations", "cancelled_annotations", "total_predictions", "last_comment_updated_at"),
                *("comment_count", "unresolved_comment_count", "comment_authors", "allow_skip"),
            }
        ),
        adds=frozenset({"prompt", "chosen", "rejected", "winner"}),
        reader=_read_label_studio,
        writers={"pairs": _write_label_studio},
        holds=frozenset({"tie", "id", "source"}),
        form="text",
        loses="who voted, and other fields of the task",
    ),
    Format(
        "argilla-records",
        "Argilla's records: fields with two answers, responses and suggestions",
        frozenset({"fields", "responses"}),
        takes=frozenset({"fields", "responses", "suggestions"}),
        remarks=frozenset({"vectors", "server_id", "status", "external_id", "inserted_at", "updated_at"}),
        adds=frozenset({"prompt", "chosen", "rejected", "winner"}),
        reader=_read_argilla,
        writers={"pairs": _write_argilla},
        holds=frozenset({"tie", "id", "source"}),
        form="any",
        loses="who voted, and other fields and questions of the record",
    ),
    Format(
        "argilla",
        "Argilla's table of preferences",
        frozenset({"instruction", "chosen_response", "rejected_response"}),
        remarks=frozenset(
            {"chosen_rating", "chosen_rating_suggestion", "chosen_rating_suggestion_metadata", "external_id", "status"}
        ),
        writers={"pairs": _write_argilla_table},
        holds=frozenset({"id", "source", "score_chosen", "score_rejected"}),
        form="text",
    ),
    *(
        Format(
            "argilla-records",
            "Argilla's records as they go to the hub: a column for each field and question",
            frozenset({f"{question}_responses"}),
            takes=frozenset({f"{question}_responses"}),
            remarks=frozenset(
                {
                    *(f"{question}_responses_users", f"{question}_responses_status", f"{question}_suggestion"),
                    *(f"{question}_suggestion_score", f"{question}_suggestion_agent", "server_id", "status"),
                }
            ),
            adds=frozenset({"chosen", "rejected", "winner"}),
            reader=partial(_read_flat_argilla, question=question),
            loses="who voted, and other questions of the record",
        )
        for question in PREFERENCE_QUESTIONS
    ),
)
