"""Inspect rows: read them as training does, show them to every check, and merge what the blocks gave.

To add a check, write it in one of the modules of this folder and list it in that module's `CHECKS`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from tiltlm.core.errors import DataError
from tiltlm.data.accounting import Accounting, Defect, RowCounts
from tiltlm.data.files.sources import Rows
from tiltlm.data.files.text_files import Row
from tiltlm.data.loader import Loader, RowReader
from tiltlm.data.quality import contents, duplicates, lengths, near, row_checks, tokens
from tiltlm.data.quality.checked_row import (
    Check,
    CheckedRow,
    EvaluationPrompts,
    Mark,
    Marked,
    digest_of_prompt,
    text_of,
)
from tiltlm.data.quality.rules import (
    CHANGE_RULES,
    CODE_OF_CAUSE,
    FILE_RULES,
    LOSS_RULES,
    Finding,
    Rule,
    order_of,
)
from tiltlm.data.rows.records import Record
from tiltlm.data.similarity.contamination import Contamination
from tiltlm.data.tokens.encoder import Encoded
from tiltlm.data.workers import map_blocks

MODULES = (row_checks, duplicates, near, lengths, contents, tokens)
CHECKS: tuple[type[Check], ...] = tuple(chain.from_iterable(module.CHECKS for module in MODULES))
"""All checks."""
MOST_MARKED = 10_000
"""Rows whose marks are all held, for a table of the worst rows."""


class Left(NamedTuple):
    """What is wrong with a row."""

    key: str
    """The rule's key."""
    detail: str


@dataclass
class Block:
    """What one block of rows gave."""

    accounting: Accounting
    locations: list[str]
    dropped: list[tuple[int, Left]]
    """Place in the block of each row that cannot be read, and why."""
    marks: list[tuple[int, Mark]]
    checks: list[Check]


@dataclass(frozen=True)
class BlockInspector:
    """Reads a block of rows as training does, and shows each to every check. It is sent to other processes."""

    reader: RowReader
    """A `Loader` if there is a tokenizer."""
    kinds: tuple[type[Check], ...] = CHECKS
    evaluation: EvaluationPrompts | None = None
    """Prompts of evaluation data, with which training prompts are compared."""

    def to_send(self) -> "BlockInspector":
        """Return a copy for other processes."""
        return replace(self, reader=self.reader.to_send())

    def __call__(self, rows: Sequence[Row], from_eval: bool) -> Block:
        """Return what the rows gave."""
        block = Block(Accounting(total=len(rows)), [row.location for row in rows], [], [], [k() for k in self.kinds])
        records: list[tuple[int, Record]] = []
        for index, row in enumerate(rows):
            try:
                record, _ = self.reader.read(row, from_eval)
                records.append((index, self.reader.as_read(record)))
            except Defect as defect:
                self._drop(block, index, defect)
        for index, record, encoded in self._encoded(records):
            lost = self._keep(block, index, record, encoded, from_eval)
            if lost is not None:
                self._show(block, self._row(index, record, encoded, from_eval, lost))
        return block

    def _encoded(self, records: Sequence[tuple[int, Record]]) -> Iterator[tuple[int, Record, Encoded | Defect | None]]:
        """Yield each record with its tokens: None without a tokenizer, or for turns without a template."""
        if not isinstance(self.reader, Loader):
            yield from ((index, record, None) for index, record in records)
            return
        encoder = self.reader.encoder
        usable = [record for _, record in records if record.form != "turns" or encoder.has_template]
        results = dict(zip(map(id, usable), encoder.encode_many(usable), strict=True))
        yield from ((index, record, results.get(id(record))) for index, record in records)

    def _keep(
        self, block: Block, index: int, record: Record, encoded: Encoded | Defect | None, from_eval: bool
    ) -> str | None:
        """Count a row as training would.

        Returns:
            The cause of D09 for which it is dropped, or an empty text. None: it is dropped for another cause.
        """
        try:
            if encoded is None:
                block.accounting.held_out += from_eval
                block.accounting.kept_train += not from_eval
                if isinstance(self.reader, Loader):
                    block.marks.append((index, Mark(tokens.NO_TEMPLATE.key)))
                changes: Iterable[str] = record.changes
            else:
                assert isinstance(self.reader, Loader)
                example, changes = self.reader.example(record, encoded)
                block.accounting.keep(example, from_eval)
            block.accounting.change(record.location, changes)
        except Defect as defect:
            self._drop(block, index, defect)
            return defect.code if CODE_OF_CAUSE[defect.code] == "D09" else None
        return ""

    def _drop(self, block: Block, index: int, defect: Defect) -> None:
        block.accounting.drop(block.locations[index], defect)
        block.dropped.append((index, Left(defect.code, defect.detail)))

    def _row(
        self, index: int, record: Record, encoded: Encoded | Defect | None, from_eval: bool, lost: str
    ) -> CheckedRow:
        loader = self.reader if isinstance(self.reader, Loader) else None
        return CheckedRow(
            index,
            record,
            from_eval,
            encoded if isinstance(encoded, Encoded) else None,
            None if loader is None else loader.max_length,
            lost,
            self.evaluation,
            frozenset() if loader is None else loader.encoder.special_texts,
        )

    def _show(self, block: Block, row: CheckedRow) -> None:
        for check in block.checks:
            block.marks += [(row.index, mark) for mark in check.see(row)]


@dataclass
class Inspection:
    """What all rows gave."""

    checks: list[Check]
    accounting: Accounting = field(default_factory=Accounting)
    locations: list[str] = field(default_factory=list)
    """Where each row is."""
    counts: dict[str, RowCounts] = field(default_factory=dict)
    """Marked rows of each rule."""
    left_out: dict[int, Left] = field(default_factory=dict)
    """Rows that `--fix` leaves out, by their place among all rows, with the first reason."""
    by_row: dict[int, list[Left]] = field(default_factory=dict)
    """Errors and warnings of single rows, by their place among all rows: of the first `MOST_MARKED`."""
    problems: list[DataError] = field(default_factory=list)
    """What ended the reading of a file."""
    found: list[Finding] = field(default_factory=list)
    """Findings of the data as a whole, made elsewhere."""

    @cached_property
    def rules(self) -> dict[str, Rule]:
        """The rules of the checks, by key."""
        return rules_of([type(check) for check in self.checks])

    def merge(self, block: Block) -> None:
        """Add a block of later rows."""
        offset = len(self.locations)
        self.accounting.merge(block.accounting)
        self.locations += block.locations
        for index, left in block.dropped:
            self._remember(offset + index, left, LOSS_RULES[left.key])
        for index, mark in block.marks:
            self.mark(offset + index, mark)
        for own, later in zip(self.checks, block.checks, strict=True):
            own.merge(later, offset)

    def mark(self, row: int, mark: Mark) -> None:
        """Count a mark on a row."""
        detail = mark.detail
        if mark.same_as >= 0:
            detail = f"{detail or 'same as'} {self.locations[mark.same_as]}"
        self.counts.setdefault(mark.key, RowCounts()).add(self.locations[row], detail)
        self._remember(row, Left(mark.key, detail), self.rules[mark.key])

    def _remember(self, row: int, left: Left, rule: Rule) -> None:
        if rule.leaves_out:
            self.left_out.setdefault(row, left)
        if rule.level != "note" and (row in self.by_row or len(self.by_row) < MOST_MARKED):
            self.by_row.setdefault(row, []).append(left)

    def rule_of(self, key: str) -> Rule:
        """Return the rule of a mark or of a cause for which loading drops a row."""
        return self.rules.get(key) or LOSS_RULES[key]

    def finish(self) -> None:
        """Add the marks that only all rows together show."""
        for check in self.checks:
            for row, mark in check.late_marks():
                self.mark(row, mark)

    def findings(self) -> list[Finding]:
        """Return all findings, the most serious first."""
        total = self.accounting.total
        found = [*self.found, *(of_problem(error) for error in self.problems)]
        for table, rules in ((self.accounting.losses, LOSS_RULES), (self.accounting.changes, CHANGE_RULES)):
            for cause, counts in table.items():
                if cause in rules:
                    found.append(Finding(rules[cause], counts.count, total, tuple(counts.examples)))
        for key, counts in self.counts.items():
            found.append(Finding(self.rules[key], counts.count, total, tuple(counts.examples)))
        for check in self.checks:
            found += check.findings(Marked(total, self.locations, self.counts))
        return sorted(found, key=order_of)


def rules_of(kinds: Iterable[type[Check]]) -> dict[str, Rule]:
    """Return the rules of these checks, by key."""
    return {rule.key: rule for rule in (*(rule for kind in kinds for rule in kind.rules), *tokens.TEMPLATE_RULES)}


def of_problem(error: DataError) -> Finding:
    """Return the finding of an error that ended the reading of a file."""
    place = () if error.row is None else (error.row,)
    return Finding(FILE_RULES[str(error.code)], 1, 1, place, detail=str(error))


def guarded(rows: Rows, problems: list[DataError]) -> Iterator[Row]:
    """Yield rows source by source; what ends the reading of one source is noted, and the next one is read.

    Raises:
        DataError: A source cannot be read at all: its format is unknown, or the system refuses.
    """
    left = rows.limit
    for source in rows.sources:
        try:
            for row in replace(rows, sources=(source,), limit=left):
                yield row
                left = None if left is None else left - 1
        except DataError as error:
            if error.code not in FILE_RULES:
                raise
            problems.append(error)


def evaluation_prompts(rows: Rows, reader: RowReader) -> EvaluationPrompts:
    """Return the prompts of evaluation data. Rows that cannot be read are left out.

    Args:
        rows: The evaluation data.
        reader: Reads them as the inspection does.
    """
    texts: list[tuple[str, str]] = []
    digests: set[bytes] = set()
    for row in guarded(rows, []):
        with suppress(Defect):
            record = reader.as_read(reader.read(row, True)[0])
            key = digest_of_prompt(record)
            if key not in digests:
                digests.add(key)
                texts.append((row.location, text_of(record.prompt)))
    return EvaluationPrompts(Contamination.of(texts), frozenset(digests))


def inspect_rows(
    parts: Sequence[Rows],
    inspector: BlockInspector,
    num_processes: int = 1,
    seen: Callable[[int], None] = lambda _: None,
) -> Inspection:
    """Return what all rows gave.

    Args:
        parts: Rows of the training data, then those of evaluation data.
        inspector: Inspects a block.
        num_processes: Processes that inspect blocks.
        seen: Called with the number of rows that were inspected.
    """
    inspection = Inspection([kind() for kind in inspector.kinds])
    work = inspector.to_send() if num_processes > 1 else inspector
    modules = (__name__, *inspector.reader.modules)
    for rows, from_eval in zip(parts, (False, True), strict=False):
        read = guarded(rows, inspection.problems)
        for block in map_blocks(work, read, from_eval, num_processes, modules):
            inspection.merge(block)
            seen(len(inspection.locations))
    inspection.finish()
    return inspection


def all_rules() -> Mapping[str, Rule]:
    """Return every rule of the checks of rows, by key."""
    return {**LOSS_RULES, **CHANGE_RULES, **FILE_RULES, **rules_of(CHECKS)}
