"""From the shape the data has to the shape the objective needs, announced; or a refusal that says what would help."""

from collections.abc import Sequence
from dataclasses import replace

from tiltlm.core.errors import DataError
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.data.accounting import Defect
from tiltlm.data.rows.columns import Schema
from tiltlm.data.rows.records import Record

USES: dict[Shape, frozenset[Use]] = {
    "pairs": frozenset({"weight", "offset", "preference"}),
    "unpaired": frozenset({"weight"}),
    "lists": frozenset({"weight"}),
    "demonstrations": frozenset({"weight"}),
}
"""What an objective of each shape can use where it does not say otherwise."""

DIRECT = {
    ("pairs", "pairs"),
    ("lists", "pairs"),
    ("lists", "lists"),
    ("unpaired", "unpaired"),
    ("demonstrations", "demonstrations"),
}

ANNOUNCED = {
    ("pairs", "unpaired"): "pairs → unpaired: each pair gives one desirable and one undesirable response",
    ("pairs", "lists"): "pairs → lists: each pair is a list of two, the chosen response before the rejected one",
    ("pairs", "demonstrations"): "pairs → demonstrations: chosen responses are learnt, rejected ones are not",
    ("lists", "demonstrations"): "lists → demonstrations: the best response of each list is learnt",
}

REFUSED = {
    ("unpaired", "pairs"): "the data has single responses with a label; this objective compares two responses. "
    "Use an objective of labels (kto), or give `chosen` and `rejected`",
    ("demonstrations", "pairs"): "the data has single responses and nothing known about them; this objective compares "
    "two responses. Use sft, or give `chosen` and `rejected`",
    ("lists", "unpaired"): "the data has ranked or scored lists; this objective needs a label on every response. "
    "Use an objective of pairs (dpo), or give `completion` and `label`",
    (
        "demonstrations",
        "unpaired",
    ): "the data has single responses without a `label` (true or false); add one, or use sft",
    ("unpaired", "lists"): "the data has single responses with a label; this objective compares the responses of a "
    "list. Use an objective of labels (kto), or give `completions` with `ranks` or `scores`",
    ("demonstrations", "lists"): "the data has single responses and nothing known about them; this objective compares "
    "the responses of a list. Use sft, or give `completions` with `ranks` or `scores`",
    ("unpaired", "demonstrations"): "the data has labelled responses, of which some are undesirable; sft would imitate "
    "them. Keep the desirable rows and leave the label out: data.ignore=[label]",
}

PURPOSE: dict[str, Use] = {"weight": "weight", "offset": "offset", "preference": "preference", "votes": "preference"}
"""What each optional column is used for."""


def announce(
    schema: Schema, shape: Shape, needs: frozenset[Need] = frozenset(), uses: frozenset[Use] | None = None
) -> list[str]:
    """What the conversion does, or nothing where none is needed.

    Args:
        needs: what the objective cannot do without.
        uses: the optional columns it can use; None: those that objectives of its shape can.

    Raises:
        DataError: this data cannot serve this objective, or a column of it could have no effect.
    """
    route = (schema.shape, shape)
    if route in REFUSED:
        raise DataError(REFUSED[route], code="wrong_data_shape")
    _refuse_idle(schema, shape, USES[shape] if uses is None else uses)
    _refuse_lacking(schema, shape, needs)
    if schema.shape == "lists" and shape == "pairs" and "comparisons" not in schema.roles:
        return ["lists → comparisons: every two responses of different rank or score, equally weighted within a row"]
    if schema.shape == "lists" and "ranks" in needs and "scores" in schema.roles:
        return ["scores → ranks: the highest score has rank 1, equal scores have equal ranks"]
    return [] if route in DIRECT else [ANNOUNCED[route]]


def _refuse_idle(schema: Schema, shape: Shape, uses: frozenset[Use]) -> None:
    """Refuse optional columns that could have no effect. The ranks of a pair are read off its soft label."""
    read = uses | {"preference"} if (schema.shape, shape) == ("pairs", "lists") else uses
    idle = ", ".join(sorted(column for column in schema.roles & PURPOSE.keys() if PURPOSE[column] not in read))
    if idle:
        raise DataError(
            f"{idle}: this objective cannot use this column; leave it out: data.ignore=[{idle}]",
            code="not_used_by_objective",
        )


def _refuse_lacking(schema: Schema, shape: Shape, needs: frozenset[Need]) -> None:
    if needs & {"scores", "strict_scores"}:
        columns = {"score_chosen", "score_rejected"} if schema.shape == "pairs" else {"scores"}
        for column in sorted(columns - schema.roles):
            raise DataError(
                f"this objective needs a score of every response, and the data has no column {column!r}; no score "
                f"follows from an order. Add it, name the column that holds it (data.columns.{column}=NAME), or use "
                "an objective that needs none: dpo for pairs, pl_dpo for lists",
                code="missing_column",
                key=f"data.columns.{column}",
            )
    if shape == "lists" and "comparisons" in schema.roles:
        raise DataError(
            "the data has lists with `comparisons`; this objective reads the order or the scores of whole lists. Give "
            "`ranks` or `scores` in their place, or use an objective of pairs (dpo)",
            code="wrong_data_shape",
        )


def convert(
    record: Record,
    schema: Schema,
    shape: Shape,
    needs: frozenset[Need] = frozenset(),
    *,
    held_out: bool,
) -> Record:
    """The record as the objective needs it.

    Held-out pairs keep both responses for an objective of demonstrations, so that its accuracy can be measured.

    Raises:
        Defect: nothing is preferred to anything, a score is missing or not above the other, or a soft label is no rank.
    """
    if needs & {"scores", "strict_scores"}:
        _check_scores(record, "strict_scores" in needs)
    if shape == "lists":
        record = _as_list(record, schema, needs)
    elif schema.shape == "lists" and not record.comparisons:
        raise Defect("no_comparison")
    if shape == "unpaired" and schema.shape == "pairs":
        return replace(record, labels=(True, False))
    if shape == "demonstrations" and record.comparisons and not held_out:
        return _only(record, _best(record))
    return record


def _check_scores(record: Record, strict: bool) -> None:
    if not record.scores:
        raise Defect("missing_value", "no score")
    for c in record.comparisons:
        chosen, rejected = record.scores[c.chosen], record.scores[c.rejected]
        if strict and chosen <= rejected:
            raise Defect("score_tie", f"chosen scores {chosen:g}, rejected {rejected:g}")


def _as_list(record: Record, schema: Schema, needs: frozenset[Need]) -> Record:
    """The record with ranks from 1 where it is ranked or ranks are needed; a pair is a list of two."""
    if schema.shape == "pairs":
        record = replace(record, ranks=_pair_ranks(record.comparisons[0].preference))
    elif record.ranks or "ranks" in needs:
        record = replace(record, ranks=_ranks(record.scores or [-rank for rank in record.ranks]))
    # Equal scores are as good a target as others for an objective that reads them; equal ranks order nothing.
    says_nothing = len(set(record.ranks or record.scores)) < 2 and "scores" not in needs
    if len(record.responses) < 2 or says_nothing:
        raise Defect("no_comparison")
    return replace(record, changes=tuple(change for change in record.changes if change != "tie"))


def _pair_ranks(preference: float) -> tuple[int, int]:
    known = {1.0: (1, 2), 0.0: (2, 1), 0.5: (1, 1)}
    if preference not in known:
        raise Defect("soft_label", f"preference {preference:g}")
    return known[preference]


def _ranks(worth: Sequence[float]) -> tuple[int, ...]:
    """1 for the best, then one more than there are better ones."""
    return tuple(1 + sum(other > own for other in worth) for own in worth)


def _best(record: Record) -> int:
    """The response that wins most of its comparisons, less those it loses; the first among equals."""
    wins = [0.0] * len(record.responses)
    for c in record.comparisons:
        wins[c.chosen] += c.weight
        wins[c.rejected] -= c.weight
    return wins.index(max(wins))


def _only(record: Record, k: int) -> Record:
    return replace(record, responses=record.responses[k : k + 1], comparisons=(), ranks=(), scores=(), ref_logps=())
