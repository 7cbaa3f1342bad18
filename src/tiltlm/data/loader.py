"""From rows to examples, a block at a time: every row ends as an example or under a cause.

A block depends on nothing but its rows and the loader's own settings, so blocks may be taken by any process.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from tiltlm.core.example import Example
from tiltlm.core.needs import Need, Shape
from tiltlm.data.accounting import Accounting, Defect
from tiltlm.data.cache.fingerprints import is_held_out
from tiltlm.data.cache.table import to_batch
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.text_files import Row
from tiltlm.data.findings import Findings
from tiltlm.data.rows.columns import Schema
from tiltlm.data.rows.convert import convert
from tiltlm.data.rows.records import Record, to_record
from tiltlm.data.tokens.encoder import Encoded, Encoder
from tiltlm.data.tokens.length_limit import longest_allowed, to_example, without_oldest_turns


@dataclass(frozen=True)
class RowBlock:
    """What became of some rows."""

    train: pa.RecordBatch
    """Examples, as `tiltlm.data.cache.table` keeps them."""
    held_out: pa.RecordBatch
    findings: Findings


@dataclass(frozen=True)
class Loader:
    """Everything that decides what a row becomes."""

    settings: DataSettings
    encoder: Encoder
    schema: Schema
    shape: Shape
    needs: frozenset[Need] = frozenset()
    needs_reference: bool = False
    """Rows without reference log-probabilities are defects."""

    @property
    def max_length(self) -> int:
        return longest_allowed(self.settings.max_length, self.encoder.window)

    def load(self, rows: Sequence[Row], from_eval: bool) -> RowBlock:
        """Take every row to its example, or book why not. Rows are tokenised together.

        Args:
            rows: of a source, in order.
            from_eval: whether they are held-out data of their own.

        Raises:
            DataError: a row that the settings do not allow to be left out or cut.
        """
        findings = Findings(Accounting(total=len(rows)))
        examples: tuple[list[Example], list[Example]] = ([], [])
        records = []
        for row in rows:
            with booking(findings.books, row.location):
                records.append(self._record(row, from_eval))
        encoded = self.encoder.encode_many([record for record, _ in records])
        for (record, held_out), result in zip(records, encoded, strict=True):
            with booking(findings.books, record.location):
                example, changes = self._example(record, result)
                findings.books.change(record.location, changes)
                findings.keep(record, example, held_out)
                examples[held_out].append(example)
        train, held_out = map(to_batch, examples)
        return RowBlock(train, held_out, findings)

    def _record(self, row: Row, from_eval: bool) -> tuple[Record, bool]:
        """The row as the objective needs it, and whether it is held out."""
        record = to_record(row, self.schema, every_turn=self.settings.assistant_turns == "all")
        if self.needs_reference and not record.ref_logps:
            raise Defect("missing_value", "no reference log-probability")
        held_out = from_eval or is_held_out(record.prompt_key, self.settings.eval_fraction, self.settings.eval_seed)
        return convert(record, self.schema, self.shape, self.needs, held_out=held_out), held_out

    def _example(self, record: Record, encoded: Encoded | Defect) -> tuple[Example, list[str]]:
        """The record as tokens that fit, and what was changed."""
        if isinstance(encoded, Defect):
            raise encoded
        if self.settings.truncation == "left_prompt" and encoded.num_tokens > self.max_length:
            encoded = without_oldest_turns(record, self.encoder, self.max_length) or encoded
        begin = self.encoder.tokenizer.bos_token_id
        return to_example(record, encoded, self.max_length, self.settings.truncation, begin)


@contextmanager
def booking(books: Accounting, location: str) -> Iterator[None]:
    """Book the defect that ends what is done inside."""
    try:
        yield
    except Defect as defect:
        books.drop(location, defect)
