"""The labelling page as a person uses it, and what the database has afterwards."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Page, expect
from sqlalchemy import select
from starlette.types import ASGIApp

from support.browsers import OTHER_HOST, Watched
from support.labelling import invite
from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import assignment, event, pair, person
from tiltlm.labeling.web.app import create_app
from tiltlm.labeling.web.serving import running

READY = '#main[data-state="pair ready"]'
SAVED = '#main[data-unsaved="0"]'


@dataclass(frozen=True)
class Site:
    """A project that is served."""

    project: Project
    app: Any
    address: str

    def link(self, name: str, role: str = "annotator") -> str:
        """Return a new private link."""
        return f"{self.address}/join#{invite(self.project, name, role)}"

    def open(self, window: Watched, name: str = "Ada", *, is_first_visit: bool = False) -> "LabelPage":
        """Open a new private link in a new tab; the guidelines are closed unless `is_first_visit`."""
        page = window.new_page()
        page.goto(self.link(name))
        opened = LabelPage(page)
        if not is_first_visit:
            opened.close_guidelines()
        return opened


@contextmanager
def served(project: Project, around: Any = lambda app: app) -> Iterator[Site]:
    """Serve a project; the content policy must have stopped nothing at the end.

    Args:
        project: The project.
        around: Wraps the app, to cause faults.
    """
    app = create_app(project, hosts=["127.0.0.1", OTHER_HOST])
    with running(around(app)) as address:
        yield Site(project, app, address)
    assert list(app.state.csp_reports) == []


class Faults:
    """An app that answers some requests itself: `faults.answer = {"/api/votes": 503}`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.answer: dict[str, int] = {}
        self.lost: set[str] = set()
        """Paths whose answers are lost: the app has done its part, and the browser gets a 502."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path in self.answer:
            await respond(send, self.answer[path])
            return
        if scope["type"] == "http" and path in self.lost:

            async def drop(message: Any) -> None:
                del message

            await self.app(scope, receive, drop)
            await respond(send, 502)
            return
        await self.app(scope, receive, send)


async def respond(send: Any, status: int) -> None:
    """Send an answer without a body of the app's."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"<h1>a proxy's page</h1>"})


@dataclass(frozen=True)
class LabelPage:
    """A tab with the labelling page."""

    page: Page

    def close_guidelines(self) -> None:
        """Close the guidelines, which are shown on the first visit."""
        expect(self.page.get_by_role("dialog", name="Guidelines")).to_be_visible()
        self.page.keyboard.press("Escape")
        self.ready()

    def ready(self) -> "LabelPage":
        """Wait until a pair is there, and a vote on it counts."""
        self.page.wait_for_selector(READY)
        return self

    def saved(self) -> "LabelPage":
        """Wait until the server has all votes."""
        self.page.wait_for_selector(SAVED, state="attached")
        return self

    def press(self, *keys: str) -> "LabelPage":
        """Press keys one after the other; before each of them the page must be ready."""
        for key in keys:
            self.page.wait_for_selector('#main[data-state$=" ready"]')
            self.page.keyboard.press(key)
        return self

    def prompt(self) -> str:
        """Return the text of the prompt."""
        return self.page.locator("#prompt-text").inner_text().strip()

    def side(self, name: str) -> str:
        """Return the text of a response: left | right."""
        return self.page.locator(f"#{name}-text").inner_text().strip()

    def number(self) -> int:
        """Return the number in the prompt, which names a pair of `plain_pairs`."""
        found = re.search(r"\d+", self.prompt())
        assert found is not None
        return int(found[0])

    def left(self) -> str:
        """Return which response of a pair of `plain_pairs` is on the left: a | b."""
        return "a" if self.side("left").startswith("The first") else "b"

    def line(self) -> str:
        """Return the line above the buttons, "" if there is none."""
        line = self.page.locator("#line-text")
        return line.inner_text() if line.is_visible() else ""


def votes_of(project: Project, name: str | None = None) -> list[Any]:
    """Return the votes that count, oldest first: rows with key, name, and the columns of the event."""
    wanted = (
        select(pair.c.key.label("pair_key"), person.c.name, event)
        .select_from(assignment)
        .join(event, event.c.id == assignment.c.event_id)
        .join(pair, pair.c.id == event.c.pair_id)
        .join(person, person.c.id == event.c.person_id)
        .order_by(event.c.id)
    )
    if name is not None:
        wanted = wanted.where(person.c.name == name)
    with reading(project.engine) as connection:
        return list(connection.execute(wanted))


def num_events(project: Project, kind: str = "vote") -> int:
    """Return how many events of a kind there are, undone ones too."""
    with reading(project.engine) as connection:
        return len(connection.execute(select(event.c.id).where(event.c.kind == kind)).all())
