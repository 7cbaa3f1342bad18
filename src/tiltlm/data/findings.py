"""Collect facts about a data set per block of rows, and merge them: counts, formats, end tokens, duplicate prompts.

They are small: what must be compared across the whole data is held as digests of 16 bytes.
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
    """Facts about some rows, in a form that can be merged."""

    accounting: Accounting = field(default_factory=Accounting)
    forms: set[Form] = field(default_factory=set)
    """Forms of prompts and responses: text, turns, tokens."""
    ends: Counter[int] = field(default_factory=Counter)
    """Last tokens of the responses that are not cut → how many."""
    prompts: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    """Digests of the prompts of training rows and of held-out rows, one per row."""
    comparison_digests: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    """Digests of (prompt, two responses) of every comparison, by which of the two is preferred."""

    def keep(self, record: Record, example: Example, held_out: bool) -> None:
        """Add a row that became an example."""
        self.accounting.keep(example, held_out)
        self.forms.add(record.form)
        self.ends.update(int(r.token_ids[-1]) for r in example.responses if r.ended)
        self.prompts[held_out].extend(digest(record.prompt_key.encode("utf-8", "surrogatepass")))
        for compared, preferred in comparison_digests(example):
            self.comparison_digests[preferred].extend(compared)

    def merge(self, later: "Findings") -> None:
        """Add the findings of later rows."""
        self.accounting.merge(later.accounting)
        self.forms |= later.forms
        self.ends.update(later.ends)
        for own, others in ((self.prompts, later.prompts), (self.comparison_digests, later.comparison_digests)):
            for digests, more in zip(own, others, strict=True):
                digests.extend(more)

    def to_facts(self) -> "DataFacts":
        """Return the facts, once all rows are merged."""
        trained, held_out = (distinct(digests) for digests in self.prompts)
        forward, backward = (distinct(digests) for digests in self.comparison_digests)
        return DataFacts(
            accounting=self.accounting,
            forms=frozenset(self.forms),
            end=self.ends.most_common(1)[0][0] if self.ends else None,
            num_prompts=len(trained),
            num_shared_prompts=len(np.intersect1d(trained, held_out, assume_unique=True)),
            num_opposed=len(np.intersect1d(forward, backward, assume_unique=True)),
        )


@dataclass(frozen=True)
class DataFacts:
    """Facts about all rows of a data set."""

    accounting: Accounting
    forms: frozenset[Form]
    end: int | None
    """The most frequent last token of responses that are not cut. None: all are cut."""
    num_prompts: int
    """Number of distinct prompts of training rows."""
    num_shared_prompts: int
    """How many of them are in held-out rows too."""
    num_opposed: int
    """Number of (prompt, a, b) where one row prefers a and another row prefers b."""

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_plain` reads them."""
        return {**vars(self), "accounting": self.accounting.to_plain(), "forms": sorted(self.forms)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "DataFacts":
        """Read what `to_plain` returned."""
        accounting = Accounting.from_plain(plain["accounting"])
        return cls(**{**plain, "accounting": accounting, "forms": frozenset(plain["forms"])})

    def end_token_id(self, encoder: Encoder) -> int:
        """Return the token that ends responses in this data.

        For token ids, and for conversations that end as they are rendered, it is the most frequent last token.
        """
        if "turns" in self.forms and not (encoder.reads_whole and self.end is not None):
            return encoder.turn_end_token_id
        if self.forms & {"tokens", "turns"} and self.end is not None:
            return self.end
        return encoder.end_token_id

    def check(self, settings: DataSettings, encoder: Encoder) -> None:
        """Raise if the data cannot be used for training.

        Raises:
            DataError: There are too many defects, no training row or no held-out row is left, or the rows end with
                different tokens.
            ConfigError: `assistant_turns` has no effect on these rows.
        """
        self.accounting.check_limit(settings.max_bad, settings.on_bad)
        if not self.accounting.kept_train:
            table = "\n".join(self.accounting.lines())
            raise DataError(f"no row is left to train on; the table shows the causes:\n{table}", code="no_rows_left")
        if settings.eval_fraction and not self.accounting.held_out:
            raise DataError(
                f"data.eval_fraction={settings.eval_fraction:g} holds out none of {self.num_prompts} prompts; "
                "raise it, or name separate held-out data: data.eval=FILE",
                code="nothing_held_out",
                key="data.eval_fraction",
            )
        if len(self.forms) == 2 and encoder.turn_end_token_id != encoder.end_token_id:
            raise DataError(
                "some rows are plain text and others conversations, but the two end with different tokens. Use only "
                "rows of one kind",
                code="text_and_conversations",
            )
        if settings.assistant_turns == "all" and self.forms != {"turns"}:
            raise ConfigError(
                "data.assistant_turns=all has no effect on plain text and token ids; it needs `messages`",
                code="no_effect",
                key="data.assistant_turns",
            )

    def notes(self, encoder: Encoder, unused: tuple[str, ...]) -> list[str]:
        """Return facts that the user must know, as sentences.

        Args:
            encoder: The encoder that tokenised the rows.
            unused: Columns that are not used.
        """
        end_token_id = self.end_token_id(encoder)
        end = encoder.tokenizer.convert_ids_to_tokens(end_token_id)
        notes = [f"responses end with {end!r} (token {end_token_id})"]
        if self.forms == {"turns"}:
            notes += _template_notes(encoder)
        elif encoder.begin_token_id is None and "empty_prompt" in self.accounting.changes:
            notes.append(f"rows without a prompt start with {encoder.decode([encoder.empty_prompt_id])!r}")
        if unused:
            notes.append(f"columns not used: {', '.join(unused)}")
        if self.num_shared_prompts:
            notes.append(
                f"{self.num_shared_prompts} held-out prompts are training prompts too, so held-out numbers are too good"
            )
        if self.num_opposed:
            notes.append(f"{self.num_opposed} pairs of responses are preferred in opposite order by different rows")
        return notes


def _template_notes(encoder: Encoder) -> list[str]:
    template = encoder.template
    assert template is not None
    notes = [f"chat template {template.digest}"]
    if encoder.turn_end_token_id != encoder.end_token_id:
        usual = encoder.tokenizer.convert_ids_to_tokens(encoder.end_token_id)
        notes.append(f"the chat template does not end responses with the model's own end token {usual!r}")
    if template.writes_date:
        notes.append(
            "the chat template writes today's date, so tokens and reference log-probabilities change every day; "
            "set a fixed date in data.chat_template_kwargs (often date_string)"
        )
    return notes
