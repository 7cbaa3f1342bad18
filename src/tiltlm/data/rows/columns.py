"""Find the role of each column and the shape of the data. Names follow TRL. An unknown column is an error.

If it were ignored instead, a prompt column of unexpected name would be lost, and the model trained on wrong context.
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
"""Column of token ids → the role it replaces."""
ENDED = {"chosen": "chosen_ended", "rejected": "rejected_ended", "completion": "ended", "completions": "ended"}
"""Role of a response → column that says if the response, given as token ids, ended by itself."""
TEXTUAL = frozenset({*TOKENS.values(), "messages", "text", "tools", "chat_template_kwargs"})
"""Columns that are useless beside token ids."""

ROLES_OF_SHAPE: dict[Shape, frozenset[str]] = {
    "pairs": COMMON | PAIR_ONLY | {"chosen", "rejected"},
    "unpaired": COMMON | {"completion", "messages", "label", "ref_logps"},
    "lists": COMMON | {"completions", "ranks", "scores", "comparisons", "ref_logps"},
    "demonstrations": COMMON | {"completion", "messages", "text"},
}
"""Columns that each shape of data can use, if it is text."""

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
"""Common names of identifiers and remarks: they are noted as unused, not refused."""

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
"""Column name → the role that its author probably meant; used in messages only."""


@dataclass(frozen=True)
class ColumnRoles:
    """The shape of the rows, and the roles of their columns."""

    shape: Shape
    roles: frozenset[str]
    unused: tuple[str, ...]
    """Columns without a role."""
    renamed: Mapping[str, str]
    """Column name → role."""

    @property
    def is_tokenised(self) -> bool:
        """True if prompts and responses are token ids."""
        return bool(self.roles & TOKENS.keys())

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a row by role."""
        named = {self.renamed.get(column, column): value for column, value in row.items()}
        return {role: value for role, value in named.items() if role in self.roles}


def detect(
    first_seen: Mapping[str, str], settings: DataSettings, *, use_reference_columns: bool = False
) -> ColumnRoles:
    """Find the shape of the data from its columns.

    Args:
        first_seen: Each column of the data → location of the first row that has it.
        settings: Of these, `columns` and `ignore` are used.
        use_reference_columns: True with `reference=columns`.

    Raises:
        ConfigError: `columns` names an unknown role.
        DataError: A column is unknown or useless, columns contradict each other, or no column has responses.
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
        redundant = roles & {"messages", "text"}  # UltraFeedback repeats the chosen conversation
        roles, unused = roles - redundant, unused | redundant
    usable = _usable(shape, roles)
    for role in sorted(roles - usable):
        raise DataError(
            f"{first_seen[present[role]]}: column {present[role]!r} cannot be used together with "
            f"{', '.join(sorted(roles & usable))}. Ignore it: data.ignore=[{present[role]}]",
            code="column_without_use",
            row=first_seen[present[role]],
        )
    if not use_reference_columns and roles & REFERENCE:
        named = ", ".join(sorted(roles & REFERENCE))
        raise DataError(
            f"{named}: reference log-probabilities in the data are used only with reference=columns. Set it, or ignore "
            f"the columns: data.ignore=[{named}]",
            code="unused_reference_columns",
            key="reference.name",
        )
    ignored = tuple(sorted({*unused, *settings.ignore}))
    return ColumnRoles(shape, frozenset(roles), ignored, renamed)


def _usable(shape: Shape, roles: Collection[str]) -> frozenset[str]:
    """Return the columns that data of this shape can use, as text or, if there is a column of token ids, as ids.

    Raises:
        DataError: Some prompts or responses are token ids, and others are not.
    """
    if not TOKENS.keys() & set(roles):
        return ROLES_OF_SHAPE[shape]
    ids = {column for column, role in TOKENS.items() if role in ROLES_OF_SHAPE[shape]}
    missing = ", ".join(sorted(ids - set(roles)))
    if missing:
        given = ", ".join(sorted(TOKENS.keys() & set(roles)))
        raise DataError(
            f"the data has {given} but not {missing}. Give prompt and responses all as token ids, or all as text",
            code="text_and_token_ids",
        )
    return frozenset(
        (ROLES_OF_SHAPE[shape] - TEXTUAL) | ids | {ENDED[TOKENS[column]] for column in ids - {"prompt_ids"}}
    )


def _check_settings(first_seen: Collection[str], settings: DataSettings) -> None:
    columns = f"the data has {', '.join(sorted(first_seen))}"
    for role, column in settings.columns.items():
        if role not in ALL_ROLES:
            raise ConfigError(
                f"data.columns.{role}: unknown role; the roles are {', '.join(sorted(ALL_ROLES))}",
                code="unknown_name",
                key=f"data.columns.{role}",
            )
        if column not in first_seen:
            raise DataError(
                f"data.columns.{role}={column}: no such column; {columns}",
                code="no_such_column",
                key=f"data.columns.{role}",
            )
        if role in first_seen and role != column and role not in settings.ignore:
            raise DataError(
                f"data.columns.{role}={column}: the data has a column named {role!r} too. Ignore that one "
                f"(data.ignore=[{role}]), or remove this setting",
                code="conflict",
                key=f"data.columns.{role}",
            )
    for column in settings.ignore:
        if column not in first_seen:
            raise DataError(
                f"data.ignore=[{column}]: no such column; {columns}", code="no_such_column", key="data.ignore"
            )


def _unknown(column: str, first_seen: Mapping[str, str], roles: Collection[str]) -> str:
    role = ALIASES.get(column.lower(), "prompt" if "prompt" not in roles else "ROLE")
    if role in roles:
        role = "ROLE"
    known = f" (roles: {', '.join(sorted(ALL_ROLES))})" if role == "ROLE" else ""
    return (
        f"{first_seen[column]}: unknown column {column!r}. If it has a role, name it: "
        f"data.columns.{role}={column}{known}. If not, ignore it: data.ignore=[{column}]"
    )


def _shape(roles: Collection[str], first_seen: Mapping[str, str]) -> Shape:
    def demand(holds: bool, code: str, problem: str) -> None:
        if not holds:
            raise DataError(f"{problem}; the data has {', '.join(sorted(first_seen))}", code=code, key="data.columns")

    if "chosen" in roles or "rejected" in roles:
        both = "chosen" in roles and "rejected" in roles
        demand(both, "missing_column", "`chosen` and `rejected` must both be given")
        return "pairs"
    if "completions" in roles:
        known = {"ranks", "scores", "comparisons"} & set(roles)
        rule = "`completions` needs exactly one of `ranks`, `scores` and `comparisons`"
        demand(len(known) == 1, "needs_one_order", rule)
        return "lists"
    responses = {"completion", "messages", "text"} & set(roles)
    rule = "no column has responses: chosen and rejected, completion, completions, messages or text"
    demand(len(responses) > 0, "no_responses", rule)
    rule = f"each of {' and '.join(sorted(responses))} gives the response; keep one of them and ignore the others"
    demand(len(responses) == 1, "several_responses", rule)
    return "unpaired" if "label" in roles else "demonstrations"
