"""What a column is for. Names follow TRL; a column that no role claims is refused, never dropped in silence.

A prompt column of an unexpected name would otherwise be thrown away and the model trained on the wrong context.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.needs import Shape
from tiltlm.data.data_settings import DataSettings

COMMON = frozenset({"id", "source", "prompt", "weight", "tools", "chat_template_kwargs"})
PAIR_ONLY = frozenset(
    {
        *("score_chosen", "score_rejected", "offset", "preference", "votes"),
        *("ref_chosen_logps", "ref_rejected_logps"),
    }
)
TOKENS = {
    "prompt_ids": "prompt",
    "chosen_ids": "chosen",
    "rejected_ids": "rejected",
    "completion_ids": "completion",
    "completions_ids": "completions",
}
"""Columns of token ids, and the text each stands for."""
ENDED = {"chosen": "chosen_ended", "rejected": "rejected_ended", "completion": "ended", "completions": "ended"}
"""Columns that say whether a response given as token ids ended by itself."""
TEXTUAL = frozenset({*TOKENS.values(), "messages", "text", "tools", "chat_template_kwargs"})
"""Columns that have no use where token ids are given."""

ROLES_OF_SHAPE: dict[Shape, frozenset[str]] = {
    "pairs": COMMON | PAIR_ONLY | {"chosen", "rejected"},
    "unpaired": COMMON | {"completion", "messages", "label", "ref_logps"},
    "lists": COMMON | {"completions", "ranks", "scores", "comparisons", "ref_logps"},
    "demonstrations": COMMON | {"completion", "messages", "text"},
}
"""The columns each shape of data can use, where it is text."""

ALL_ROLES = frozenset({*TOKENS, *ENDED.values()}).union(*ROLES_OF_SHAPE.values())
REFERENCE = frozenset({"ref_chosen_logps", "ref_rejected_logps", "ref_logps"})

METADATA = frozenset(
    {
        *("annotator", "annotator_id", "category", "conversation_id", "created_at", "dataset", "date", "hash", "idx"),
        *(
            "index",
            "lang",
            "language",
            "license",
            "meta",
            "metadata",
            "model",
            "models",
            "prompt_id",
            "row_id",
            "split",
        ),
        *("chosen_model", "rejected_model", "chosen-model", "rejected-model", "model_chosen", "model_rejected"),
        *("model_name", "generator", "source_dataset", "subset", "tags", "task", "timestamp", "topic", "url", "uuid"),
        *("question_id", "user_id", "__index_level_0__"),
    }
)
"""Identifiers and remarks under common names: listed as unused, not refused."""

ALIASES = {
    **dict.fromkeys(("question", "instruction", "query", "input", "context", "user", "problem"), "prompt"),
    **{f"{part}_input_ids": f"{part}_ids" for part in ("prompt", "chosen", "rejected", "completion")},
    **dict.fromkeys(("response_chosen", "preferred", "accepted", "response_w", "y_w", "winner"), "chosen"),
    **dict.fromkeys(("response_rejected", "dispreferred", "response_l", "y_l", "loser"), "rejected"),
    **dict.fromkeys(("response", "output", "answer", "answers"), "completion"),
    **dict.fromkeys(("responses", "outputs", "candidates"), "completions"),
    **dict.fromkeys(("conversation", "conversations", "conversational"), "messages"),
    **dict.fromkeys(("labels", "thumbs", "feedback"), "label"),
    **dict.fromkeys(("margin", "margins"), "offset"),
    **dict.fromkeys(("rank", "ranking"), "ranks"),
    **dict.fromkeys(("rating", "ratings", "score", "rewards"), "scores"),
}
"""What a refused column may have been meant as; only used in messages."""


@dataclass(frozen=True)
class Schema:
    """Which shape the rows have, and which of their columns play a role."""

    shape: Shape
    roles: frozenset[str]
    unused: tuple[str, ...]
    renamed: Mapping[str, str]
    """Column name → role."""

    @property
    def is_tokenised(self) -> bool:
        """Whether prompts and responses are token ids."""
        return bool(self.roles & TOKENS.keys())

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a row by role."""
        named = {self.renamed.get(column, column): value for column, value in row.items()}
        return {role: value for role, value in named.items() if role in self.roles}


def detect(first_seen: Mapping[str, str], settings: DataSettings, *, use_reference_columns: bool = False) -> Schema:
    """Find the shape of the data from its columns.

    Args:
        first_seen: every column of the data, and the place of the first row that has it.
        settings: `columns` and `ignore` are applied here.
        use_reference_columns: whether the reference is named to be the data's own columns.

    Raises:
        DataError: a column no role claims, roles that do not go together, or no responses at all.
    """
    _check_settings(first_seen, settings)
    renamed = {column: role for role, column in settings.columns.items()}
    present = {renamed.get(column, column): column for column in first_seen if column not in settings.ignore}
    roles = {role for role in present if role in ALL_ROLES}
    unused = {role for role in present if role in METADATA}
    for role in present.keys() - roles - unused:
        column = present[role]
        raise DataError(
            _unknown(column, first_seen, roles), code="unknown_column", key="data.columns", row=first_seen[column]
        )
    shape = _shape({TOKENS.get(role, role) for role in roles}, first_seen)
    if shape == "pairs":
        redundant = roles & {"messages", "text"}  # the chosen conversation once more, as UltraFeedback has it
        roles, unused = roles - redundant, unused | redundant
    usable = _usable(shape, roles)
    for role in sorted(roles - usable):
        raise DataError(
            f"{first_seen[present[role]]}: column {present[role]!r} has no use beside "
            f"{', '.join(sorted(roles & usable))}; leave it out: data.ignore=[{present[role]}]",
            code="column_without_use",
            row=first_seen[present[role]],
        )
    if not use_reference_columns and roles & REFERENCE:
        named = ", ".join(sorted(roles & REFERENCE))
        raise DataError(
            f"{named}: reference log-probabilities in the data are used only where the reference is named so: "
            f"reference=columns. Otherwise leave them out: data.ignore=[{named}]",
            code="unused_reference_columns",
            key="reference.name",
        )
    ignored = tuple(sorted({*unused, *settings.ignore}))
    return Schema(shape, frozenset(roles), ignored, renamed)


def _usable(shape: Shape, roles: Collection[str]) -> frozenset[str]:
    """The columns that data of this shape can use: of text, or of token ids where any are given.

    Raises:
        DataError: a prompt or response has no ids while another has.
    """
    if not TOKENS.keys() & set(roles):
        return ROLES_OF_SHAPE[shape]
    ids = {column for column, role in TOKENS.items() if role in ROLES_OF_SHAPE[shape]}
    lacking = ", ".join(sorted(ids - set(roles)))
    if lacking:
        given = ", ".join(sorted(TOKENS.keys() & set(roles)))
        raise DataError(
            f"{given} without {lacking}: give prompt and responses as token ids, or all of them as text",
            code="text_and_token_ids",
        )
    return frozenset(
        (ROLES_OF_SHAPE[shape] - TEXTUAL) | ids | {ENDED[TOKENS[column]] for column in ids - {"prompt_ids"}}
    )


def _check_settings(first_seen: Collection[str], settings: DataSettings) -> None:
    has = f"the data has {', '.join(sorted(first_seen))}"
    for role, column in settings.columns.items():
        if role not in ALL_ROLES:
            raise ConfigError(
                f"data.columns.{role}: no such role; known: {', '.join(sorted(ALL_ROLES))}",
                code="unknown_name",
                key=f"data.columns.{role}",
            )
        if column not in first_seen:
            raise DataError(
                f"data.columns.{role}={column}: no such column; {has}",
                code="no_such_column",
                key=f"data.columns.{role}",
            )
        if role in first_seen and role != column and role not in settings.ignore:
            raise DataError(
                f"data.columns.{role}={column}: the data has a column {role!r} too; "
                f"leave out one of the two: data.ignore=[{role}]",
                code="conflict",
                key=f"data.columns.{role}",
            )
    for column in settings.ignore:
        if column not in first_seen:
            raise DataError(f"data.ignore=[{column}]: no such column; {has}", code="no_such_column", key="data.ignore")


def _unknown(column: str, first_seen: Mapping[str, str], roles: Collection[str]) -> str:
    role = ALIASES.get(column.lower(), "prompt" if "prompt" not in roles else "ROLE")
    if role in roles:
        role = "ROLE"
    known = f" (roles: {', '.join(sorted(ALL_ROLES))})" if role == "ROLE" else ""
    return (
        f"{first_seen[column]}: column {column!r} is none that preference data has, and dropping it unasked could "
        f"train on the wrong context. If it plays a role: data.columns.{role}={column}{known}; "
        f"if not: data.ignore=[{column}]"
    )


def _shape(roles: Collection[str], first_seen: Mapping[str, str]) -> Shape:
    def demand(holds: bool, code: str, problem: str) -> None:
        if not holds:
            raise DataError(f"{problem}; the data has {', '.join(sorted(first_seen))}", code=code, key="data.columns")

    if "chosen" in roles or "rejected" in roles:
        both = "chosen" in roles and "rejected" in roles
        demand(both, "missing_column", "`chosen` and `rejected` go together")
        return "pairs"
    if "completions" in roles:
        known = {"ranks", "scores", "comparisons"} & set(roles)
        rule = "`completions` need exactly one of `ranks`, `scores` and `comparisons` beside them"
        demand(len(known) == 1, "needs_one_order", rule)
        return "lists"
    answers = {"completion", "messages", "text"} & set(roles)
    rule = "no column holds responses: chosen and rejected, completion, completions, messages or text"
    demand(len(answers) > 0, "no_responses", rule)
    rule = f"{' and '.join(sorted(answers))} are two places for the response; ignore one of them"
    demand(len(answers) == 1, "several_responses", rule)
    return "unpaired" if "label" in roles else "demonstrations"
