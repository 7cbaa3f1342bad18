"""Read the forms of other tools: names of columns whose meaning is plain, and rows that need more than a name.

A new form is an entry of `NAMES` or `EXPORTS`. A name whose meaning depends on the data set stands in `GUESSES`: it is
only proposed in an error message.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tiltlm.data.accounting import Defect
from tiltlm.data.rows import cells

Values = dict[str, Any]
Reader = Callable[[Values], Values]
"""Turns the values of a row, by role, into those of the roles that records have."""

NAMES: Mapping[str, str] = {
    **dict.fromkeys(("question", "instruction", "query", "problem", "user_prompt", "prompt_text"), "prompt"),
    **dict.fromkeys(("chosen_response", "response_chosen", "preferred_response", "accepted", "y_w"), "chosen"),
    **dict.fromkeys(("preferred", "response_w"), "chosen"),
    **dict.fromkeys(("rejected_response", "response_rejected", "dispreferred_response", "y_l"), "rejected"),
    **dict.fromkeys(("dispreferred", "response_l"), "rejected"),
    **dict.fromkeys(("response", "output", "answer"), "completion"),
    **dict.fromkeys(("responses", "outputs", "generations"), "completions"),
    **dict.fromkeys(("conversation", "conversations"), "messages"),
    **dict.fromkeys(("kto_tag", "thumbs_up", "is_desirable", "desirable"), "label"),
    **dict.fromkeys(("system_prompt", "system_message"), "system"),
    **dict.fromkeys(("ratings",), "scores"),
    **dict.fromkeys(("chosen_score", "chosen_rating", "chosen_avg_rating"), "score_chosen"),
    **dict.fromkeys(("rejected_score", "rejected_rating", "rejected_avg_rating"), "score_rejected"),
    **{f"{part}_input_ids": f"{part}_ids" for part in ("prompt", "chosen", "rejected", "completion")},
}
"""Name of a column → its role, where it can mean nothing else. Names are compared as `plain_name` gives them."""

GUESSES: Mapping[str, str] = {
    **dict.fromkeys(("input", "context", "user"), "prompt"),
    **dict.fromkeys(("better",), "chosen"),
    **dict.fromkeys(("loser", "worse"), "rejected"),
    **dict.fromkeys(("answers",), "completion"),
    **dict.fromkeys(("candidates",), "completions"),
    **dict.fromkeys(("conversational",), "messages"),
    **dict.fromkeys(("labels", "thumbs", "feedback"), "label"),
    **dict.fromkeys(("margin", "margins"), "offset"),
    **dict.fromkeys(("rank", "ranking"), "ranks"),
    **dict.fromkeys(("rating", "score", "rewards"), "scores"),
    **dict.fromkeys(("choice", "verdict", "better_response", "preferred_response_id", "judgment"), "winner"),
}
"""Name of a column → the role that its author probably meant; used in messages only."""

TIES = frozenset({"tie", "draw", "equal", "same", "both", "neither"})
SIGN = {**{str(-n): "a" for n in (1, 2, 3)}, "0": "tie", **{str(n): "b" for n in (1, 2, 3)}}
"""HelpSteer's preference: below 0 the first response is better, above 0 the second; how much is not used."""
ANSWERS = re.compile(r"(answer|response|completion|output|generation|reply|conversation|text)_?(a|b|0|1|2)")
"""Names of columns with one of two answers."""
SIDES = (("a", "b"), ("1", "2"), ("0", "1"))
"""Last characters of the names of two answers that are compared."""

PICTURES = frozenset({"image", "images", "picture", "pictures", "video", "videos", "audio", "audios"})
"""Columns of data for models that read more than text."""


@dataclass(frozen=True)
class Export:
    """The form in which a tool writes its rows, if names alone do not say how to read them."""

    columns: frozenset[str]
    """The columns by which it is recognised."""
    roles: Mapping[str, str]
    """Column → role."""
    remarks: frozenset[str] = frozenset()
    """Columns of this tool that have no role."""
    adds: frozenset[str] = frozenset()
    """Roles that `reader` adds."""
    reader: Reader | None = None
    only: frozenset[str] | None = None
    """The roles that columns of these names have; all other columns are remarks. None: names are read as usual."""
    winners: Mapping[str, str] = field(default_factory=dict)
    """Value of `winner` → a, b or tie, beside the usual ones."""


def _answers_with_ranks(values: Values) -> Values:
    """Read Nectar's answers, each with its rank, as `completions` and `ranks`."""
    answers = cells.items("answers", values.get("completions"))
    for answer in answers:
        if not isinstance(answer, Mapping) or not {"answer", "rank"} <= answer.keys():
            raise cells.wrong_type("answers", answer, "an answer with its rank: {answer: ..., rank: ...}")
    texts, ranks = [answer["answer"] for answer in answers], [answer["rank"] for answer in answers]
    return {**values, "completions": texts, "ranks": ranks}


JUDGED = frozenset({"id", "source", "scores", "ranks", "comparisons"})

EXPORTS = (
    Export(
        frozenset({"prompt_ids", "completions_ids", "completions_ended", "engine", "untruncated"}),  # our own answers
        roles={"completions_ended": "ended"},
        only=JUDGED | {"prompt_ids", "completions_ids"},
    ),
    Export(
        frozenset({"prompt", "completions", "engine", "untruncated"}),  # our own, without token ids
        roles={},
        only=JUDGED | {"prompt", "completions", "system", "tools", "chat_template_kwargs"},
    ),
    Export(
        frozenset({"prompt", "answers", "num_responses", "turns"}),  # Nectar
        roles={"answers": "completions"},
        remarks=frozenset({"num_responses", "turns", "good_natured"}),
        adds=frozenset({"ranks"}),
        reader=_answers_with_ranks,
    ),
    Export(
        frozenset({"context", "response1", "response2", "overall_preference"}),  # HelpSteer3
        roles={"context": "prompt", "overall_preference": "winner"},
        remarks=frozenset({"individual_preference", "domain"}),
        winners=SIGN,
    ),
    Export(frozenset({"conversations", "chosen", "rejected"}), roles={"conversations": "prompt"}),  # ShareGPT
    Export(frozenset({"winner", "loser"}), roles={"winner": "chosen", "loser": "rejected"}),
    Export(
        frozenset({"instruction", "generations", "ratings"}),  # distilabel
        roles={},
        remarks=frozenset({"rationales", "generation_models", "distilabel_metadata", "score_best"}),
    ),
    Export(
        frozenset({"instruction", "chosen_response", "rejected_response"}),  # Argilla
        roles={},
        remarks=frozenset(
            {"chosen_rating", "chosen_rating_suggestion", "chosen_rating_suggestion_metadata", "external_id", "status"}
        ),
    ),
)
"""Known forms. Their columns are compared as `plain_name` gives them."""


@dataclass(frozen=True)
class Reading:
    """How columns of other names are read."""

    roles: Mapping[str, str]
    """Column → role, for the columns that have another name than their role."""
    remarks: frozenset[str]
    """Columns without a role."""
    adds: frozenset[str]
    """Roles that the readers add."""
    readers: tuple[Reader, ...]


def plain_name(column: str) -> str:
    """Return the name of a column in lower case, with one underscore in place of spaces and signs."""
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def recognise(columns: Mapping[str, str], known: Collection[str]) -> Reading:
    """Find the roles of columns whose names are not roles, where their meaning is plain.

    A role is given only if no other column has it or could have it.

    Args:
        columns: Name → column of the data. Columns that the settings rename have the names of their roles.
        known: All names of roles.
    """
    plain = {column: plain_name(column) for column in columns}
    export = next((e for e in EXPORTS if e.columns <= set(plain.values())), Export(frozenset(), {}))
    if export.only is not None:
        own = {column: export.roles[name] for column, name in plain.items() if name in export.roles}
        return Reading(own, frozenset(set(plain) - export.only - set(own)), frozenset(), ())
    taken = {column for column in columns if column in known and column not in export.roles}
    claims: dict[str, list[str]] = {}
    for column, name in plain.items():
        role = export.roles.get(name) or _answer_side(name, plain.values()) or NAMES.get(name)
        role = role or (name if name in known else None)
        if column not in taken and name not in export.remarks and role is not None:
            claims.setdefault(role, []).append(column)
    roles = {names[0]: role for role, names in claims.items() if len(names) == 1 and role not in taken}
    readers = [] if export.reader is None else [export.reader]
    sides = {role: plain_name(columns[name]) for name, role in [*roles.items(), *((name, name) for name in taken)]}
    if "winner" in sides and "answer_a" in sides and "answer_b" in sides:
        readers.append(partial(choose_winner, winners=_winners(sides, export.winners)))
    remarks = frozenset(column for column, name in plain.items() if name in export.remarks and column not in roles)
    return Reading(roles, remarks, export.adds, tuple(readers))


def _answer_side(name: str, names: Collection[str]) -> str | None:
    """Return `answer_a` or `answer_b` for the column of one of two answers, if the other one is there too."""
    match = ANSWERS.fullmatch(name)
    if match is None:
        return None
    stem = name.removesuffix(match[2])
    found = [sides for sides in SIDES if all(stem + side in names for side in sides)]
    return f"answer_{'ab'[found[0].index(match[2])]}" if len(found) == 1 else None


def _winners(sides: Mapping[str, str], winners: Mapping[str, str]) -> dict[str, str]:
    """Return what each value of `winner` means: the letter or the number of a side, or the name of its column."""
    letters = {"a": "a", "b": "b"}
    named = {sides[f"answer_{side}"]: side for side in "ab"}
    numbers = {match[2]: side for name, side in named.items() if (match := ANSWERS.fullmatch(name))}
    return {**letters, **numbers, **named, **winners}


def choose_winner(values: Values, winners: Mapping[str, str]) -> Values:
    """Read two answers and a winner as a pair. The winner is chosen; a tie is a pair with preference ½.

    Raises:
        Defect: The winner is missing or unknown.
    """
    rest = {role: value for role, value in values.items() if role not in ("answer_a", "answer_b", "winner")}
    a, b = values.get("answer_a"), values.get("answer_b")
    side = _side(values.get("winner"), winners)
    chosen, rejected = (b, a) if side == "b" else (a, b)
    return {**rest, "chosen": chosen, "rejected": rejected, "preference": 0.5 if side == "tie" else 1.0}


def _side(value: object, winners: Mapping[str, str]) -> str:
    if value is None or value == "":
        raise Defect("missing_value", "winner is missing")
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        names = [plain_name(text), plain_name(text).rpartition("_")[2]]
    else:
        names = [str(int(number))] if number.is_integer() else []
    for name in names:
        if name in winners:
            return winners[name]
    if plain_name(text).partition("_")[0] in TIES:
        return "tie"
    raise cells.wrong_type("winner", value, f"one of {', '.join(sorted(winners))}, tie")
