"""The page on which disputed pairs are decided, one at a time."""

import re
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from tiltlm.labeling.monitor.disputes import Filter, Opinion, list_pairs, opinions
from tiltlm.labeling.queue.ballots import MAX_NOTE, adjudicate, find_event
from tiltlm.labeling.queue.chance import left_side, other
from tiltlm.labeling.queue.contents import as_turns
from tiltlm.labeling.store.audit import write_audit
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import ShownPair, read_pair
from tiltlm.labeling.store.people import Person, list_people, pseudonym
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.web.admin.overview import MAX_PAGE, pair_key
from tiltlm.labeling.web.admin.requests import Adjudicator, Form, ProjectOf, field, go, show
from tiltlm.labeling.web.rendering import MAX_MARKDOWN, plain_html, to_html
from tiltlm.labeling.web.security import Denied

router = APIRouter(prefix="/adjudicate", include_in_schema=False)

WORDS = {"tie": "tie", "both_bad": "both bad", "skip": "skipped"}
MAX_KEY = 64
NUMBER = re.compile("[0-9]{1,9}")


@router.get("")
def disputed(
    request: Request,
    who: Adjudicator,
    project: ProjectOf,
    after: Annotated[int, Query(ge=0, le=MAX_PAGE)] = 0,
    done: int | None = None,
) -> Response:
    """Return the most disputed pair that nobody decided; `after` passes over as many."""
    with reading(project.engine) as connection:
        found, total = list_pairs(connection, Filter(open_only=True), offset=after, limit=1)
        if not found:
            return show(request, "adjudicate.html", who, total=total, after=after, done=done, pair=None)
        values = _values(project, who, read_pair(connection, found[0].id), opinions(connection, found[0].id))
        names = {one.name: pseudonym(project.secret, one.id) for one in list_people(connection)}
    return show(request, "adjudicate.html", who, total=total, after=after, done=done, names=names, **values)


@router.get("/{pair_id}")
def one(request: Request, who: Adjudicator, project: ProjectOf, pair_id: int) -> Response:
    """Return the page of one pair, decided or not."""
    with reading(project.engine) as connection:
        pair_key(connection, pair_id, ("task",))
        values = _values(project, who, read_pair(connection, pair_id), opinions(connection, pair_id))
        names = {person.name: pseudonym(project.secret, person.id) for person in list_people(connection)}
    return show(request, "adjudicate.html", who, total=None, after=0, done=None, names=names, **values)


def _values(project: Project, who: Person, pair: ShownPair, said: list[Opinion]) -> dict[str, Any]:
    """Return what the page shows: left and right as for a vote, and what others said."""
    left = left_side(project.secret, pair.id, who.id)
    words: dict[str, str] = {
        left: "left",
        other(left): "right",
        "tie": "tie",
        "both_bad": "both bad",
        "skip": "skipped",
    }
    texts = {"left": pair.a if left == "a" else pair.b, "right": pair.b if left == "a" else pair.a}
    return {
        "pair": pair,
        "key": secrets.token_hex(16),
        "said": [(opinion, words[opinion.choice]) for opinion in said],
        "prompt": _rendered(pair.prompt, "user"),
        "system": pair.system,
        "answers": {side: _rendered(text, "assistant") for side, text in texts.items()},
        "max_note": MAX_NOTE,
    }


def _rendered(content: Any, role: str) -> list[tuple[str, str]]:
    """Return the turns of a text as role and safe HTML."""
    turns = as_turns(content, role)
    render = to_html if sum(len(text) for _, text in turns) <= MAX_MARKDOWN else plain_html
    return [(name, render(text)) for name, text in turns]


@router.post("")
def decide(who: Adjudicator, project: ProjectOf, form: Form) -> Response:
    """Decide a pair."""
    side, key, number = (field(form, name) for name in ("choice", "key", "pair"))
    if side not in ("left", "right", "tie") or not 8 <= len(key) <= MAX_KEY or not NUMBER.fullmatch(number):
        raise Denied(400, "bad_form", "the form names no choice, no key or no pair")
    pair_id = int(number)
    with writing(project.engine) as connection:
        name = pair_key(connection, pair_id, ("task",))
        left = left_side(project.secret, pair_id, who.id)
        choice = "tie" if side == "tie" else left if side == "left" else other(left)
        is_new = find_event(connection, who, key) is None
        adjudicate(connection, who, pair_id, choice, key=key, note=form.get("note", "").strip())
        if is_new:
            write_audit(connection, who.name, "adjudicate", pair=name, choice=choice)
    after = form.get("after", "0")
    return go(f"/adjudicate?done={pair_id}" + (f"&after={after}" if NUMBER.fullmatch(after) and after != "0" else ""))
