"""The interface between browser and server."""

import logging
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from tiltlm.labeling.queue.assignments import find_assignment
from tiltlm.labeling.queue.ballots import Ballot, Counted, undo, vote
from tiltlm.labeling.queue.contents import raw_text, read_contents
from tiltlm.labeling.queue.work import Work, read_undone, side_of, take_work
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.people import Person, sign_in, sign_out
from tiltlm.labeling.store.projects import Project, read_guidelines
from tiltlm.labeling.web import messages
from tiltlm.labeling.web.answers import Ascii, problems
from tiltlm.labeling.web.guard import REPORTS as REPORTS_PATH
from tiltlm.labeling.web.items import to_item
from tiltlm.labeling.web.rendering import to_html
from tiltlm.labeling.web.security import (
    COOKIE,
    REPORTS,
    WRONG_TOKENS,
    Denied,
    client_address,
    drop_cookie,
    limiter_of,
    project_of,
    require,
    set_cookie,
    signed_in,
)
from tiltlm.labeling.words import word_diff

router = APIRouter(prefix="/api")
log = logging.getLogger(__name__)

ProjectOf = Annotated[Project, Depends(project_of)]
AnyPerson = Annotated[Person, Depends(signed_in)]
Annotator = Annotated[Person, Depends(require("annotator"))]

MAX_REPORT = 2000


@router.post("/session", response_model=messages.SignedIn, responses=problems(401, 413, 422, 507))
def start_session(body: messages.SignIn, request: Request, project: ProjectOf) -> Ascii:
    """Exchange the token of a private link for a session."""
    limiter, address = limiter_of(request), client_address(request)
    if limiter.is_over(WRONG_TOKENS, "token", address):
        raise Denied(429, "too_many", "too many wrong links from this address; wait a minute")
    with writing(project.engine) as connection:
        found = sign_in(connection, body.token)
    if found is None:
        limiter.count(WRONG_TOKENS, "token", address)
        raise Denied(401, "bad_token", "this link is unknown, or has ended; ask for a new one")
    person, cookie = found
    response = Ascii({"name": person.name, "role": person.role})
    set_cookie(response, cookie, secure=request.app.state.secure)
    return response


@router.delete("/session", response_model=messages.Empty, responses=problems(401, 413, 422, 507))
def end_session(request: Request, who: AnyPerson, project: ProjectOf) -> Ascii:
    """End the session."""
    del who  # must be signed in
    with writing(project.engine) as connection:
        sign_out(connection, request.cookies[COOKIE])
    response = Ascii({})
    drop_cookie(response, secure=request.app.state.secure)
    return response


@router.get("/me", response_model=messages.Me, responses=problems(401))
def me(request: Request, who: AnyPerson, project: ProjectOf) -> Ascii:
    """Return what the page needs to know once."""
    with reading(project.engine) as connection:
        version, text = read_guidelines(connection)
    settings = project.settings
    return Ascii(
        {
            "name": who.name,
            "role": who.role,
            "title": settings.title,
            "ties": settings.ties,
            "strength": settings.strength,
            "skip_reasons": list(settings.skip_reasons),
            "guidelines": {"version": version, "html": to_html(text)},
            "ui_version": request.app.state.ui_version,
        }
    )


@router.post("/work", response_model=messages.Work, responses=problems(401, 413, 422, 507))
def work(body: messages.Nothing, who: Annotator, project: ProjectOf) -> Ascii:
    """Take pairs to work on."""
    del body
    with writing(project.engine) as connection:
        found = take_work(connection, project, who)
    return Ascii(_shown(found))


@router.post("/votes", response_model=messages.Voted, responses=problems(401, 409, 413, 422, 507))
def cast_vote(body: messages.Vote, request: Request, who: Annotator, project: ProjectOf) -> Ascii:
    """Count a vote, and return what to work on next. The same request again changes nothing."""
    settings = project.settings
    if body.choice in ("tie", "both_bad") and not settings.ties:
        raise Denied(409, "not_offered", "this project offers no tie; choose a side, or skip")
    ballot = Ballot(
        ticket=body.ticket,
        key=body.key,
        choice=body.choice,
        strength=body.strength if settings.strength else None,
        reason=body.reason,
        note=body.note,
        dwell_ms=body.dwell_ms,
        client_time=body.client_time,
        ui_version=request.app.state.ui_version,
        guideline_version=body.guideline_version,
    )
    with writing(project.engine) as connection:
        counted = vote(connection, project, who, ballot)
        found = take_work(connection, project, who)
    return Ascii({"feedback": _feedback(counted), **_shown(found)})


@router.post("/undo", response_model=messages.UndoneWork, responses=problems(401, 409, 413, 422, 507))
def take_back(body: messages.Undo, who: Annotator, project: ProjectOf) -> Ascii:
    """Take back the newest vote. The same request again changes nothing."""
    with writing(project.engine) as connection:
        given = undo(connection, project, who, body.key)
        undone = read_undone(connection, who, body.key, given)
        found = take_work(connection, project, who, first=given)
    return Ascii({**_shown(found), "undone": asdict(undone)})


@router.get("/items/{ticket}/diff", response_model=messages.Diff, responses=problems(401, 404, 413, 422))
def diff(ticket: str, who: Annotator, project: ProjectOf) -> Ascii:
    """Compare the two responses of a pair that was given to this person, word by word."""
    with reading(project.engine) as connection:
        given = find_assignment(connection, project, who, ticket)
        if given is None:
            raise Denied(404, "not_found", "there is no such pair among yours")
        (contents,) = read_contents(connection, [given])
    left, right = word_diff(raw_text(contents.left), raw_text(contents.right))
    return Ascii({"left": [asdict(part) for part in left], "right": [asdict(part) for part in right]})


@router.post(REPORTS_PATH.removeprefix("/api"), include_in_schema=False)
async def csp_report(request: Request) -> Ascii:
    """Note what the content policy stopped in a browser."""
    if limiter_of(request).count(REPORTS, "csp"):
        text = (await request.body())[:MAX_REPORT].decode("utf-8", "replace")
        request.app.state.csp_reports.append(text)
        log.warning("the content policy stopped something: %r", text, extra={"event": "csp_report"})
    return Ascii({})


def _shown(work: Work) -> dict[str, Any]:
    """Return work as the browser gets it. Reading Markdown takes the longest, so no transaction waits for it."""
    return {"items": [to_item(one) for one in work.items], "progress": asdict(work.progress)}


def _feedback(counted: Counted) -> dict[str, Any] | None:
    if counted.answer is None:
        return None
    answer = side_of(counted.answer, counted.assignment.left)
    return {"is_right": counted.is_right, "answer": answer, "html": to_html(counted.explanation)}
