"""Writing the labels of a project, or its votes, to a file that training and `tiltlm agreement` read as it is.

Labels are made as `data.train=label.db` makes them, so a policy that is trained on the file is the same, bit for bit. A
file beside them says how they were made.

A spreadsheet runs a cell that begins like a formula. In CSV and TSV an apostrophe is therefore put before what people
typed (names, notes, reasons) where it begins so. Prompts and responses stay as they are, because training reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError
from tiltlm.data.files.writing import check_ending, write_rows
from tiltlm.labeling.exports import Selected, select_rows
from tiltlm.labeling.store.audit import COMMAND_LINE, write_audit
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.projects import Project, open_project
from tiltlm.storage.files import check_file, finite_json, write_json

TYPED = ("annotator", "note", "reason")
"""Columns that people typed."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")


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


def inert(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a table whose typed cells no spreadsheet takes for formulas."""
    risky = {name: row[name] for name in TYPED if str(row.get(name) or "").startswith(FORMULA)}
    return {**row, **{name: f"'{text}" for name, text in risky.items()}}
