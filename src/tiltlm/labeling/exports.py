"""The labels or the votes of a project as rows, for files and for downloads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select

from tiltlm.core.checks import suggestion
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.labels import LabelSettings, Votes, make_labels
from tiltlm.data.labels.account import SCHEMA, account_of, votes_digest
from tiltlm.data.labels.dawid_skene import uncertainty
from tiltlm.data.labels.label_rows import label_rows, vote_rows
from tiltlm.data.labels.project_votes import content_digest, read_project
from tiltlm.labeling.store.people import list_people, pseudonym
from tiltlm.labeling.store.projects import Project
from tiltlm.labeling.store.tables import pair
from tiltlm.labeling.store.votes import read_adjudications, read_vote_rows
from tiltlm.version import __version__


@dataclass(frozen=True)
class Selected:
    """Which votes are exported, and how."""

    rule: LabelSettings = field(default_factory=LabelSettings)
    exclude: tuple[str, ...] = ()
    """Names of annotators whose votes are left out."""
    pseudonyms: bool = False
    """Write pseudonyms in place of names."""
    votes: bool = False
    """One row for each vote, in place of labels."""

    def __post_init__(self) -> None:
        if self.votes and self.rule != LabelSettings():
            raise ConfigError(
                "--rule, --ties, --min-votes and --prior have no effect with --votes; remove them",
                code="no_effect",
                key="--votes",
            )


def select_rows(
    connection: Connection, project: Project, selected: Selected
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of an export, sorted by the ids of the pairs, and how they were made.

    Args:
        connection: A transaction that reads.
        project: The project.
        selected: Which votes, and how.

    Raises:
        ConfigError: An excluded annotator is unknown.
        DataError: There are no votes, or no pair gets a label.
    """
    people = {one.name: pseudonym(project.secret, one.id) for one in list_people(connection)}
    for name in selected.exclude:
        if name not in people:
            raise ConfigError(
                f"--exclude-annotators: nobody is called {name!r}{suggestion(name, people)}",
                code="unknown_name",
                key="--exclude-annotators",
            )
    given = [row for row in read_vote_rows(connection) if row["annotator"] not in selected.exclude]
    if selected.pseudonyms:
        given = [{**row, "annotator": people[row["annotator"]]} for row in given]
    votes = read_project(given, read_adjudications(connection))
    if not len(votes.item):
        raise DataError("the project has no votes to export yet", code="no_votes", key="--database")
    number = select(func.count()).select_from(pair).where(pair.c.kind == "task")
    tasks = int(connection.execute(number).scalar_one())
    more = {
        "title": project.settings.title,
        "content": content_digest(votes),
        "tasks": tasks,
        "tasks_without_votes": tasks - len({*votes.item.tolist()}),
        "excluded_annotators": len(selected.exclude),
        "pseudonyms": selected.pseudonyms,
        "skips": votes.num_skips,
    }
    if selected.votes:
        rows = vote_rows(given)
        return rows, {"schema": SCHEMA, "tiltlm": __version__, "votes": votes_digest(votes), "rows": len(rows), **more}
    return _labels(votes, selected.rule, more)


def _labels(votes: Votes, rule: LabelSettings, more: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    labels = make_labels(votes, rule)
    rows = label_rows(votes, labels)
    if not rows:
        raise DataError(
            f"no pair gets a label: {', '.join(f'{cause} {n}' for cause, n in labels.causes.items())}",
            code="no_rows_left",
            key="--min-votes",
        )
    spread = None if labels.model is None else uncertainty(votes, labels.model, prior=rule.prior)
    account = account_of(votes, labels, rows, spread)
    of_files = ("rows_read", "rows_dropped")
    return rows, {**{name: value for name, value in account.items() if name not in of_files}, **more}
