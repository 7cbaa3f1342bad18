"""Pairs whose votes disagree, and what was decided about them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, or_, select

from tiltlm.labeling.monitor.facts import num_chars
from tiltlm.labeling.store.tables import assignment, event, pair, person, prompt, response

SORTS = ("dispute", "votes", "length", "key")
PAGE = 25


@dataclass(frozen=True)
class Listed:
    """A pair in a list."""

    id: int
    key: str
    kind: str
    prompt: str
    """Its beginning."""
    source: str
    models: tuple[str, str]
    counts: tuple[int, int, int]
    """Votes for a, for b, for neither."""
    wanted: int
    dispute: float
    length_gap: int
    """Characters of a less those of b."""
    decided: str | None
    """The newest adjudication."""
    num_notes: int


@dataclass(frozen=True)
class Filter:
    """Which pairs are listed, and in which order."""

    sort: str = "dispute"
    """`dispute`: most disputed first; `votes`: fewest first; `length`: largest difference first; `key`: by id."""
    kind: str = "task"
    source: str = ""
    model: str = ""
    """Pairs with a response of this model."""
    text: str = ""
    """Part of the id of a pair."""
    open_only: bool = False
    """Only disputed pairs that nobody decided."""
    id: int | None = None
    """Only this pair."""


@dataclass(frozen=True)
class Opinion:
    """What somebody said about a pair."""

    name: str
    choice: str
    strength: int | None
    reason: str
    note: str
    is_repeat: bool
    server_time: float
    is_decision: bool
    """True for an adjudication."""


def _decision() -> Any:
    """Return the newest adjudication of each pair as a subquery."""
    newest = select(func.max(event.c.id)).where(event.c.kind == "adjudicate").group_by(event.c.pair_id)
    return select(event.c.pair_id, event.c.choice).where(event.c.id.in_(newest)).subquery()


def list_pairs(
    connection: Connection, wanted: Filter, *, offset: int = 0, limit: int = PAGE
) -> tuple[list[Listed], int]:
    """Return pairs of a list, and how many it has in all."""
    first, second, decision = response.alias(), response.alias(), _decision()
    gap = num_chars(first.c.content) - num_chars(second.c.content)
    notes = (
        select(func.count())
        .select_from(assignment)
        .join(event, event.c.id == assignment.c.event_id)
        .where(assignment.c.pair_id == pair.c.id, event.c.note != "")
        .scalar_subquery()
    )
    query = (
        select(
            *(pair.c.id, pair.c.key, pair.c.kind, pair.c.source, pair.c.wanted, pair.c.dispute),
            *(pair.c.votes_a, pair.c.votes_b, pair.c.votes_tie, prompt.c.content),
            *(
                first.c.model,
                second.c.model.label("model_b"),
                gap.label("gap"),
                notes.label("notes"),
                decision.c.choice,
            ),
        )
        .join(prompt, prompt.c.id == pair.c.prompt_id)
        .join(first, first.c.id == pair.c.a_id)
        .join(second, second.c.id == pair.c.b_id)
        .outerjoin(decision, decision.c.pair_id == pair.c.id)
        .where(*_conditions(wanted, first, second, decision))
    )
    total = connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()
    num_votes = pair.c.votes_a + pair.c.votes_b + pair.c.votes_tie
    order = {
        "dispute": (pair.c.dispute.desc(), num_votes.desc()),
        "votes": (num_votes,),
        "length": (func.abs(gap).desc(),),
        "key": (),
    }[wanted.sort]
    rows = connection.execute(query.order_by(*order, pair.c.key).offset(offset).limit(limit))
    return [_listed(row) for row in rows], int(total)


def _conditions(wanted: Filter, first: Any, second: Any, decision: Any) -> Sequence[Any]:
    conditions: list[Any] = []
    if wanted.kind:
        conditions.append(pair.c.kind == wanted.kind)
    if wanted.source:
        conditions.append(pair.c.source == wanted.source)
    if wanted.model:
        conditions.append(or_(first.c.model == wanted.model, second.c.model == wanted.model))
    if wanted.text:
        conditions.append(pair.c.key.contains(wanted.text, autoescape=True))
    if wanted.id is not None:
        conditions.append(pair.c.id == wanted.id)
    if wanted.open_only:
        conditions += [pair.c.dispute > 0, decision.c.choice.is_(None)]
    return conditions


def _listed(row: Any) -> Listed:
    return Listed(
        id=row.id,
        key=row.key,
        kind=row.kind,
        prompt=beginning(json.loads(row.content)),
        source=row.source,
        models=(row.model, row.model_b),
        counts=(row.votes_a, row.votes_b, row.votes_tie),
        wanted=row.wanted or 0,
        dispute=row.dispute,
        length_gap=round(row.gap),
        decided=row.choice,
        num_notes=row.notes,
    )


def beginning(content: Any, limit: int = 120) -> str:
    """Return the beginning of a prompt in one line; of a conversation that of its last turn."""
    text = content if isinstance(content, str) else str(content[-1].get("content", "")) if content else ""
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def sources_and_models(connection: Connection) -> tuple[list[str], list[str]]:
    """Return the names of sources and of models that a list can be narrowed to."""
    sources = connection.execute(select(pair.c.source).distinct().order_by(pair.c.source)).scalars()
    models = connection.execute(select(response.c.model).distinct().order_by(response.c.model)).scalars()
    return [one for one in sources if one], [one for one in models if one]


def opinions(connection: Connection, pair_id: int) -> list[Opinion]:
    """Return what was said about a pair: votes that count, then adjudications, each in the order of time."""
    counts = select(assignment.c.event_id).where(assignment.c.pair_id == pair_id, assignment.c.event_id.is_not(None))
    query = (
        select(event, person.c.name)
        .join(person, person.c.id == event.c.person_id)
        .where(event.c.pair_id == pair_id, or_(event.c.id.in_(counts), event.c.kind == "adjudicate"))
        .order_by(event.c.id)
    )
    found = [
        Opinion(
            name=row.name,
            choice=row.choice,
            strength=row.strength,
            reason=row.reason,
            note=row.note,
            is_repeat=row.is_repeat,
            server_time=row.server_time,
            is_decision=row.kind == "adjudicate",
        )
        for row in connection.execute(query)
    ]
    return sorted(found, key=lambda one: one.is_decision)
