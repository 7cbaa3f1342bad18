"""Two answers and the one that won: tables of people's votes, arena votes, HelpSteer's preferences, HALOs feedback.

The winner is chosen, and a tie is a pair with preference ½. When such data is written, a digest of the row decides
which answer stands first, so that its place does not say which one won.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from tiltlm.data.accounting import Defect
from tiltlm.data.rows import cells
from tiltlm.data.rows.formats.format import Format, Values, extras, required, whole, without

TIES = frozenset({"tie", "draw", "equal", "same", "both", "neither"})
SIGN = {**{str(-n): "a" for n in (1, 2, 3)}, "0": "tie", **{str(n): "b" for n in (1, 2, 3)}}
"""HelpSteer's preference: below 0 the first response is better, above 0 the second; how much is not used."""
ANSWERS = re.compile(r"(answer|response|completion|output|generation|reply|conversation|text)_?(a|b|0|1|2)")
"""Names of columns with one of two answers."""
SIDES = (("a", "b"), ("1", "2"), ("0", "1"))
"""Last characters of the names of two answers that are compared."""
MODELS = frozenset({"model_a", "model_b"})
"""Columns with the names of the models that answered, by which a winner may be named."""


def answer_side(name: str, names: Collection[str]) -> str | None:
    """Return `answer_a` or `answer_b` for the column of one of two answers, if the other one is there too."""
    match = ANSWERS.fullmatch(name)
    if match is None:
        return None
    stem = name.removesuffix(match[2])
    found = [sides for sides in SIDES if all(stem + side in names for side in sides)]
    return f"answer_{'ab'[found[0].index(match[2])]}" if len(found) == 1 else None


def known_winners(sides: Mapping[str, str], winners: Mapping[str, str]) -> dict[str, str]:
    """Return what each value of `winner` means: the letter or the number of a side, or the name of its column.

    Args:
        sides: `answer_a` and `answer_b` → name of the column.
        winners: Further values.
    """
    letters = {"a": "a", "b": "b"}
    named = {sides[f"answer_{side}"]: side for side in "ab"}
    numbers = {match[2]: side for name, side in named.items() if (match := ANSWERS.fullmatch(name))}
    return {**letters, **numbers, **named, **winners}


def choose_winner(values: Values, winners: Mapping[str, str]) -> Values:
    """Read two answers and a winner as a pair. The winner is chosen; a tie is a pair with preference ½.

    Raises:
        Defect: The winner is missing or unknown.
    """
    rest = without(values, "answer_a", "answer_b", "winner", *MODELS)
    a, b = values.get("answer_a"), values.get("answer_b")
    side = _model_side(values) or side_of(values.get("winner"), winners)
    chosen, rejected = (b, a) if side == "b" else (a, b)
    return {**rest, "chosen": chosen, "rejected": rejected, "preference": 0.5 if side == "tie" else 1.0}


def _model_side(values: Values) -> str | None:
    """Return the side whose model the winner names; None if it names none, or both."""
    winner, a, b = (str(values.get(name) or "").strip() for name in ("winner", "model_a", "model_b"))
    if not winner or (winner == a) == (winner == b):
        return None
    return "a" if winner == a else "b"


def side_of(value: object, winners: Mapping[str, str]) -> str:
    """Return a, b or tie for the value of `winner`.

    Args:
        value: What the row has.
        winners: Names in the form of `plain_name` → a, b or tie.

    Raises:
        Defect: It is missing or unknown.
    """
    if value is None or value == "":
        raise Defect("missing_value", "winner is missing")
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
        names = [plain, plain.rpartition("_")[2]]
        is_tie = plain.partition("_")[0] in TIES
    else:
        names, is_tie = [str(int(number))] if number.is_integer() else [], False
    for name in names:
        if name in winners:
            return winners[name]
    if is_tie:
        return "tie"
    raise cells.wrong_type("winner", value, f"one of {', '.join(sorted(winners))}, tie")


def chosen_is_first(values: Values) -> bool:
    """Return whether the chosen answer is written first, by one bit of a digest of the row."""
    content = json.dumps([values.get(role) for role in ("prompt", "chosen", "rejected")], sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()[0] % 2 == 0


def placed(values: Values) -> tuple[Any, Any, str]:
    """Return the first answer, the second one, and the side that won: a, b or tie."""
    first = chosen_is_first(values)
    answers = (values["chosen"], values["rejected"]) if first else (values["rejected"], values["chosen"])
    return *answers, "tie" if values.get("preference") == 0.5 else "ab"[not first]


def _write_answers(values: Values) -> Values:
    a, b, side = placed(values)
    row = {"prompt": values["prompt"], "answer_a": a, "answer_b": b, "winner": side if side == "tie" else side.upper()}
    return {**row, **extras(values, ("system", "weight"))}


ARENA_REMARKS = frozenset(
    {
        *("judge", "judge_hash", "anony", "tstamp", "openai_moderation", "toxic_chat_tag", "conv_metadata", "is_code"),
        *("is_refusal", "dedup_tag", "category_tag", "question_id"),
    }
)


def _read_arena(values: Values) -> Values:
    """Read arena votes: whole conversations, of which the row may say how many turns were judged.

    A turn is a question and its answer. MT-bench has votes on the first turn of conversations with two.
    """
    rest = without(values, "turn")
    sides: Values = {
        role: _judged_turns(values[role], values.get("turn")) for role in ("chosen", "rejected") if role in values
    }
    return {**rest, **sides}


def _judged_turns(value: Any, turn: object) -> Any:
    turns = cells.content("conversation", value)
    if not isinstance(turns, tuple):
        return value
    judged = turns if turn is None else turns[: 2 * max(int(cells.number("turn", turn)), 1)]
    return [{"role": message["role"], "content": message["content"]} for message in judged]


def _write_arena(values: Values) -> Values:
    a, b, side = placed(values)
    row = {"model_a": "", "model_b": "", "winner": side if side == "tie" else f"model_{side}"}
    both = {"conversation_a": whole(values["prompt"], a), "conversation_b": whole(values["prompt"], b)}
    return {**row, **both, **extras(values)}


def _write_helpsteer3(values: Values) -> Values:
    a, b, side = placed(values)
    answers = {"response1": _text(a), "response2": _text(b), "overall_preference": {"a": -1, "tie": 0, "b": 1}[side]}
    return {"context": values["prompt"], **answers, **extras(values)}


def _write_helpsteer2(values: Values) -> Values:
    a, b, side = placed(values)
    strength = {"a": -1, "tie": 0, "b": 1}[side]
    row = {"prompt": values["prompt"], "response_1": a, "response_2": b, "preference_strength": strength}
    return {**row, **extras(values)}


def _text(response: Any) -> str:
    """Return the text of a response of one turn.

    Raises:
        Defect: It has several turns.
    """
    if isinstance(response, str):
        return response
    if len(response) != 1:
        raise Defect("wrong_type", f"the response has {len(response)} turns, and the format has room for its text only")
    return str(response[0]["content"])


def _read_halos_pairs(values: Values) -> Values:
    """Read HALOs' pairwise feedback: label 1 says that the first output is better, and each has a reward."""
    rest = without(values, "output_a", "output_b", "label", "reward_a", "reward_b", "reward_difference", "type")
    order = "ab" if cells.label("label", required("label", values)) else "ba"
    read = {role: values.get(f"output_{side}") for role, side in zip(("chosen", "rejected"), order, strict=True)}
    rewards = [values.get(f"reward_{side}") for side in order]
    if None not in rewards:
        read |= {"score_chosen": rewards[0], "score_rejected": rewards[1]}
    return {**rest, **read}


def _write_halos_pairs(values: Values) -> Values:
    a, b, side = placed(values)
    row = {"prompt": values["prompt"], "output_A": a, "output_B": b, "label": int(side == "a")}
    if "score_chosen" in values:
        rewards = (values["score_chosen"], values["score_rejected"])
        first, second = rewards if side == "a" else rewards[::-1]
        row |= {"reward_A": first, "reward_B": second, "reward_difference": abs(first - second)}
    return {**row, "type": "pairwise_feedback", **_halos_id(values)}


def _read_halos_labels(values: Values) -> Values:
    return without(values, "type", "reward")


def _write_halos_labels(values: Values) -> Values:
    row = {"prompt": values["prompt"], "output": values["completion"], "label": int(values["label"])}
    return {**row, "type": "binary_feedback", **_halos_id(values)}


def _halos_id(values: Values) -> Values:
    """Return the extras, and the digest of the prompt by which HALOs brings its feedback together."""
    text = "".join(str(turn["content"]) for turn in values["prompt"])
    return {"prompt_id": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), **extras(values)}


TIED = frozenset({"tie", "id", "source"})

TWO_ANSWERS = (
    Format(
        "arena",
        "FastChat's arena votes, MT-bench judgments: two conversations and a winner",
        frozenset({"conversation_a", "conversation_b", "winner"}),
        remarks=ARENA_REMARKS,
        reader=_read_arena,
        takes=frozenset({"turn"}),
        writers={"pairs": _write_arena},
        holds=TIED,
        form="turns",
        is_implicit=True,
        loses="which models answered, and who voted",
    ),
    Format(
        "helpsteer3",
        "HelpSteer3: a context, two responses and the sign of a preference",
        frozenset({"context", "response1", "response2", "overall_preference"}),
        roles={"context": "prompt", "overall_preference": "winner"},
        remarks=frozenset({"individual_preference", "domain"}),
        winners=SIGN,
        writers={"pairs": _write_helpsteer3},
        holds=TIED,
        form="turns",
    ),
    Format(
        "helpsteer2-preference",
        "HelpSteer2's preferences: two responses and the sign of a preference",
        frozenset({"prompt", "response_1", "response_2", "preference_strength"}),
        roles={"preference_strength": "winner"},
        remarks=frozenset(
            {
                *("preference_statement", "preference_elaboration", "three_most_similar_preferences"),
                *("all_preferences_unprocessed",),
            }
        ),
        winners=SIGN,
        writers={"pairs": _write_helpsteer2},
        holds=TIED,
    ),
    Format(
        "halos",
        "HALOs' pairwise feedback",
        frozenset({"prompt", "output_a", "output_b", "label", "type"}),
        takes=frozenset({"output_a", "output_b", "label", "reward_a", "reward_b", "reward_difference", "type"}),
        adds=frozenset({"chosen", "rejected", "score_chosen", "score_rejected"}),
        reader=_read_halos_pairs,
        writers={"pairs": _write_halos_pairs, "unpaired": _write_halos_labels},
        holds=frozenset({"id", "source", "score_chosen", "score_rejected"}),
        form="turns",
        keeps_turn_keys=True,
    ),
    Format(
        "halos",
        "HALOs' binary feedback",
        frozenset({"prompt", "output", "label", "type"}),
        takes=frozenset({"type", "reward"}),
        reader=_read_halos_labels,
    ),
    Format(
        "answers",
        "a table with two answers and a winner: A, B, tie, or the name of a model",
        frozenset({"answer_a", "answer_b", "winner"}),
        writers={"pairs": _write_answers},
        holds=frozenset({"tie", "id", "source", "system", "weight"}),
    ),
)
