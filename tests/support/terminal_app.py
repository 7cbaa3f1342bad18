"""Using the terminal app in tests: without a terminal, as fast as it goes."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import select
from textual.events import Key
from textual.pilot import Pilot

from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import event, pair
from tiltlm.labeling.terminal.app import LabelApp
from tiltlm.labeling.terminal.view import Pane
from tiltlm.labeling.terminal.voter import Voter, enter

PATIENCE = 20.0
"""Seconds after which a test gives up."""

CHARACTERS = {"space": " ", "question_mark": "?"}


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test that is a coroutine."""
    asyncio.run(test())


async def until(condition: Callable[[], Any], pilot: Pilot[Any]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        await pilot.pause(0.005)


@asynccontextmanager
async def labelling(
    project: Project, name: str = "ann", *, size: tuple[int, int] = (100, 30), reads: bool = True, **options: Any
) -> AsyncIterator[tuple[LabelApp, Pilot[Any]]]:
    """Start the app, and close the guidelines.

    Args:
        project: The project.
        name: Who labels.
        size: Columns and lines.
        reads: Close the guidelines, and wait for the first pair.
        **options: Of the app. By default, a second passes between any two looks at the clock.
    """
    options.setdefault("clock", itertools.count().__next__)
    app = LabelApp(Voter(project, enter(project, name)), **options)
    async with app.run_test(size=size) as pilot:
        if reads:
            await until(lambda: len(app.screen_stack) == 2 or app.shown is not None, pilot)
            if app.shown is None:
                await pilot.press("enter")
            await until(lambda: app.shown is not None, pilot)
        yield app, pilot


async def press(app: LabelApp, pilot: Pilot[Any], *keys: str) -> None:
    """Press keys, each when what the one before it began has ended, or has opened a window."""
    for key in keys:
        if len(app.screen_stack) > 1:
            await pilot.press(key)  # slower, and returns after a window has done what the key asks
        else:
            app.post_message(Key(key, CHARACTERS.get(key, key if len(key) == 1 else None)))
            await pilot.pause(0)
        await until(lambda: len(app.screen_stack) > 1 or not any(one.is_running for one in app.workers), pilot)
        await pilot.pause(0)


def text_of(app: LabelApp, name: str) -> str:
    """Return what a part of the screen shows, line by line."""
    widget = app.query_one(name)
    if isinstance(widget, Pane):
        widget = widget.query_one(".text")
    return "\n".join(widget.render_line(y).text.rstrip() for y in range(widget.size.height))


def dialog_text(app: LabelApp) -> str:
    """Return what the window on top shows; "" before it is drawn."""
    if not app.screen.query(".dialog"):
        return ""
    found = app.screen.query("Static, OptionList")
    title = str(app.screen.query_one(".dialog").border_title)
    return "\n".join(
        [title, *("\n".join(one.render_line(y).text.rstrip() for y in range(one.size.height)) for one in found)]
    )


async def sees(app: LabelApp, pilot: Pilot[Any], *texts: str) -> None:
    """Wait until a window on top shows these texts."""
    await until(lambda: len(app.screen_stack) > 1 and all(text in dialog_text(app) for text in texts), pilot)


def saved(project: Project, *columns: str) -> list[Any]:
    """Return the events of a project, in order: the key of the pair, the kind of event, and these columns."""
    wanted = select(pair.c.key, event.c.kind, *(event.c[name] for name in columns))
    with reading(project.engine) as connection:
        rows = connection.execute(wanted.join(pair, pair.c.id == event.c.pair_id).order_by(event.c.id)).all()
    return [tuple(row) for row in rows]
