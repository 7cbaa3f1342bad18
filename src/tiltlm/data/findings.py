"""What the rows of a data set turned out to be: found block by block, added up, and told.

It is all that a run keeps of the way from rows to examples beside the examples, and it is small: whatever must be
compared across the whole data is there as digests of 16 bytes until the last row is in.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.example import Example
from tiltlm.data.accounting import Accounting
from tiltlm.data.cache.fingerprints import comparison_digests, digest, distinct
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.rows.records import Form, Record
from tiltlm.data.tokens.encoder import Encoder


@dataclass
class Findings:
    """Findings over rows, of a block or of all before it."""

    books: Accounting = field(default_factory=Accounting)
    forms: set[Form] = field(default_factory=set)
    """What prompts and responses were: text, turns, token ids."""
    ends: Counter[int] = field(default_factory=Counter)
    """Last tokens of the responses that ended by themselves."""
    prompts: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    """Digests of the prompts of training and of held-out rows, one a row."""
    comparison_digests: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    """Digests of (prompt, two answers) of every comparison, by which of the answers is preferred."""

    def keep(self, record: Record, example: Example, held_out: bool) -> None:
        """Book a row that became an example."""
        self.books.keep(example, held_out)
        self.forms.add(record.form)
        self.ends.update(int(r.token_ids[-1]) for r in example.responses if r.ended)
        self.prompts[held_out].extend(digest(record.prompt_key.encode("utf-8", "surrogatepass")))
        for about, preferred in comparison_digests(example):
            self.comparison_digests[preferred].extend(about)

    def merge(self, later: "Findings") -> None:
        """Take in the findings of later rows."""
        self.books.merge(later.books)
        self.forms |= later.forms
        self.ends.update(later.ends)
        for own, others in ((self.prompts, later.prompts), (self.comparison_digests, later.comparison_digests)):
            for digests, more in zip(own, others, strict=True):
                digests.extend(more)

    def settle(self) -> "Settled":
        """The findings once the last row is in."""
        trained, held_out = (distinct(digests) for digests in self.prompts)
        forward, backward = (distinct(digests) for digests in self.comparison_digests)
        return Settled(
            books=self.books,
            forms=frozenset(self.forms),
            end=self.ends.most_common(1)[0][0] if self.ends else None,
            num_prompts=len(trained),
            num_shared_prompts=len(np.intersect1d(trained, held_out, assume_unique=True)),
            num_opposed=len(np.intersect1d(forward, backward, assume_unique=True)),
        )


@dataclass(frozen=True)
class Settled:
    """Findings over all rows of a data set."""

    books: Accounting
    forms: frozenset[Form]
    end: int | None
    """What ends most responses; None where none ended by itself."""
    num_prompts: int
    """Distinct prompts of training rows."""
    num_shared_prompts: int
    """Of which held out as well."""
    num_opposed: int
    """(prompt, a, b) of which one row prefers a and another one b."""

    def to_plain(self) -> dict[str, Any]:
        """Values for JSON that `from_plain` reads."""
        return {**vars(self), "books": self.books.to_plain(), "forms": sorted(self.forms)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Settled":
        """Undo `to_plain`."""
        return cls(**{**plain, "books": Accounting.from_plain(plain["books"]), "forms": frozenset(plain["forms"])})

    def end_token_id(self, encoder: Encoder) -> int:
        """What ends a response in this data: of token ids, what ends most of them."""
        if "turns" in self.forms:
            return encoder.turn_end_token_id
        if "tokens" in self.forms and self.end is not None:
            return self.end
        return encoder.end_token_id

    def check(self, settings: DataSettings, encoder: Encoder) -> None:
        """Refuse data that is too defective, or leaves nothing to do."""
        self.books.check_limit(settings.max_bad, settings.on_bad)
        if not self.books.kept_train:
            raise DataError("no row is left to train on:\n" + "\n".join(self.books.lines()), code="no_rows_left")
        if settings.eval_fraction and not self.books.held_out:
            raise DataError(
                f"data.eval_fraction={settings.eval_fraction:g} holds out none of {self.num_prompts} prompts; "
                "raise it, or name held-out data: data.eval=FILE",
                code="nothing_held_out",
                key="data.eval_fraction",
            )
        if len(self.forms) == 2 and encoder.turn_end_token_id != encoder.end_token_id:
            raise DataError(
                "some rows are plain text and others conversations, and they end with different tokens; "
                "train on one form",
                code="text_and_conversations",
            )
        if settings.assistant_turns == "all" and self.forms != {"turns"}:
            raise ConfigError(
                "data.assistant_turns=all has no effect on plain text and token ids; give `messages`",
                code="no_effect",
                key="data.assistant_turns",
            )

    def notes(self, encoder: Encoder, unused: tuple[str, ...]) -> list[str]:
        """What a reader of the run must be told about this data.

        Args:
            unused: columns that play no role.
        """
        end_token_id = self.end_token_id(encoder)
        end = encoder.tokenizer.convert_ids_to_tokens(end_token_id)
        notes = [f"a response ends with {end!r} (token {end_token_id})"]
        if self.forms == {"turns"}:
            notes += _template_notes(encoder)
        elif encoder.begin_token_id is None and "empty_prompt" in self.books.changes:
            notes.append(f"text without a prompt begins with {encoder.decode([encoder.empty_prompt_id])!r}")
        if unused:
            notes.append(f"columns not used: {', '.join(unused)}")
        if self.num_shared_prompts:
            notes.append(f"{self.num_shared_prompts} held-out prompts are also trained on: held-out numbers flatter")
        if self.num_opposed:
            notes.append(f"{self.num_opposed} pairs of rows prefer opposite answers of the same two")
        return notes


def _template_notes(encoder: Encoder) -> list[str]:
    template = encoder.template
    assert template is not None
    notes = [f"chat template {template.digest}"]
    if encoder.turn_end_token_id != encoder.end_token_id:
        usual = encoder.tokenizer.convert_ids_to_tokens(encoder.end_token_id)
        notes.append(f"the chat template ends an answer with another token than the model's own, {usual!r}")
    if template.writes_date:
        notes.append(
            "the chat template writes today's date, so tokens and reference log-probabilities change daily; "
            "fix it in data.chat_template_kwargs (often date_string)"
        )
    return notes
