"""Check the sources of a run before its model is loaded: everything that their rows show without a tokenizer.

`read_columns` needs no objective, so it can run before torch is imported. `check_sources` does the rest.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.data.accounting import Accounting
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.dataset import (
    FIRST_ROWS,
    check_reference_columns,
    check_shape,
    find_parts,
    refuse_unreadable,
    survey,
)
from tiltlm.data.files.sources import Rows
from tiltlm.data.findings import refuse_one_label
from tiltlm.data.loader import RowReader, count_defect
from tiltlm.data.rows.columns import ColumnRoles, detect
from tiltlm.data.rows.convert import announce


@dataclass(frozen=True)
class Columns:
    """The columns of a run's sources, as their first rows show them."""

    settings: DataSettings
    use_reference_columns: bool
    parts: Sequence[Rows]
    """The rows of the training data, then those of separate held-out data."""
    few: Sequence[Rows]
    """The first rows of each source."""
    roles: ColumnRoles
    """What each column is for."""

    def of_all_rows(self) -> ColumnRoles:
        """Read all rows, since a column may be in later rows only, and return what each column is for."""
        return find_roles(self.parts, self.settings, self.use_reference_columns)


def read_columns(settings: DataSettings, use_reference_columns: bool = False) -> Columns:
    """Find the sources and the roles of their columns. If the first rows show an error, all rows are read.

    Args:
        settings: Sources, and how to read them.
        use_reference_columns: True with `reference=columns`.

    Raises:
        ConfigError: Settings contradict each other, or one has no effect.
        DataError: A source is missing, or columns are unknown or contradict each other.
    """
    parts = find_parts(settings)
    few = [first for part in parts for first in part.firsts(FIRST_ROWS)]
    try:
        roles = find_roles(few, settings, use_reference_columns)
    except (ConfigError, DataError):
        roles = find_roles(parts, settings, use_reference_columns)
    return Columns(settings, use_reference_columns, parts, few, roles)


def find_roles(parts: Sequence[Rows], settings: DataSettings, use_reference_columns: bool) -> ColumnRoles:
    """Return what each column of these rows is for."""
    columns, _ = survey(parts)
    if not columns:
        refuse_unreadable(parts[0])
    return detect(columns, settings, use_reference_columns=use_reference_columns)


def check_sources(
    found: Columns,
    objective_shape: Shape,
    *,
    needs: frozenset[Need] = frozenset(),
    uses: frozenset[Use] | None = None,
    needs_partners: bool = False,
) -> None:
    """Raise what `load_data` would raise, as far as the first rows of each source show it.

    Defective rows are counted only if the first rows are all rows.

    Args:
        found: The columns of the sources.
        objective_shape: As for `load_data`, and so are the others.
        needs: What the objective needs beside responses.
        uses: Optional columns that the objective uses.
        needs_partners: True for an objective that reads partners.

    Raises:
        ConfigError: Settings contradict each other.
        DataError: The columns do not serve the objective, or too many rows are defective.
    """

    def check_roles(roles: ColumnRoles) -> ColumnRoles:
        if found.use_reference_columns:
            check_reference_columns(roles, needs_partners)
        announce(roles, objective_shape, needs, uses, found.settings.comparisons)
        return roles

    check_shape(found.settings, objective_shape)
    try:
        roles = check_roles(found.roles)
    except (ConfigError, DataError):
        roles = check_roles(found.of_all_rows())
    if all(len(list(islice(rows, FIRST_ROWS))) < FIRST_ROWS for rows in found.few):
        reader = RowReader(found.settings, roles, objective_shape, needs, uses, found.use_reference_columns)
        check_rows(reader, found.parts)


def check_rows(reader: RowReader, parts: Sequence[Rows]) -> None:
    """Raise if too many rows are defective, or all labels are equal."""
    accounting = Accounting()
    labels: Counter[bool] = Counter()
    for part, from_eval in zip(parts, (False, True), strict=False):
        for row in part:
            accounting.total += 1
            with count_defect(accounting, row.location):
                record, held_out = reader.read(row, from_eval)
                labels.update(() if held_out else record.labels)
    accounting.check_limit(reader.settings.max_bad, reader.settings.on_bad)
    refuse_one_label(labels[False], labels[True])
