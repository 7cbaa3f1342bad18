"""Convert records from the shape of the data to the shape that the objective needs.

Each conversion is announced. If none is possible, the error names what would help.
"""

from collections.abc import Sequence
from dataclasses import replace

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.core.notes import Note
from tiltlm.data.accounting import Defect
from tiltlm.data.rows.columns import ColumnRoles
from tiltlm.data.rows.comparisons import RULES
from tiltlm.data.rows.records import Record

USES: dict[Shape, frozenset[Use]] = {
    "pairs": frozenset({"weight", "offset", "preference"}),
    "unpaired": frozenset({"weight"}),
    "lists": frozenset({"weight"}),
    "demonstrations": frozenset({"weight"}),
}
"""Optional columns that an objective of each shape uses, unless it declares others."""

ANNOUNCED = {
    ("pairs", "unpaired"): "pairs → unpaired: each pair gives one desirable and one undesirable response",
    ("pairs", "lists"): "pairs → lists: each pair is a list of two; the chosen response has rank 1",
    ("pairs", "demonstrations"): "pairs → demonstrations: only chosen responses are learned",
    ("lists", "pairs"): "lists → comparisons",
    ("lists", "demonstrations"): "lists → demonstrations: only the best response of each list is learned",
}
"""Conversions (shape of the data, shape of the objective), and the note for each."""

REFUSED = {
    ("unpaired", "pairs"): "the data has single responses with a label, but this objective compares two responses. "
    "Use an objective for unpaired data (objective=kto), or give `chosen` and `rejected`",
    ("demonstrations", "pairs"): "the data has single responses without a preference, but this objective compares two "
    "responses. Use sft (objective=sft), or give `chosen` and `rejected`",
    ("lists", "unpaired"): "the data has ranked or scored lists, but this objective needs a label for every response. "
    "Use an objective of pairs (dpo), or give `completion` and `label`",
    ("demonstrations", "unpaired"): "the data has single responses without a `label` (true or false). Add the column, "
    "or use sft",
    ("unpaired", "lists"): "the data has single responses with a label, but this objective compares the responses of a "
    "list. Use an objective for unpaired data (kto), or give `completions` with `ranks` or `scores`",
    ("demonstrations", "lists"): "the data has single responses without a preference, but this objective compares the "
    "responses of a list. Use sft, or give `completions` with `ranks` or `scores`",
    (
        "unpaired",
        "demonstrations",
    ): "the data has responses with a label, and sft would learn the undesirable ones too. "
    "Keep only the desirable rows, and ignore the label: data.ignore=[label]",
}
"""Conversions that are impossible (shape of the data, shape of the objective), and the error message for each."""

PURPOSE: dict[str, Use] = {"weight": "weight", "offset": "offset", "preference": "preference", "votes": "preference"}
"""Optional column → the use it has."""


def announce(
    schema: ColumnRoles,
    shape: Shape,
    needs: frozenset[Need] = frozenset(),
    uses: frozenset[Use] | None = None,
    rule: str = "all",
) -> list[Note]:
    """Return a note that describes the conversion, or an empty list if there is none.

    Args:
        schema: Columns and shape of the data.
        shape: Shape that the objective needs.
        needs: What the objective needs beside responses.
        uses: Optional columns that the objective uses. None: `USES` of its shape.
        rule: `DataSettings.comparisons`.

    Raises:
        ConfigError: The rule has no effect.
        DataError: The data cannot serve this objective, or a column would have no effect.
    """
    route = (schema.shape, shape)
    if route in REFUSED:
        raise DataError(REFUSED[route], code="wrong_data_shape")
    _refuse_unused(schema, shape, USES[shape] if uses is None else uses)
    _refuse_missing(schema, shape, needs)
    _check_rule(schema, shape, rule)
    if schema.shape == shape:
        if "ranks" in needs and "scores" in schema.roles:
            text = "scores → ranks: the highest score has rank 1, equal scores have equal ranks"
            return [Note(text, "scores_to_ranks")]
        return []
    if shape == "pairs" and "comparisons" in schema.roles:
        return []
    how = f": {RULES[rule].note}" if chooses_comparisons(schema, shape) else ""
    return [Note(f"{ANNOUNCED[route]}{how}", f"{schema.shape}_to_{shape}")]


def chooses_comparisons(schema: ColumnRoles, shape: Shape) -> bool:
    """Return True if `DataSettings.comparisons` says which responses of a row are compared."""
    return (schema.shape, shape) == ("lists", "pairs") and "comparisons" not in schema.roles


def _check_rule(schema: ColumnRoles, shape: Shape, rule: str) -> None:
    """Raise if a rule for comparisons has no effect, or needs scores that the data does not have."""
    if rule == "all":
        return
    if not chooses_comparisons(schema, shape):
        reason = (
            "the data says which responses are compared, in the column `comparisons`"
            if "comparisons" in schema.roles
            else f"the data has {schema.shape}, and no lists with scores or ranks"
            if schema.shape != "lists"
            else "this objective does not compare two responses"
        )
        raise ConfigError(
            f"data.comparisons={rule} has no effect, because {reason}; remove it",
            code="no_effect",
            key="data.comparisons",
        )
    if RULES[rule].needs_scores and "scores" not in schema.roles:
        raise DataError(
            f"data.comparisons={rule} needs scores, and the data has ranks. Use all, best_worst or random, or name the "
            "column that has the scores: data.columns.scores=NAME",
            code="missing_column",
            key="data.comparisons",
        )


def _refuse_unused(schema: ColumnRoles, shape: Shape, uses: frozenset[Use]) -> None:
    """Raise if an optional column would have no effect. `preference` gives the ranks when a pair becomes a list."""
    used = uses | {"preference"} if (schema.shape, shape) == ("pairs", "lists") else uses
    unused = ", ".join(sorted(column for column in schema.roles & PURPOSE.keys() if PURPOSE[column] not in used))
    if unused:
        raise DataError(
            f"{unused}: this objective does not use this column. Ignore it: data.ignore=[{unused}]",
            code="not_used_by_objective",
        )


def _refuse_missing(schema: ColumnRoles, shape: Shape, needs: frozenset[Need]) -> None:
    if needs & {"scores", "strict_scores"}:
        columns = {"score_chosen", "score_rejected"} if schema.shape == "pairs" else {"scores"}
        for column in sorted(columns - schema.roles):
            raise DataError(
                f"this objective needs a score for every response, but the data has no column {column!r}. Add the "
                f"column, name the one that has the scores (data.columns.{column}=NAME), or use an objective without "
                "scores: dpo for pairs, pl_dpo for lists",
                code="missing_column",
                key=f"data.columns.{column}",
            )
    if shape == "lists" and "comparisons" in schema.roles:
        raise DataError(
            "the data has lists with `comparisons`, but this objective needs the order or the scores of whole lists. "
            "Give `ranks` or `scores` instead, or use an objective of pairs (dpo)",
            code="wrong_data_shape",
        )


def convert(
    record: Record,
    schema: ColumnRoles,
    shape: Shape,
    needs: frozenset[Need] = frozenset(),
    uses: frozenset[Use] | None = None,
    *,
    held_out: bool,
) -> Record:
    """Return the record in the shape that the objective needs.

    For an objective of demonstrations, held-out pairs keep both responses, so that accuracy can be measured.

    Args:
        record: A row of the data.
        schema: Columns and shape of the data.
        shape: Shape that the objective needs.
        needs: What the objective needs beside responses.
        uses: Optional columns that the objective uses. None: `USES` of its shape.
        held_out: True if the row is not trained on.

    Raises:
        Defect: The row has no preference, a score is missing, the chosen score is not above the rejected one, or a
            soft label cannot become a rank.
    """
    if needs & {"scores", "strict_scores"}:
        _check_scores(record, "strict_scores" in needs)
    if "winner" in schema.roles and shape != "lists" and "preference" not in (USES[shape] if uses is None else uses):
        _refuse_tie(record)
    if shape == "lists":
        record = _as_list(record, schema, needs)
    elif schema.shape == "lists" and not record.comparisons:
        raise Defect("no_comparison")
    if shape == "unpaired" and schema.shape == "pairs":
        return replace(record, labels=(True, False))
    if shape == "demonstrations" and record.comparisons and not held_out:
        return _only(record, best_response(record))
    return record


def _refuse_tie(record: Record) -> None:
    """Refuse a row whose winner is a tie: the objective cannot use its preference of ½."""
    if record.comparisons[0].preference != 1:
        raise Defect("no_comparison", "the winner is a tie, and this objective needs one of the two")


def _check_scores(record: Record, strict: bool) -> None:
    if not record.scores:
        raise Defect("missing_value", "the row has no score")
    for c in record.comparisons:
        chosen, rejected = record.scores[c.chosen], record.scores[c.rejected]
        if strict and chosen <= rejected:
            raise Defect("score_tie", f"chosen has score {chosen:g}, rejected {rejected:g}")


def _as_list(record: Record, schema: ColumnRoles, needs: frozenset[Need]) -> Record:
    """Return the record as a list, with ranks from 1 if it has ranks or the objective needs them.

    A pair becomes a list of two.
    """
    if schema.shape == "pairs":
        record = replace(record, ranks=_pair_ranks(record.comparisons[0].preference))
    elif record.ranks or "ranks" in needs:
        record = replace(record, ranks=_ranks(record.scores or [-rank for rank in record.ranks]))
    # Equal scores are a valid target for an objective that reads scores. Equal ranks give no order.
    has_no_order = len(set(record.ranks or record.scores)) < 2 and "scores" not in needs
    if len(record.responses) < 2 or has_no_order:
        raise Defect("no_comparison")
    return replace(record, changes=tuple(change for change in record.changes if change != "tie"))


def _pair_ranks(preference: float) -> tuple[int, int]:
    known = {1.0: (1, 2), 0.0: (2, 1), 0.5: (1, 1)}
    if preference not in known:
        raise Defect("soft_label", f"preference is {preference:g}")
    return known[preference]


def _ranks(scores: Sequence[float]) -> tuple[int, ...]:
    """Return 1 + the number of better responses, for each response."""
    return tuple(1 + sum(other > own for other in scores) for own in scores)


def best_response(record: Record) -> int:
    """Return the first response with the largest weighted number of comparisons won minus lost."""
    wins = [0.0] * len(record.responses)
    for c in record.comparisons:
        wins[c.chosen] += c.weight
        wins[c.rejected] -= c.weight
    return wins.index(max(wins))


def _only(record: Record, k: int) -> Record:
    return replace(record, responses=record.responses[k : k + 1], comparisons=(), ranks=(), scores=(), ref_logps=())
