"""The pages of whoever runs a project: numbers, people, pairs, guidelines, the record of what was done."""

import json
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from sqlalchemy import Connection, func, select
from starlette.responses import Response, StreamingResponse

from tiltlm.core.errors import DataError
from tiltlm.data.files.writing import to_line
from tiltlm.data.labels import LabelSettings
from tiltlm.labeling.exports import Selected, select_rows
from tiltlm.labeling.monitor.disputes import (
    PAGE,
    SORTS,
    Filter,
    list_pairs,
    opinions,
    sources_and_models,
)
from tiltlm.labeling.queue.contents import as_turns
from tiltlm.labeling.store.audit import write_audit
from tiltlm.labeling.store.database import reading, storable, writing
from tiltlm.labeling.store.pairs import read_pair
from tiltlm.labeling.store.people import add_person, find_person, list_people, new_token, revoke
from tiltlm.labeling.store.projects import add_guidelines, read_guidelines
from tiltlm.labeling.store.tables import audit, guideline, pair
from tiltlm.labeling.web.admin.numbers import Numbers
from tiltlm.labeling.web.admin.requests import Admin, Form, ProjectOf, field, go, show
from tiltlm.labeling.web.rendering import to_html
from tiltlm.labeling.web.security import Denied

MAX_GUIDELINES = 200_000
AUDIT_PAGE = 100
MAX_PAGE = 10**6
MAX_ID = 2**31
Page = Annotated[int, Query(ge=1, le=MAX_PAGE)]

router = APIRouter(prefix="/admin", include_in_schema=False)


@router.get("")
def overview(request: Request, who: Admin, project: ProjectOf, done: str = "") -> Response:
    """Return the page of numbers."""
    return _overview(request, who, project, done=done)


def _overview(request: Request, who: Admin, project: ProjectOf, *, done: str = "", link: str = "") -> Response:
    numbers: Numbers = request.app.state.numbers
    with reading(project.engine) as connection:
        disputed, num_disputed = list_pairs(connection, Filter(open_only=True), limit=10)
        people = list_people(connection)
    values = {"status": numbers.read(), "disputed": disputed, "num_disputed": num_disputed, "people": people}
    return show(request, "admin.html", who, **values, done=done, link=link)


@router.post("/people")
def invite(request: Request, who: Admin, project: ProjectOf, form: Form) -> Response:
    """Make the private link of a person, and show it once."""
    with writing(project.engine) as connection:
        name = field(form, "name").strip()
        known = find_person(connection, name)
        if known is not None and known.id == who.id:
            raise Denied(400, "own_link", "a new link for yourself would sign you out; use `tiltlm label invite`")
        role = form.get("role") or (known.role if known else "annotator")
        if known is not None and known.role != role:
            raise Denied(400, "other_role", f"{name} is {known.role} already; choose another name")
        person = add_person(connection, name, role)
        token = new_token(connection, person)
        write_audit(connection, who.name, "invite", name=person.name, role=person.role)
    scheme = "https" if request.app.state.secure else "http"
    return _overview(request, who, project, done=person.name, link=f"{scheme}://{request.headers['host']}/join#{token}")


@router.post("/people/revoke")
def end_link(who: Admin, project: ProjectOf, form: Form) -> Response:
    """End the link and the sessions of a person."""
    with writing(project.engine) as connection:
        name = field(form, "name")
        if name == who.name:
            raise Denied(400, "own_link", "this would sign you out; use `tiltlm label invite NAME --revoke`")
        revoke(connection, name)
        write_audit(connection, who.name, "revoke", name=name)
    return go("/admin?done=revoked#people")


@router.get("/pairs")
def browse(
    request: Request,
    who: Admin,
    project: ProjectOf,
    sort: str = SORTS[0],
    kind: str = "task",
    source: str = "",
    model: str = "",
    text: str = "",
    open_only: bool = False,
    page: Page = 1,
) -> Response:
    """Return the list of pairs, sorted and narrowed."""
    wanted = Filter(
        sort=sort if sort in SORTS else SORTS[0],
        kind=storable(kind),
        source=storable(source),
        model=storable(model),
        text=storable(text.strip()),
        open_only=open_only,
    )
    with reading(project.engine) as connection:
        pairs, total = list_pairs(connection, wanted, offset=(page - 1) * PAGE)
        sources, models = sources_and_models(connection)
    given = {name: value for name, value in vars(wanted).items() if value} | {"kind": wanted.kind}
    values = {"pairs": pairs, "total": total, "wanted": wanted, "sources": sources, "models": models, "page": page}
    return show(
        request,
        "admin_pairs.html",
        who,
        **values,
        sorts=SORTS,
        per_page=PAGE,
        address=f"/admin/pairs?{urlencode(given)}",
    )


@router.get("/pairs/{pair_id}")
def one_pair(request: Request, who: Admin, project: ProjectOf, pair_id: int) -> Response:
    """Return the page of one pair: its texts, who wrote them, and all that was said about it."""
    with reading(project.engine) as connection:
        key = pair_key(connection, pair_id)
        (listed,), _ = list_pairs(connection, Filter(kind="", id=pair_id))
        contents = read_pair(connection, pair_id)
        said = opinions(connection, pair_id)
    texts = {
        "system": contents.system,
        "prompt": as_turns(contents.prompt, "user"),
        "answers": [as_turns(contents.a, "assistant"), as_turns(contents.b, "assistant")],
    }
    return show(request, "admin_pair.html", who, key=key, pair=listed, said=said, **texts)


@router.post("/export")
def export(who: Admin, project: ProjectOf, form: Form) -> Response:
    """Return labels or votes as JSON Lines, the same bytes as `tiltlm label export` writes."""
    is_votes = form.get("what") == "votes"
    least = form.get("min_votes", "1")
    if not (least.isascii() and least.isdigit() and len(least) < 4):
        raise Denied(400, "bad_form", "the least number of votes must be a whole number below 1,000")
    rule = LabelSettings(rule=form.get("rule", "soft"), ties=form.get("ties", "keep"), min_votes=int(least))
    selected = Selected(rule=LabelSettings() if is_votes else rule, pseudonyms="pseudonyms" in form, votes=is_votes)
    with reading(project.engine) as connection:
        rows, account = select_rows(connection, project, selected)
    name = "votes.jsonl" if is_votes else "labels.jsonl"
    with writing(project.engine) as connection:
        write_audit(connection, who.name, "export", file=name, rows=len(rows), votes=account["votes"])
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(map(to_line, rows), media_type="application/jsonl", headers=headers)


def pair_key(connection: Connection, pair_id: int, kinds: Sequence[str] = ("task", "gold", "calibration")) -> str:
    """Return the key of a pair.

    Raises:
        Denied: 404 `not_found`: there is none of these kinds.
    """
    wanted = select(pair.c.key).where(pair.c.id == pair_id, pair.c.kind.in_(kinds))
    key = connection.execute(wanted).scalar() if abs(pair_id) < MAX_ID else None
    if key is None:
        raise Denied(404, "not_found", f"there is no such pair: {pair_id}")
    return str(key)


@router.get("/guidelines")
def show_guidelines(request: Request, who: Admin, project: ProjectOf, done: str = "") -> Response:
    """Return the page of the guidelines: the newest version, and the editor."""
    with reading(project.engine) as connection:
        version, text = read_guidelines(connection)
        versions = connection.execute(select(guideline).order_by(guideline.c.version.desc())).all()
    numbers: Numbers = request.app.state.numbers
    values = {"version": version, "text": text, "html": to_html(text), "versions": versions, "done": done}
    return show(request, "admin_guidelines.html", who, **values, used=numbers.read().by_guidelines)


@router.post("/guidelines")
def write_guidelines(who: Admin, project: ProjectOf, form: Form) -> Response:
    """Add a version of the guidelines. Annotators see it before their next vote."""
    text = field(form, "text").replace("\r\n", "\n")
    if not text.strip() or len(text) > MAX_GUIDELINES:
        raise DataError(
            f"the guidelines have {len(text):,} characters; write from 1 to {MAX_GUIDELINES:,}",
            code="not_in_range",
            key="text",
        )
    with writing(project.engine) as connection:
        before, _ = read_guidelines(connection)
        version = add_guidelines(connection, text)
        if version != before:
            write_audit(connection, who.name, "guidelines", version=version)
    return go(f"/admin/guidelines?done={version if version != before else 'same'}")


@router.get("/audit")
def show_audit(request: Request, who: Admin, project: ProjectOf, page: Page = 1) -> Response:
    """Return the record of what was done, the newest first."""
    with reading(project.engine) as connection:
        total = connection.execute(select(func.count()).select_from(audit)).scalar_one()
        wanted = select(audit).order_by(audit.c.id.desc()).offset((page - 1) * AUDIT_PAGE).limit(AUDIT_PAGE)
        lines = [{**row._mapping, "detail": json.loads(row.detail)} for row in connection.execute(wanted)]
    return show(request, "admin_audit.html", who, lines=lines, total=total, page=page, per_page=AUDIT_PAGE)
