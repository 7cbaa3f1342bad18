"""Writing the labels of a project, or its votes, to a file that training and `tiltlm agreement` read as it is.

Labels are made as `data.train=label.db` makes them, so a policy that is trained on the file is the same, bit for bit. A
file beside them says how they were made.

A spreadsheet runs a cell that begins like a formula. In CSV and TSV an apostrophe is therefore put before what people
typed (names, notes, reasons) where it begins so. Prompts and responses stay as they are, because training reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from tiltlm.core.checks import suggestion
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.files.writing import check_ending, write_rows
from tiltlm.data.labels import LabelSettings, Votes, make_labels
from tiltlm.data.labels.accounts import SCHEMA, account_of, votes_digest
from tiltlm.data.labels.dawid_skene import uncertainty
from tiltlm.data.labels.label_rows import label_rows, vote_rows
from tiltlm.data.labels.project_votes import content_digest, read_project
from tiltlm.labeling.store.audit import COMMAND_LINE, write_audit
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.people import list_people, pseudonym
from tiltlm.labeling.store.projects import Project, open_project
from tiltlm.labeling.store.tables import pair
from tiltlm.labeling.store.votes import read_adjudications, read_vote_rows
from tiltlm.storage.files import check_file, finite_json, write_json
from tiltlm.version import __version__

TYPED = ("annotator", "note", "reason")
"""Columns that people typed."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")


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


@dataclass(frozen=True)
class Exported:
    """Labels or votes that were written."""

    path: Path
    account_path: Path
    account: Mapping[str, Any]
    """How they were made, as the file beside them has it."""

    def summary(self) -> str:
        """Return what the command line prints."""
        account = self.account
        left_out = ", ".join(f"{cause} {n:,}" for cause, n in account.get("left_out", {}).items())
        what = (
            f"{account['rows']:,} votes"
            if "labels" not in account
            else f"{account['labels']:,} pairs by the rule {account['rule']}, {account['undecided']:,} of them "
            f"undecided, {account['single_vote']:,} with a single vote, {account.get('adjudicated', 0):,} adjudicated"
        )
        return "\n".join(
            [
                f"{self.path}: {what}" + (f"; left out: {left_out}" if left_out else ""),
                f"{account['tasks_without_votes']:,} of {account['tasks']:,} pairs have no vote",
                f"account  {self.account_path}",
            ]
        )


def export(database: str, output: Path, selected: Selected, *, overwrite: bool = False) -> Exported:
    """Write the labels or the votes of a project.

    Args:
        database: The project.
        output: The file; its ending decides the format.
        selected: Which votes, and how.
        overwrite: Replace the file.

    Raises:
        ConfigError: A setting cannot work.
        DataError: There is no such project, or nothing to write.
    """
    check_file(output, "OUT")
    check_ending(output)
    if output.exists() and not overwrite:
        raise ConfigError(
            f"{output} exists; give --overwrite to replace it, or another name", code="output_exists", key="OUT"
        )
    with open_project(database) as project:
        return _export(project, output, selected)


def _export(project: Project, output: Path, selected: Selected) -> Exported:
    with reading(project.engine) as connection:
        rows, account = select_rows(connection, project, selected)
    if output.name.lower().endswith(TABLES):
        rows = [inert(row) for row in rows]
    write_rows(output, rows)
    plain = output.name.removesuffix(".gz").removesuffix(".zst")
    beside = output.with_name(f"{Path(plain).stem}.account.json")
    write_json(beside, finite_json(account))
    with writing(project.engine) as connection:
        write_audit(connection, COMMAND_LINE, "export", file=output.name, rows=len(rows), votes=account["votes"])
    return Exported(output, beside, account)


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


def inert(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a table whose typed cells no spreadsheet takes for formulas."""
    risky = {name: row[name] for name in TYPED if str(row.get(name) or "").startswith(FORMULA)}
    return {**row, **{name: f"'{text}" for name, text in risky.items()}}
