"""The votes of a project, as rows and as numbers, for agreement, labels and exports."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, text

from tiltlm.data.labels import Votes
from tiltlm.data.labels.project_votes import ADJUDICATION_COLUMNS, VOTE_COLUMNS, read_project


def _columns(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


_VOTES = text(f"SELECT {_columns(VOTE_COLUMNS)} FROM vote_row WHERE kind IN :kinds ORDER BY event_id").bindparams(
    bindparam("kinds", expanding=True)
)
_ADJUDICATIONS = text(f"SELECT {_columns(ADJUDICATION_COLUMNS)} FROM adjudication_row ORDER BY pair_key")


def read_vote_rows(connection: Connection, *, kinds: Sequence[str] = ("task",)) -> list[dict[str, Any]]:
    """Return one row for each vote that counts now, skips and repeats too, in the order in which they were given.

    Args:
        connection: A transaction that reads.
        kinds: Of the pairs: task, gold, calibration.
    """
    return [dict(row) for row in connection.execute(_VOTES, {"kinds": list(kinds)}).mappings()]


def read_adjudications(connection: Connection) -> list[dict[str, Any]]:
    """Return the newest adjudication of each pair that has one."""
    return [dict(row) for row in connection.execute(_ADJUDICATIONS).mappings()]


def read_votes(connection: Connection, *, kinds: Sequence[str] = ("task",), exclude: Collection[str] = ()) -> Votes:
    """Return the votes that count now, with the decisions of adjudicators.

    A person's first vote on a pair is the one that counts for its label. The vote on the repeat only tells how
    consistent the person is.

    Args:
        connection: A transaction that reads.
        kinds: Of the pairs: task, gold, calibration.
        exclude: Names of annotators whose votes are left out.

    Returns:
        The votes. Pairs that nobody voted on or skipped are not among the items.
    """
    return read_project(read_vote_rows(connection, kinds=kinds), read_adjudications(connection), exclude=exclude)
