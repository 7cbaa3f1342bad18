"""From rows to examples, with the books kept: every row ends as an example or under a cause."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.example import Example
from tiltlm.core.needs import Need, Shape
from tiltlm.data.accounting import Accounting, Defect
from tiltlm.data.columns import Schema
from tiltlm.data.content import contradictions, is_held_out
from tiltlm.data.convert import convert
from tiltlm.data.encoder import Encoded, Encoder
from tiltlm.data.records import Form, Record, to_record
from tiltlm.data.settings import DataSettings
from tiltlm.data.textfiles import Row
from tiltlm.data.tokenize import longest_allowed, to_example, without_oldest_turns

BATCH = 1024
"""Rows tokenised together."""


class Loader:
    """Carries rows through to examples and keeps the books."""

    def __init__(
        self,
        settings: DataSettings,
        encoder: Encoder,
        schema: Schema,
        shape: Shape,
        needs: frozenset[Need] = frozenset(),
        *,
        needs_reference: bool = False,
    ) -> None:
        self.settings, self.encoder, self.schema, self.shape = settings, encoder, schema, shape
        self.needs, self.needs_reference = needs, needs_reference
        self.max_length = longest_allowed(settings.max_length, encoder.window)
        self.accounting = Accounting()
        self.train: list[Example] = []
        self.held_out: list[Example] = []
        self._prompts: tuple[set[str], set[str]] = (set(), set())
        self._forms: set[Form] = set()
        self._ends: Counter[int] = Counter()

    def load(self, rows: Sequence[Row], *, from_eval: bool) -> None:
        """Take every row to its example, or book why not."""
        self.accounting.total += len(rows)
        for start in range(0, len(rows), BATCH):
            records = []
            for row in rows[start : start + BATCH]:
                with self._booking(row.location):
                    records.append(self._record(row, from_eval))
            encoded = self.encoder.encode_many([record for record, _ in records])
            for (record, held_out), result in zip(records, encoded, strict=True):
                with self._booking(record.location):
                    self._keep(record, result, held_out)

    @contextmanager
    def _booking(self, location: str) -> Iterator[None]:
        try:
            yield
        except Defect as defect:
            self.accounting.drop(location, defect)

    def _record(self, row: Row, from_eval: bool) -> tuple[Record, bool]:
        """The row as the objective needs it, and whether it is held out."""
        record = to_record(row, self.schema, every_turn=self.settings.assistant_turns == "all")
        if self.needs_reference and not record.ref_logps:
            raise Defect("missing_value", "no reference log-probability")
        held_out = from_eval or is_held_out(record.prompt_key, self.settings.eval_fraction, self.settings.eval_seed)
        return convert(record, self.schema, self.shape, self.needs, held_out=held_out), held_out

    def _keep(self, record: Record, encoded: Encoded | Defect, held_out: bool) -> None:
        if isinstance(encoded, Defect):
            raise encoded
        if self.settings.truncation == "left_prompt" and encoded.num_tokens > self.max_length:
            encoded = without_oldest_turns(record, self.encoder, self.max_length) or encoded
        begin = self.encoder.tokenizer.bos_token_id
        example, changes = to_example(record, encoded, self.max_length, self.settings.truncation, begin)
        self.accounting.change(record.location, changes)
        self.accounting.keep(example, held_out)
        (self.held_out if held_out else self.train).append(example)
        self._prompts[held_out].add(record.prompt_key)
        self._forms.add(record.form)
        self._ends.update(int(r.token_ids[-1]) for r in example.responses if r.ended)

    @property
    def end_token_id(self) -> int:
        """What ends a response in this data: of token ids, what ends most of them."""
        if "turns" in self._forms:
            return self.encoder.turn_end_token_id
        if "tokens" in self._forms and self._ends:
            return self._ends.most_common(1)[0][0]
        return self.encoder.end_token_id

    def check(self) -> None:
        """Refuse data that is too defective, or leaves nothing to do."""
        settings = self.settings
        self.accounting.check_limit(settings.max_bad, settings.on_bad)
        if not self.train:
            raise DataError("no row is left to train on:\n" + "\n".join(self.accounting.lines()))
        if settings.eval_fraction and not self.held_out:
            raise DataError(
                f"data.eval_fraction={settings.eval_fraction:g} holds out none of {len(self._prompts[0])} prompts; "
                "raise it, or name held-out data: data.eval=FILE"
            )
        if len(self._forms) == 2 and self.encoder.turn_end_token_id != self.encoder.end_token_id:
            raise DataError(
                "some rows are plain text and others conversations, and they end with different tokens; "
                "train on one form"
            )
        if settings.assistant_turns == "all" and self._forms != {"turns"}:
            raise ConfigError("data.assistant_turns=all has no effect on plain text and token ids; give `messages`")

    def notes(self) -> list[str]:
        """What a reader of the run must be told about this data."""
        end = self.encoder.tokenizer.convert_ids_to_tokens(self.end_token_id)
        notes = [f"a response ends with {end!r} (token {self.end_token_id})"]
        if self._forms == {"turns"}:
            notes += self._template_notes()
        elif self.encoder.begin_token_id is None and "empty_prompt" in self.accounting.changes:
            notes.append(f"text without a prompt begins with {self.encoder.decode([self.encoder.empty_prompt_id])!r}")
        if self.schema.unused:
            notes.append(f"columns not used: {', '.join(self.schema.unused)}")
        shared = len(self._prompts[0] & self._prompts[1])
        if shared:
            notes.append(f"{shared} held-out prompts are also trained on: held-out numbers flatter")
        opposed = contradictions([*self.train, *self.held_out])
        if opposed:
            notes.append(f"{opposed} pairs of rows prefer opposite answers of the same two")
        return notes

    def _template_notes(self) -> list[str]:
        template = self.encoder.template
        assert template is not None
        notes = [f"chat template {template.digest}"]
        if self.encoder.turn_end_token_id != self.encoder.end_token_id:
            usual = self.encoder.tokenizer.convert_ids_to_tokens(self.encoder.end_token_id)
            notes.append(f"the chat template ends an answer with another token than the model's own, {usual!r}")
        if "strftime_now" in template.source:
            notes.append(
                "the chat template writes today's date, so tokens and reference log-probabilities change daily; "
                "fix it in data.chat_template_kwargs (often date_string)"
            )
        return notes
