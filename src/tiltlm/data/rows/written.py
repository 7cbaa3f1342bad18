"""Turn a record into the values that the writer of a format takes, in the shape that keeps most."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tiltlm.core.errors import DataError
from tiltlm.core.example import Comparison
from tiltlm.core.needs import Shape
from tiltlm.data.rows.cells import Content, TokenContent
from tiltlm.data.rows.columns import ColumnRoles
from tiltlm.data.rows.convert import best_response
from tiltlm.data.rows.formats.format import Format, Values
from tiltlm.data.rows.forms_to_write import in_form
from tiltlm.data.rows.losses import Losses, count_loss
from tiltlm.data.rows.records import Record
from tiltlm.data.rows.roles import ENDED, PAIR_ONLY

ROUTES: Mapping[Shape, tuple[Shape, ...]] = {
    "pairs": ("pairs", "lists", "unpaired", "demonstrations"),
    "lists": ("lists", "pairs", "demonstrations"),
    "unpaired": ("unpaired", "demonstrations"),
    "demonstrations": ("demonstrations",),
    "rollouts": (),
}
"""Shape of the data → shapes in which it can be written, the one that keeps most first."""
ORDERS = frozenset({"ranks", "scores", "comparisons"})


@dataclass(frozen=True)
class Target:
    """A format to write, and the shape in which it takes some data."""

    form: Format
    shape: Shape
    data: ColumnRoles
    """Shape and roles of the data."""

    @classmethod
    def of(cls, form: Format, data: ColumnRoles) -> "Target":
        """Choose the shape that keeps most.

        Raises:
            DataError: The format has no room for such data.
        """
        for shape in ROUTES[data.shape]:
            if shape in form.writers and not (shape == "lists" and _lacks_order(data, form)):
                return cls(form, shape, data)
        wants = " or ".join(sorted(form.writers))
        if "lists" in form.writers and "lists" in ROUTES[data.shape]:
            wants += f" with {' or '.join(sorted(form.holds & ORDERS))}"
        raise DataError(
            f"--to {form.name}: this format holds {wants}, and the data are {data.shape}. Choose another format, such "
            "as --to tiltlm, which holds everything",
            code="wrong_data_shape",
            key="--to",
        )

    def write(self, record: Record, losses: Losses) -> list[Values]:
        """Return the rows of a record in the columns of the format: usually one, none if it has no place.

        Args:
            record: A row of the data.
            losses: What is lost is counted here.

        Raises:
            Defect: The format cannot hold such a row.
        """
        formed = in_form(record, self.form, losses)
        if formed is None:
            return []
        about = _about(formed, self, losses)
        rows = []
        for values in _SHAPED[self.data.shape, self.shape](formed, self.form, losses):
            if formed.form == "tokens":
                values = _with_ids(values)
            elif "text" in self.data.roles and self.form.form == "any":
                values = {"text": values["completion"]}
            row = self.form.writers[self.shape]({**values, **about})
            rows += _split(row) if self.form.rows_per_list else [row]
        return rows


def _split(row: Values) -> list[Values]:
    """Return a row for each response of a list."""
    lists = {column: value for column, value in row.items() if isinstance(value, list)}
    return [{**row, **dict(zip(lists, values, strict=True))} for values in zip(*lists.values(), strict=True)]


def _lacks_order(data: ColumnRoles, form: Format) -> bool:
    """Return whether a format of lists needs an order that the data do not have."""
    if data.shape == "pairs":
        has_scores = {"score_chosen", "score_rejected"} <= data.roles
        return not ("ranks" in form.holds or ("scores" in form.holds and has_scores))
    if "comparisons" in data.roles:
        return "comparisons" not in form.holds
    return not ("ranks" in form.holds or ("scores" in form.holds and "scores" in data.roles))


def _about(record: Record, target: Target, losses: Losses) -> Values:
    """Return what is known about the row itself, as far as the format has room for it."""
    given = {
        "id": record.id if "id" in target.data.roles else None,
        "source": record.source or None,
        "weight": record.weight if record.weight != 1 else None,
        "system": record.system or None,
        "tools": list(record.tools) or None,
        "chat_template_kwargs": dict(record.template_kwargs) or None,
    }
    return _held({role: value for role, value in given.items() if value is not None}, record, target.form, losses)


def _held(values: Values, record: Record, form: Format, losses: Losses) -> Values:
    """Return the values that the format has room for, and count the others as lost."""
    for role in values:
        if role not in form.holds:
            count_loss(losses, role, record.location)
    return {role: value for role, value in values.items() if role in form.holds}


def _plain(content: Content) -> Any:
    return [dict(turn) for turn in content] if isinstance(content, tuple) else content


def _with_ids(values: Values) -> Values:
    """Return values whose prompt and responses are token ids under the names of their columns."""
    written: Values = {}
    for role, value in values.items():
        contents = value if role == "completions" else [value]
        if not (isinstance(contents, list) and contents and isinstance(contents[0], TokenContent)):
            written[role] = value
            continue
        ids, flags = [list(content.ids) for content in contents], [content.ended for content in contents]
        written[f"{role}_ids"] = ids if role == "completions" else ids[0]
        if role in ENDED and None not in flags:
            written[ENDED[role]] = flags if role == "completions" else flags[0]
    return written


def _scores(record: Record, form: Format, losses: Losses) -> Values:
    """Return the scores of a pair."""
    if not record.scores:
        return {}
    names = ("score_chosen", "score_rejected")
    if form.holds >= {*names}:
        return dict(zip(names, record.scores, strict=True))
    count_loss(losses, "scores", record.location)
    return {}


def _pair(record: Record, form: Format, losses: Losses) -> list[Values]:
    (comparison,) = record.comparisons
    order, preference = (0, 1), comparison.preference
    kept: Values = {}
    if (preference != 1 and "preference" in form.holds) or (preference == 0.5 and "tie" in form.holds):
        kept["preference"] = preference
    elif preference == 0.5:
        count_loss(losses, "ties", record.location)
        return []
    elif preference < 1:
        order = (0, 1) if preference > 0.5 else (1, 0)
        if preference > 0:
            count_loss(losses, "soft_labels", record.location, f"preference {preference:g}")
    scores = list(_scores(record, form, losses).values())
    values = {"prompt": _plain(record.prompt)}
    values |= {role: _plain(record.responses[k]) for role, k in zip(("chosen", "rejected"), order, strict=True)}
    if scores:
        kept |= {role: scores[k] for role, k in zip(("score_chosen", "score_rejected"), order, strict=True)}
    other: Values = {"offset": comparison.offset} if comparison.offset else {}
    refs = dict(zip(("ref_chosen_logps", "ref_rejected_logps"), record.ref_logps, strict=False))
    if refs and "ref_chosen_logps" not in form.holds:
        count_loss(losses, "ref_logps", record.location)
        refs = {}
    return [{**values, **kept, **_held(other, record, form, losses), **refs}]


def _pair_as_list(record: Record, form: Format, losses: Losses) -> list[Values]:
    (comparison,) = record.comparisons
    preference = comparison.preference
    if preference not in (0, 0.5, 1):
        count_loss(losses, "soft_labels", record.location, f"preference {preference:g}")
    sign = (preference > 0.5) - (preference < 0.5)
    order: Values = {"ranks": {1: [1, 2], 0: [1, 1], -1: [2, 1]}[sign]}
    if "ranks" not in form.holds:
        if not record.scores:
            count_loss(losses, "no_scores", record.location)
            return []
        chosen, rejected = record.scores
        if (chosen > rejected) - (chosen < rejected) != sign:
            count_loss(losses, "score_order", record.location, f"scores {chosen:g} and {rejected:g}")
            return []
        order = {"scores": [chosen, rejected]}
    elif record.scores:
        count_loss(losses, "scores", record.location)
    _count_extras(record, comparison, losses)
    return [{"prompt": _plain(record.prompt), "completions": [_plain(r) for r in record.responses], **order}]


def _count_extras(record: Record, comparison: Comparison, losses: Losses) -> None:
    """Count what only a pair can have."""
    if comparison.offset:
        count_loss(losses, "offset", record.location)
    if record.ref_logps:
        count_loss(losses, "ref_logps", record.location)


def _pair_as_labels(record: Record, form: Format, losses: Losses) -> list[Values]:
    pair = _pair(record, replace(form, holds=form.holds - PAIR_ONLY), losses)
    for _ in pair:
        count_loss(losses, "pairing", record.location)
    return [
        {"prompt": values["prompt"], "completion": values[role], "label": role == "chosen"}
        for values in pair
        for role in ("chosen", "rejected")
    ]


def _pair_as_answer(record: Record, form: Format, losses: Losses) -> list[Values]:
    pair = _pair(record, replace(form, holds=form.holds - PAIR_ONLY), losses)
    for _ in pair:
        count_loss(losses, "rejected", record.location)
    return [{"prompt": values["prompt"], "completion": values["chosen"]} for values in pair]


def _list(record: Record, form: Format, losses: Losses) -> list[Values]:
    values: Values = {"prompt": _plain(record.prompt), "completions": [_plain(r) for r in record.responses]}
    if record.scores and "scores" in form.holds:
        values["scores"] = list(record.scores)
    elif record.scores:
        count_loss(losses, "scores", record.location)
        values["ranks"] = [1 + sum(other > own for other in record.scores) for own in record.scores]
    elif record.ranks:
        values["ranks"] = [rank - min(record.ranks) + 1 for rank in record.ranks]
    else:
        values["comparisons"] = [_as_triple(comparison) for comparison in record.comparisons]
    if record.ref_logps and "ref_logps" in form.holds:
        values["ref_logps"] = list(record.ref_logps)
    elif record.ref_logps:
        count_loss(losses, "ref_logps", record.location)
    return [values]


def _as_triple(comparison: Comparison) -> list[float]:
    pair: list[float] = [comparison.chosen, comparison.rejected]
    return pair if comparison.weight == 1 else [*pair, comparison.weight]


def _list_as_pairs(record: Record, form: Format, losses: Losses) -> list[Values]:
    num = len(record.responses)
    if num > 2:
        count_loss(losses, "lists", record.location, f"{num} responses")
    if "tie" in record.changes or not record.comparisons:
        count_loss(losses, "ties", record.location)
    if any(comparison.weight != 1 for comparison in record.comparisons):
        count_loss(losses, "comparison_weights", record.location)
    if record.ref_logps:
        count_loss(losses, "ref_logps", record.location)
    has_room = form.holds >= {"score_chosen", "score_rejected"}
    if record.scores and not has_room:
        count_loss(losses, "scores", record.location)
    written = []
    for c in record.comparisons:
        pair: Values = {"prompt": _plain(record.prompt)}
        pair |= {"chosen": _plain(record.responses[c.chosen]), "rejected": _plain(record.responses[c.rejected])}
        if record.scores and has_room:
            pair |= {"score_chosen": record.scores[c.chosen], "score_rejected": record.scores[c.rejected]}
        written.append(pair)
    return written


def _list_as_answer(record: Record, _form: Format, losses: Losses) -> list[Values]:
    if not record.comparisons:
        count_loss(losses, "ties", record.location)
        return []
    count_loss(losses, "rejected", record.location)
    best = record.responses[best_response(record)]
    return [{"prompt": _plain(record.prompt), "completion": _plain(best)}]


def _label(record: Record, form: Format, losses: Losses) -> list[Values]:
    refs = {"ref_logps": record.ref_logps[0]} if record.ref_logps else {}
    held = _held(refs, record, form, losses)
    (response,), (label,) = record.responses, record.labels
    return [{"prompt": _plain(record.prompt), "completion": _plain(response), "label": label, **held}]


def _label_as_answer(record: Record, form: Format, losses: Losses) -> list[Values]:
    count_loss(losses, "labels", record.location)
    return _answer(record, form, losses) if record.labels[0] else []


def _answer(record: Record, _form: Format, _losses: Losses) -> list[Values]:
    return [{"prompt": _plain(record.prompt), "completion": _plain(record.responses[0])}]


_SHAPED: Mapping[tuple[Shape, Shape], Callable[[Record, Format, Losses], list[Values]]] = {
    ("pairs", "pairs"): _pair,
    ("pairs", "lists"): _pair_as_list,
    ("pairs", "unpaired"): _pair_as_labels,
    ("pairs", "demonstrations"): _pair_as_answer,
    ("lists", "lists"): _list,
    ("lists", "pairs"): _list_as_pairs,
    ("lists", "demonstrations"): _list_as_answer,
    ("unpaired", "unpaired"): _label,
    ("unpaired", "demonstrations"): _label_as_answer,
    ("demonstrations", "demonstrations"): _answer,
}
"""Shape of the data and shape to write → the function that makes the values of the rows."""
