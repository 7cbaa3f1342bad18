"""Votes from files: one row a vote, one row an item with the list of its votes, or a labelling project."""

from pathlib import Path

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.accounting import Accounting
from tiltlm.data.data_settings import DataSettings, paths_of
from tiltlm.data.dataset import refuse_unreadable, survey
from tiltlm.data.files.label_databases import is_database, read_database
from tiltlm.data.files.sources import read_rows
from tiltlm.data.labels.votes import FoundVote, VotedItem, Votes, collect
from tiltlm.data.loader import count_defect
from tiltlm.data.votes.vote_rows import find_columns, votes_of


def read_votes(settings: DataSettings) -> Votes:
    """Read a file of votes: one row a vote, or one row an item with the list of its votes; or a labelling project.

    Args:
        settings: Where the votes are. `columns` may name the columns `annotator`, `vote`, `left` and `votes` too.

    Raises:
        ConfigError: A setting has no effect.
        DataError: A column is missing, too many rows cannot be read, or no vote says anything.
    """
    paths = [Path(path) for path in paths_of(settings.train)]
    if any(map(is_database, paths)):
        return _of_project(paths, settings)
    source = read_rows(settings)
    first_seen, _ = survey([source])
    if not first_seen:
        refuse_unreadable(source)
    columns = find_columns(first_seen, settings)
    accounting = Accounting()
    items: dict[str, VotedItem] = {}
    found: list[FoundVote] = []
    for row in source:
        accounting.total += 1
        with count_defect(accounting, row.location):
            found += votes_of(row, columns, items)
    accounting.check_limit(settings.max_bad, settings.on_bad)
    if not any(vote.choice >= 0 for vote in found):
        raise DataError("no vote prefers an answer or calls a tie", code="no_rows_left", key="data.train")
    return collect(found, items, accounting, (*columns.notes, *source.notes))


def _of_project(paths: list[Path], settings: DataSettings) -> Votes:
    """Return the votes of a labelling project.

    Raises:
        ConfigError: It is not the only source, or a setting of files is given.
    """
    if len(paths) > 1:
        raise ConfigError(
            "data.train: votes of a labelling project are read alone; name it without other sources",
            code="conflict",
            key="data.train",
        )
    plain = DataSettings(settings.train)
    for name in ("columns", "ignore", "limit", "split"):
        if getattr(settings, name) != getattr(plain, name):
            raise ConfigError(
                f"data.{name} has no effect on a labelling project; remove it", code="no_effect", key=f"data.{name}"
            )
    return read_database(paths[0])
