"""Labelling in the terminal."""

import getpass
import sys
from dataclasses import dataclass

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.labeling.store.database import shown
from tiltlm.labeling.store.projects import open_project


@dataclass(frozen=True)
class Sitting:
    """What a person did in one sitting at the terminal."""

    name: str
    database: str
    num_votes: int
    """Votes less those that were taken back."""
    num_left: int
    """Pairs left for this person."""

    def summary(self) -> str:
        """Return what the command line prints."""
        votes = "1 vote" if self.num_votes == 1 else f"{self.num_votes} votes"
        pairs = "1 pair" if self.num_left == 1 else f"{self.num_left} pairs"
        return f"{self.name}: {votes} saved in {self.database}, {pairs} left"


def label_here(database: str, name: str | None) -> Sitting:
    """Let a person label in this terminal, until they quit.

    Args:
        database: The project.
        name: The person; None: the name of the account.

    Raises:
        ConfigError: There is no terminal, the name cannot be used, or the person is no annotator.
        DataError: There is no such project.
    """
    if not (sys.stdin.isatty() and sys.__stderr__ is not None and sys.__stderr__.isatty()):
        raise ConfigError(
            "label tui needs a terminal, and here input or output is none; run it in one (over SSH: `ssh -t`), or use "
            "the browser: tiltlm label serve",
            code="no_terminal",
            key="label tui",
        )
    with open_project(database) as project:
        from tiltlm.labeling.terminal.app import LabelApp
        from tiltlm.labeling.terminal.voter import Voter, enter

        who = enter(project, name or account_name())
        app = LabelApp(Voter(project, who))
        outcome = app.run()
    if app.failure is not None:
        raise app.failure
    if outcome is None:
        raise RunError("the terminal app ended by an error; every vote before it is saved", code="app_failed")
    return Sitting(who.name, shown(database), outcome.num_votes, outcome.num_left)


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
