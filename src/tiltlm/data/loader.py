"""Turn rows into examples, a block at a time: every row becomes an example or is counted under a cause.

A block depends only on its rows and the loader's settings, so any process can load it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import pyarrow as pa

from tiltlm.core.example import Example
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.data.accounting import Accounting, Defect
from tiltlm.data.cache.fingerprints import is_held_out
from tiltlm.data.cache.table import to_batch
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.text_files import Row
from tiltlm.data.findings import Findings
from tiltlm.data.rows.canonical import record_digest
from tiltlm.data.rows.columns import ColumnRoles
from tiltlm.data.rows.comparisons import choose_comparisons
from tiltlm.data.rows.convert import chooses_comparisons, convert
from tiltlm.data.rows.prompts import becomes_turns, is_transcript
from tiltlm.data.rows.records import Record, to_record
from tiltlm.data.tokens.encoder import Encoded, Encoder
from tiltlm.data.tokens.length_limit import longest_allowed, to_example, without_oldest_turns


@dataclass(frozen=True)
class RowBlock:
    """The examples of some rows, and findings about the rows."""

    train: pa.RecordBatch
    """Examples as columns (`tiltlm.data.cache.table`)."""
    held_out: pa.RecordBatch
    findings: Findings


@dataclass(frozen=True)
class RowReader:
    """Everything that decides which record a row becomes. No tokenizer is needed."""

    settings: DataSettings
    schema: ColumnRoles
    shape: Shape
    needs: frozenset[Need] = frozenset()
    uses: frozenset[Use] | None = None
    """Optional columns that the objective uses. None: those usual for its shape."""
    needs_reference: bool = False
    """True: rows without reference log-probabilities are defective."""

    def read(self, row: Row, from_eval: bool) -> tuple[Record, bool]:
        """Return the row in the shape that the objective needs, and True if it is held out.

        Raises:
            Defect: The row cannot be used.
        """
        record, held_out = self.read_as_is(row, from_eval)
        return self.converted(record, held_out), held_out

    def read_as_is(self, row: Row, from_eval: bool) -> tuple[Record, bool]:
        """Return the row in the shape that it has, and True if it is held out.

        Raises:
            Defect: The row cannot be read.
        """
        record = to_record(row, self.schema, every_turn=self.settings.assistant_turns == "all")
        if self.needs_reference and not record.ref_logps:
            raise Defect("missing_value", "the row has no reference log-probability")
        fraction, seed = self.settings.eval_fraction or 0, self.settings.eval_seed
        return record, from_eval or is_held_out(record.prompt_key, fraction, seed)

    def converted(self, record: Record, held_out: bool) -> Record:
        """Return a record in the shape that the objective needs.

        Raises:
            Defect: It has none.
        """
        if chooses_comparisons(self.schema, self.shape) and self.settings.comparisons != "all":
            record = choose_comparisons(record, self.settings)
        return convert(record, self.schema, self.shape, self.needs, self.uses, held_out=held_out)

    def as_read(self, record: Record) -> Record:
        """Return a record in the form that is tokenised: without a tokenizer, as it is."""
        return record

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that another process needs to read rows, beside this one."""
        return ()

    def to_send(self) -> Self:
        """Return a copy for other processes."""
        return self


@dataclass(frozen=True, kw_only=True)
class Loader(RowReader):
    """Everything that decides which example a row becomes."""

    encoder: Encoder

    @property
    def modules(self) -> tuple[str, ...]:
        """The tokenizer's module, which takes seconds to import."""
        return (type(self.encoder.tokenizer).__module__,)

    def to_send(self) -> Self:
        """Return a copy without cached properties, which need not be sent."""
        return replace(self, encoder=replace(self.encoder))

    @property
    def max_length(self) -> int:
        """Most tokens of a prompt with one response."""
        return longest_allowed(self.settings.max_length, self.encoder.window)

    def load(self, rows: Sequence[Row], from_eval: bool) -> RowBlock:
        """Turn every row into an example, or count its defect. All rows are tokenised in one call.

        Args:
            rows: Rows of a source, in order.
            from_eval: True for separate held-out data.

        Raises:
            DataError: A row is too long under `truncation="error"`, or a conversation without a chat template.
        """
        findings = Findings(Accounting(total=len(rows)))
        examples: tuple[list[Example], list[Example]] = ([], [])
        records = []
        for row in rows:
            with count_defect(findings.accounting, row.location):
                record, held_out = self.read_as_is(row, from_eval)
                findings.content[held_out].extend(record_digest(record))
                transcript = isinstance(record.prompt, str) and is_transcript(record.prompt)
                record = self.converted(record, held_out)
                form = record.form
                record = self.as_read(record)
                findings.num_transcripts += transcript
                findings.num_wrapped += record.form != form
                findings.num_turned += transcript and record.form != form
                records.append((record, held_out))
        encoded = self.encoder.encode_many([record for record, _ in records])
        for (record, held_out), result in zip(records, encoded, strict=True):
            with count_defect(findings.accounting, record.location):
                example, changes = self.example(record, result)
                findings.accounting.change(record.location, changes)
                findings.keep(record, example, held_out)
                examples[held_out].append(example)
        train, held_out = map(to_batch, examples)
        return RowBlock(train, held_out, findings)

    def as_read(self, record: Record) -> Record:
        """Return a record of text as turns where it becomes turns."""
        return as_read(record, self.schema, self.settings, self.encoder)

    def example(self, record: Record, encoded: Encoded | Defect) -> tuple[Example, list[str]]:
        """Return the example of a record, within the length limit, and what was changed.

        Raises:
            Defect: The record cannot be tokenised, or does not fit.
            DataError: It is too long under `truncation="error"`.
        """
        if isinstance(encoded, Defect):
            raise encoded
        if self.settings.truncation == "left_prompt" and encoded.num_tokens > self.max_length:
            encoded = without_oldest_turns(record, self.encoder, self.max_length) or encoded
        begin = self.encoder.tokenizer.bos_token_id
        return to_example(record, encoded, self.max_length, self.settings.truncation, begin)


def as_read(record: Record, schema: ColumnRoles, settings: DataSettings, encoder: Encoder) -> Record:
    """Return a record of text as turns where it becomes turns. A text without a prompt has no user turn."""
    if record.form != "text" or "text" in schema.roles:
        return record
    return record.as_chat() if becomes_turns(str(record.prompt), settings, encoder.has_template) else record


@contextmanager
def count_defect(accounting: Accounting, location: str) -> Iterator[None]:
    """Count a row as left out if the block raises `Defect`."""
    try:
        yield
    except Defect as defect:
        accounting.drop(location, defect)
