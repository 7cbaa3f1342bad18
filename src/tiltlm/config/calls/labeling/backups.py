"""The calls that copy a labelling project and make one from a copy. What is heavy is imported inside the functions."""

from pathlib import Path
from typing import TYPE_CHECKING

from tiltlm.config.command import command

if TYPE_CHECKING:
    from tiltlm.recipes.labeling.copying import Copied

__all__ = ["label_backup", "label_restore"]


@command(group="label", positionals={"output": "OUT"})
def label_backup(output: str | Path, /, *, database: str = "label.db") -> "Copied":
    """Copy a project into one file, while people go on voting.

    The copy is of one moment, and is checked before it gets its name. It is a SQLite file also where the project is in
    PostgreSQL.

    Args:
        output: The file to write; it must be new.
        database: The labelling project: a file, or postgresql://USER@HOST/NAME.

    Returns:
        The file, and the number of votes in it.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.recipes.labeling.extra import require_label

    require_label()
    from tiltlm.recipes.labeling.copying import back_up

    return back_up(database, Path(output))


@command(group="label", positionals={"backup": "BACKUP"})
def label_restore(backup: str | Path, /, *, database: str = "label.db") -> "Copied":
    """Make a project from a backup, in a new or empty database.

    Links, order and votes are those of the backup. This is also the way from a SQLite file to PostgreSQL.

    Args:
        backup: A file of `tiltlm label backup`.
        database: A file that does not exist, or the address of an empty PostgreSQL database.

    Returns:
        The database, and the number of votes in it.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.recipes.labeling.extra import require_label

    require_label()
    from tiltlm.recipes.labeling.copying import restore

    return restore(Path(backup), database)
