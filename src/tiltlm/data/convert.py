"""From the shape the data has to the shape the objective needs, announced; or a refusal that says what would help."""

from dataclasses import replace
from typing import Literal

from tiltlm.core.errors import DataError
from tiltlm.data.accounting import Defect
from tiltlm.data.columns import Schema
from tiltlm.data.records import Record

ObjectiveShape = Literal["pairs", "labels", "demonstrations"]

DIRECT = {("pairs", "pairs"), ("lists", "pairs"), ("labelled", "labels"), ("demonstrations", "demonstrations")}

ANNOUNCED = {
    ("pairs", "labels"): "pairs → labels: each pair is one desirable and one undesirable response of the same example",
    ("pairs", "demonstrations"): "pairs → demonstrations: chosen responses are learnt, rejected ones are not",
    ("lists", "demonstrations"): "lists → demonstrations: the best response of each list is learnt",
}

REFUSED = {
    ("labelled", "pairs"): "the data has single responses with a label; this objective compares two responses. "
    "Use an objective of labels (kto), or give `chosen` and `rejected`",
    ("demonstrations", "pairs"): "the data has single responses and nothing known about them; this objective compares "
    "two responses. Use sft, or give `chosen` and `rejected`",
    ("lists", "labels"): "the data has ranked or scored lists; this objective needs a label on every response. "
    "Use an objective of pairs (dpo), or give `completion` and `label`",
    (
        "demonstrations",
        "labels",
    ): "the data has single responses without a `label` (true or false); add one, or use sft",
    ("labelled", "demonstrations"): "the data has labelled responses, of which some are undesirable; sft would imitate "
    "them. Keep the desirable rows and leave the label out: data.ignore=[label]",
}

PAIR_NOTES = ("offset", "preference", "votes")


def announce(schema: Schema, shape: ObjectiveShape) -> list[str]:
    """What the conversion does, or nothing where none is needed.

    Raises:
        DataError: this data cannot serve this objective, or a column of it could have no effect.
    """
    route = (schema.shape, shape)
    if route in REFUSED:
        raise DataError(REFUSED[route])
    idle = sorted(schema.roles & set(PAIR_NOTES)) if shape != "pairs" else []
    if idle:
        raise DataError(
            f"{', '.join(idle)}: only objectives of pairs can use this; leave it out: data.ignore=[{', '.join(idle)}]"
        )
    if schema.shape == "lists" and shape == "pairs" and "comparisons" not in schema.roles:
        return ["lists → comparisons: every two responses of different rank or score, equally weighted within a row"]
    return [] if route in DIRECT else [ANNOUNCED[route]]


def convert(record: Record, schema: Schema, shape: ObjectiveShape, *, held_out: bool) -> Record:
    """The record as the objective needs it.

    Held-out pairs keep both responses for an objective of demonstrations, so that its accuracy can be measured.

    Raises:
        Defect: a list in which nothing is preferred to anything.
    """
    if schema.shape == "lists" and not record.comparisons:
        raise Defect("no_comparison")
    if shape == "labels" and schema.shape == "pairs":
        return replace(record, labels=(True, False))
    if shape == "demonstrations" and record.comparisons and not held_out:
        return _only(record, _best(record))
    return record


def _best(record: Record) -> int:
    """The response that wins most of its comparisons, less those it loses; the first among equals."""
    wins = [0.0] * len(record.responses)
    for c in record.comparisons:
        wins[c.chosen] += c.weight
        wins[c.rejected] -= c.weight
    return wins.index(max(wins))


def _only(record: Record, k: int) -> Record:
    return replace(record, responses=record.responses[k : k + 1], comparisons=(), ranks=(), scores=(), ref_logps=())
