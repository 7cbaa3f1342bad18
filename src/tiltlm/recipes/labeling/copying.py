"""Backups of a project, and projects from backups."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from tiltlm.labeling.store import backup as store
from tiltlm.labeling.store.audit import COMMAND_LINE, write_audit
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.projects import Project, open_project
from tiltlm.labeling.store.tables import event


@dataclass(frozen=True)
class Copied:
    """A copy of a project."""

    database: str
    num_votes: int
    """Votes in it, undone ones too."""

    def summary(self) -> str:
        """Return what the command line prints."""
        return f"{self.database}: {self.num_votes:,} votes"


def back_up(database: str, output: Path) -> Copied:
    """Copy a project into a new file.

    Args:
        database: The project.
        output: The file.

    Raises:
        TiltError: As `tiltlm.labeling.store.backup.back_up`.
    """
    path = store.back_up(database, output)
    with open_project(database) as project, writing(project.engine) as connection:
        write_audit(connection, COMMAND_LINE, "backup", file=path.name)
    with open_project(str(path)) as copy:
        return Copied(str(path), num_votes(copy))


def restore(backup: Path, database: str) -> Copied:
    """Make a project from a backup.

    Args:
        backup: The file.
        database: A new file, or the address of an empty database.

    Raises:
        TiltError: As `tiltlm.labeling.store.backup.restore`.
    """
    store.restore(backup, database)
    with open_project(database) as project:
        with writing(project.engine) as connection:
            write_audit(connection, COMMAND_LINE, "restore", file=backup.name)
        return Copied(project.name, num_votes(project))


def num_votes(project: Project) -> int:
    """Return how many votes were given, undone ones too."""
    with reading(project.engine) as connection:
        wanted = select(func.count()).select_from(event).where(event.c.kind == "vote")
        return int(connection.execute(wanted).scalar_one())
