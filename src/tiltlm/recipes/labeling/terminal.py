"""Labelling in the terminal."""

import getpass
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.labeling.store.database import shown
from tiltlm.labeling.store.journal import JournalWriter
from tiltlm.labeling.store.people import check_name
from tiltlm.labeling.store.projects import has_project
from tiltlm.recipes.labeling.pairs.requests import PrepareRequest, SourceRequest
from tiltlm.recipes.labeling.preparing import prepare


@dataclass(frozen=True)
class Sitting:
    """What a person did in one sitting at the terminal."""

    name: str
    database: str
    num_votes: int
    num_undone: int
    """Votes that were taken back, of this sitting or before."""
    num_left: int
    """Pairs left for this person."""

    def summary(self) -> str:
        """Return what the command line prints."""
        votes = "1 vote" if self.num_votes == 1 else f"{self.num_votes} votes"
        undone = f", {self.num_undone} taken back" if self.num_undone else ""
        pairs = "1 pair" if self.num_left == 1 else f"{self.num_left} pairs"
        return f"{self.name}: {votes}{undone}, {pairs} left; saved in {self.database}"


def label_here(sources: Sequence[str], database: str, name: str | None) -> Sitting:
    """Let a person label in this terminal, until they quit.

    Args:
        sources: Data whose pairs are added; without it, the project is continued.
        database: The project. A new one gets one vote for each pair, since one person labels.
        name: The person; None: the name of the account.

    Raises:
        ConfigError: There is no terminal, the name cannot be used, or the person is no annotator.
        DataError: There is no such project, or the data cannot be read.
        RunError: The app ended by an error of its own.
    """
    if not has_terminal():
        raise ConfigError(
            "label tui needs a terminal, and here input or output is none; run it in one (over SSH: `ssh -t`), or use "
            "the browser: tiltlm label serve",
            code="no_terminal",
            key="label tui",
        )
    name = check_name(name or account_name())
    settings = {} if has_project(database) else {"overlap": 1, "extra": 0}
    with prepare(PrepareRequest(database, SourceRequest(tuple(sources)), settings)) as project:
        from tiltlm.labeling.terminal.app import LabelApp
        from tiltlm.labeling.terminal.voter import Voter, enter

        who = enter(project, name)
        with JournalWriter(project) as journal:
            app = LabelApp(Voter(project, who, journal.wake))
            outcome = app.run()
    if app.failure is not None:
        raise app.failure
    if outcome is None:
        raise RunError("the terminal app ended by an error; every vote before it is saved", code="app_failed")
    return Sitting(who.name, shown(database), outcome.num_votes, outcome.num_undone, outcome.num_left)


def has_terminal() -> bool:
    """Return True if keys can be read and a screen can be drawn, which happens on stderr."""
    return sys.stdin.isatty() and sys.__stderr__ is not None and sys.__stderr__.isatty()


def account_name() -> str:
    """Return the name of the account, for a person who gives none.

    Raises:
        ConfigError: It has none.
    """
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise ConfigError(
            "this account has no name; say who you are: --as NAME", code="missing_value", key="--as"
        ) from error
