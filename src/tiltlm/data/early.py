"""Check the sources of a run before its model is loaded: everything that their rows show without a tokenizer."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.data.accounting import Accounting
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.dataset import check_turns, find_parts, refuse_unreadable, schema_of, survey
from tiltlm.data.files.sources import Rows, check_hub_settings
from tiltlm.data.findings import refuse_one_label
from tiltlm.data.loader import RowReader, count_defect
from tiltlm.data.rows.columns import ColumnRoles
from tiltlm.data.rows.convert import announce

FIRST_ROWS = 1000
"""Rows of each source that are read."""


def check_sources(
    settings: DataSettings,
    objective_shape: Shape,
    *,
    needs: frozenset[Need] = frozenset(),
    uses: frozenset[Use] | None = None,
    needs_partners: bool = False,
    use_reference_columns: bool = False,
) -> None:
    """Raise what `load_data` would raise, as far as the first rows of each source show it.

    Arguments are those of `load_data`. If the first rows show an error in the columns, all rows are read, since a
    column may be in later rows only. Defective rows are counted only if the first rows are all rows.

    Raises:
        ConfigError: Settings contradict each other, or one has no effect.
        DataError: A source is missing, its columns do not serve the objective, or too many rows are defective.
    """

    def find_roles(parts: Sequence[Rows]) -> ColumnRoles:
        columns, _ = survey(parts)
        if not columns:
            refuse_unreadable(parts[0])
        schema = schema_of(columns, settings, needs_partners, use_reference_columns)
        announce(schema, objective_shape, needs, uses)
        return schema

    check_turns(settings, objective_shape)
    check_hub_settings(settings)
    parts = find_parts(settings)
    few = [first for part in parts for first in first_rows(part)]
    try:
        schema = find_roles(few)
    except (ConfigError, DataError):
        schema = find_roles(parts)
    if all(len(list(islice(rows, FIRST_ROWS))) < FIRST_ROWS for rows in few):
        reader = RowReader(settings, schema, objective_shape, needs, uses, use_reference_columns)
        check_rows(reader, parts)


def first_rows(rows: Rows) -> list[Rows]:
    """Return the first rows of each source, or all rows if the settings limit them to fewer."""
    if rows.limit is not None and rows.limit <= FIRST_ROWS:
        return [rows]
    return [replace(rows, sources=(source,), limit=FIRST_ROWS) for source in rows.sources]


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
