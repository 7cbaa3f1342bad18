"""Read the rows of data that is split, and the prompts of evaluation data that it is compared with."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tiltlm.core.errors import DataError
from tiltlm.data.accounting import Accounting
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.dataset import refuse_unreadable, survey
from tiltlm.data.files.sources import Rows, read_rows
from tiltlm.data.files.text_files import Row
from tiltlm.data.loader import count_defect
from tiltlm.data.rows.canonical import record_digest
from tiltlm.data.rows.columns import detect, detect_prompts
from tiltlm.data.rows.formats.format import plain_name
from tiltlm.data.rows.formats.lists import HELPSTEER_COLUMNS
from tiltlm.data.rows.records import Record, to_prompt, to_record
from tiltlm.data.similarity.contamination import Contamination, Overlap
from tiltlm.data.splits.plan import SplitPlan, SplitRule, compared_text, plain_text

log = logging.getLogger(__name__)

STEP = 1024
"""Rows between two reports of progress; new prompts are compared with evaluation data this many at a time."""


@dataclass(frozen=True)
class Reading:
    """How the rows of a data set are read."""

    rows: Rows
    columns: Mapping[str, str]
    num_rows: int
    read: Callable[[Row], Record]
    """Reads a row; raises `Defect`."""
    digest: Callable[[Row, Record], bytes]
    """Returns the digest of the content of a row."""


def read_data(settings: DataSettings) -> Reading:
    """Find the data and the roles of its columns.

    Only the prompts are read of data without labelled responses, and of data that has a row for each response of a
    list.

    Raises:
        ConfigError: A setting has no effect.
        DataError: The data cannot be read.
    """
    rows = read_rows(settings)
    for note in rows.notes:
        log.info("%s", note, extra={"event": note.code})
    columns, num_rows = survey([rows])
    if not columns:
        refuse_unreadable(rows)
    try:
        schema = detect(columns, settings, use_reference_columns=True)
        has_responses = not {plain_name(column) for column in columns} >= HELPSTEER_COLUMNS
    except DataError as error:
        if error.code not in ("no_responses", "needs_one_order"):
            raise
        has_responses = False
    if not has_responses:
        of_prompts = detect_prompts(columns, settings)
        return Reading(rows, columns, num_rows, lambda row: to_prompt(row, of_prompts), lambda row, _: _row_digest(row))
    return Reading(rows, columns, num_rows, lambda row: to_record(row, schema), lambda _, record: record_digest(record))


def _row_digest(row: Row) -> bytes:
    """Return the sha256 of all values of a row."""
    return hashlib.sha256(json.dumps(row.values, sort_keys=True, default=str).encode()).digest()


def index_evaluation(names: Sequence[str]) -> Contamination:
    """Index the prompts of evaluation data; of a folder with splits, those of the split test.

    Raises:
        DataError: A file cannot be read, or has no prompts.
    """
    found: list[tuple[str, str]] = []
    for name in names:
        settings = DataSettings(train=name, eval=name)
        rows = read_rows(settings, held_out=True)
        columns, num_rows = survey([rows])
        if not columns:
            refuse_unreadable(rows)
        schema, accounting = detect_prompts(columns, settings), Accounting()
        for row in rows:
            with count_defect(accounting, row.location):
                found.append((row.location, plain_text(to_prompt(row, schema).prompt)))
        if accounting.dropped:
            log.warning(
                "%s: %d of %d rows have no prompt that can be read, so they are compared with nothing",
                name, accounting.dropped, num_rows,
                extra={"event": "evaluation_rows_left_out", "rows": accounting.dropped},
            )  # fmt: skip
    return Contamination.of(found)


def read_prompts(
    reading: Reading,
    rule: SplitRule,
    stratify: str | None,
    evaluation: Contamination | None,
    progress: Callable[[int], None],
) -> tuple[SplitPlan, Accounting, dict[int, Overlap]]:
    """Read all rows.

    Args:
        reading: The data.
        rule: How it is to be divided.
        stratify: Column with the stratum of a row; None: there are no strata.
        evaluation: Prompts to compare with.
        progress: Called with the number of rows read.

    Returns:
        The prompts row by row, the counts of defective rows, and the overlap of each prompt that has one.
    """
    plan, accounting, overlaps = SplitPlan(rule), Accounting(), dict[int, Overlap]()
    new: dict[int, str] = {}

    def look_up() -> None:
        if evaluation is not None:
            found = zip(new, evaluation.find_many(list(new.values())), strict=True)
            overlaps.update({number: overlap for number, overlap in found if overlap is not None})
        new.clear()

    for row in reading.rows:
        accounting.total += 1
        if accounting.total % STEP == 0:
            progress(accounting.total)
            look_up()
        before = plan.num_prompts
        with count_defect(accounting, row.location):
            record = reading.read(row)
            of_column = str(row.values.get(stratify, "")) if stratify is not None else ""
            number = plan.add(record, of_column, reading.digest(row, record))
            if number == before:
                new[number] = compared_text(record)
        if len(plan.prompts) < accounting.total:
            plan.leave_out()
    look_up()
    return plan, accounting, overlaps
