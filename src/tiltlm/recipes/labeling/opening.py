"""Opening the project of a command, and closing it again."""

from collections.abc import Iterator
from contextlib import contextmanager

from tiltlm.labeling.store.projects import Project, open_project


@contextmanager
def opened(database: str) -> Iterator[Project]:
    """Open a project for the time of a block.

    Args:
        database: A file, or the URL of a PostgreSQL database.

    Raises:
        ConfigError: The database cannot be used.
        DataError: There is no project in it.
    """
    project = open_project(database)
    try:
        yield project
    finally:
        project.engine.dispose()
