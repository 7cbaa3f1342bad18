"""Collect facts about a data set per block of rows, and merge them: counts, formats, end tokens, duplicate prompts.

They are small: what must be compared across the whole data is held as digests of 16 bytes.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.example import Example
from tiltlm.core.notes import Note
from tiltlm.data.accounting import Accounting
from tiltlm.data.cache.fingerprints import comparison_digests, digest, distinct
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.rows.canonical import content_fingerprint
from tiltlm.data.rows.records import Form, Record
from tiltlm.data.tokens.encoder import Encoder

SOURCES = 100
"""Most sources that are listed: a column may name the page of each row."""


@dataclass
class Findings:
    """Facts about some rows, in a form that can be merged."""

    accounting: Accounting = field(default_factory=Accounting)
    forms: set[Form] = field(default_factory=set)
    """Forms of prompts and responses: text, turns, tokens."""
    num_wrapped: int = 0
    """Rows of text that were wrapped as turns."""
    num_transcripts: int = 0
    """Rows of text that are Anthropic's transcripts."""
    num_turned: int = 0
    """How many of them became messages."""
    labels: tuple[Counter[bool], Counter[bool]] = field(default_factory=lambda: (Counter(), Counter()))
    """Labels of training rows and of held-out rows → how many."""
    ends: Counter[int] = field(default_factory=Counter)
    """Last tokens of the responses that are not cut → how many."""
    prompts: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    """Digests of the prompts of training rows and of held-out rows, one per row."""
    comparison_digests: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    """Digests of (prompt, two responses) of every comparison, by which of the two is preferred."""
    num_compared: int = 0
    """Comparisons that prefer a response."""
    num_longer: float = 0.0
    """Those in which the longer response is preferred; equal lengths count ½."""
    content: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    """Digests of the content of training rows and of held-out rows, also of those that are left out later."""
    sources: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    """Sources of training rows and of held-out rows → how many."""
    entries: tuple[Counter[int], Counter[int]] = field(default_factory=lambda: (Counter(), Counter()))
    """Entries of `data.train` → number of training examples and of held-out examples from it."""

    def keep(self, record: Record, example: Example, held_out: bool) -> None:
        """Add a row that became an example."""
        self.entries[held_out][record.entry] += 1
        self.accounting.keep(example, held_out)
        self.forms.add(record.form)
        self.labels[held_out].update(example.labels)
        self.sources[held_out][example.source] += 1
        self.ends.update(int(r.token_ids[-1]) for r in example.responses if r.ended)
        self.prompts[held_out].extend(digest(record.prompt_key.encode("utf-8", "surrogatepass")))
        for compared, preferred in comparison_digests(example):
            self.comparison_digests[preferred].extend(compared)
        for c in example.comparisons:
            if not c.is_tie:
                better, worse = (len(example.responses[k].token_ids) for k in (c.chosen, c.rejected))
                self.num_compared += 1
                self.num_longer += 1.0 if better > worse else 0.5 * (better == worse)

    def merge(self, later: "Findings") -> None:
        """Add the findings of later rows."""
        self.accounting.merge(later.accounting)
        self.forms |= later.forms
        self.num_wrapped += later.num_wrapped
        self.num_transcripts += later.num_transcripts
        self.num_turned += later.num_turned
        for own_labels, more_labels in zip(self.labels, later.labels, strict=True):
            own_labels.update(more_labels)
        for own_sources, more_sources in zip(self.sources, later.sources, strict=True):
            own_sources.update(more_sources)
        for own_entries, more_entries in zip(self.entries, later.entries, strict=True):
            own_entries.update(more_entries)
        self.ends.update(later.ends)
        self.num_compared += later.num_compared
        self.num_longer += later.num_longer
        for own, others in (
            (self.prompts, later.prompts),
            (self.comparison_digests, later.comparison_digests),
            (self.content, later.content),
        ):
            for digests, more in zip(own, others, strict=True):
                digests.extend(more)

    def to_facts(self) -> "DataFacts":
        """Return the facts, once all rows are merged."""
        trained, held_out = (distinct(digests) for digests in self.prompts)
        forward, backward = (distinct(digests) for digests in self.comparison_digests)
        return DataFacts(
            accounting=self.accounting,
            forms=frozenset(self.forms),
            num_wrapped=self.num_wrapped,
            num_transcripts=self.num_transcripts,
            num_turned=self.num_turned,
            labels=tuple((counts[False], counts[True]) for counts in self.labels),
            end=self.ends.most_common(1)[0][0] if self.ends else None,
            num_prompts=len(trained),
            num_shared_prompts=len(np.intersect1d(trained, held_out, assume_unique=True)),
            num_opposed=len(np.intersect1d(forward, backward, assume_unique=True)),
            num_compared=self.num_compared,
            num_longer=self.num_longer,
            content=tuple(content_fingerprint(digests) if digests else "" for digests in self.content),
            sources=tuple(_largest(counts) for counts in self.sources),
            entries=tuple(tuple(counts[k] for k in range(max(counts, default=-1) + 1)) for counts in self.entries),
        )


def _largest(counts: Counter[str]) -> dict[str, int]:
    """Return the sources with most rows, the largest first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SOURCES])


@dataclass(frozen=True)
class DataFacts:
    """Facts about all rows of a data set."""

    accounting: Accounting
    forms: frozenset[Form]
    num_wrapped: int
    """Rows of text that were wrapped as turns."""
    num_transcripts: int
    """Rows of text that are Anthropic's transcripts."""
    num_turned: int
    """How many of them became messages."""
    labels: tuple[tuple[int, int], ...]
    """Number of undesirable and of desirable responses in training rows, then in held-out rows."""
    end: int | None
    """The most frequent last token of responses that are not cut. None: all are cut."""
    num_prompts: int
    """Number of distinct prompts of training rows."""
    num_shared_prompts: int
    """How many of them are in held-out rows too."""
    num_opposed: int
    """Number of (prompt, a, b) where one row prefers a and another row prefers b."""
    num_compared: int = 0
    """Comparisons that prefer a response."""
    num_longer: float = 0.0
    """Those in which the longer response is preferred; equal lengths count ½."""
    content: tuple[str, ...] = ("", "")
    """Fingerprint of the content of the training rows and of the held-out rows (`tiltlm.data.rows.canonical`); "" if
    there are none."""
    sources: tuple[Mapping[str, int], ...] = ({}, {})
    """Sources of the training rows and of the held-out rows with their numbers of rows, at most `SOURCES` of them."""
    entries: tuple[tuple[int, ...], ...] = ((), ())
    """Number of training examples and of held-out examples from each entry of `data.train`, which follow each other."""

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_plain` reads them."""
        return {**vars(self), "accounting": self.accounting.to_plain(), "forms": sorted(self.forms)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "DataFacts":
        """Read what `to_plain` returned."""
        accounting = Accounting.from_plain(plain["accounting"])
        labels = tuple((undesirable, desirable) for undesirable, desirable in plain["labels"])
        read = {"accounting": accounting, "forms": frozenset(plain["forms"]), "labels": labels}
        read |= {"content": tuple(plain["content"]), "sources": tuple(plain["sources"])}
        return cls(**{**plain, **read, "entries": tuple(map(tuple, plain["entries"]))})

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
            DataError: There are too many defects, no training row is left, labels mean more than two things, or the
                rows end with different tokens.
            ConfigError: `assistant_turns`, `as_chat` or a setting of the chat template has no effect on these rows.
        """
        self.accounting.check_limit(settings.max_bad, settings.on_bad)
        if not self.accounting.kept_train:
            table = "\n".join(self.accounting.lines())
            raise DataError(f"no row is left to train on; the table shows the causes:\n{table}", code="no_rows_left")
        self._check_labels()
        self._check_chat(settings, encoder)
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

    def check_parts(self, settings: DataSettings) -> None:
        """Raise if the training rows have one label, or if rows should be held out, but none are.

        Raises:
            DataError: All labels are equal, or no prompt was chosen.
        """
        refuse_one_label(*self.labels[0])
        if not settings.eval_fraction or self.accounting.held_out:
            return
        if self.num_prompts == 1:
            problem = "all rows have the same prompt, and prompts are held out whole. Set data.eval_fraction=0"
        else:
            share = f"data.eval_fraction={settings.eval_fraction:g}"
            problem = f"{share} holds out none of {self.num_prompts} prompts; raise it"
        raise DataError(
            f"{problem}, or name separate held-out data: data.eval=FILE",
            code="nothing_held_out",
            key="data.eval_fraction",
        )

    def check_form(self, settings: DataSettings) -> None:
        """Raise if the form of the text is unclear to which the data's reference log-probabilities belong.

        Raises:
            ConfigError: Text was wrapped as turns, but no setting says so.
        """
        is_said = settings.transcripts is not None and self.num_wrapped == self.num_turned
        if self.num_wrapped and settings.as_chat is None and not is_said:
            raise ConfigError(
                "reference=columns: the log-probabilities belong either to the text as it is or to the turns of the "
                "chat template. Say which: data.as_chat=false or data.as_chat=true",
                code="missing_setting",
                key="data.as_chat",
            )

    def _check_labels(self) -> None:
        """Raise if labels mean more than two things."""
        minus = self.accounting.changes.get("minus_one")
        if minus is not None and minus.count < sum(undesirable for undesirable, _ in self.labels):
            raise DataError(
                f"labels are −1 in some rows, such as {minus.examples[0]}, and 0 or false in others. If 0 means "
                "neither, remove these rows",
                code="mixed_labels",
                key="data.columns.label",
            )

    def _check_chat(self, settings: DataSettings, encoder: Encoder) -> None:
        """Raise if a setting about conversations has no effect on these rows."""
        seen = (
            "token ids" if self.forms == {"tokens"} else "plain text" if "turns" not in self.forms else "conversations"
        )
        if settings.as_chat is False and "text" not in self.forms:
            refuse_no_effect("as_chat", f"the rows are {seen}")
        if settings.as_chat is False and not encoder.has_template:
            refuse_no_effect("as_chat", "the tokenizer has no chat template, so text stays text")
        if settings.as_chat and not self.num_wrapped:
            missing = seen == "plain text" and not encoder.has_template
            refuse_no_effect("as_chat", "the tokenizer has no chat template" if missing else f"the rows are {seen}")
        if settings.transcripts is not None and not self.num_transcripts:
            refuse_no_effect("transcripts", "no row is a transcript with `Human:` and `Assistant:`")
        if settings.transcripts is not None and not encoder.has_template:
            refuse_no_effect("transcripts", "the tokenizer has no chat template, so text stays text")
        if settings.transcripts == "text" and settings.as_chat is False:
            refuse_no_effect("transcripts", "data.as_chat=false keeps all text")
        if "turns" not in self.forms:
            for name in ("chat_template", "chat_template_kwargs"):
                if getattr(settings, name):
                    refuse_no_effect(name, f"the rows are {seen}")

    def notes(self, encoder: Encoder, unused: tuple[str, ...]) -> list[Note]:
        """Return facts that the user must know, as sentences.

        Args:
            encoder: The encoder that tokenised the rows.
            unused: Columns that are not used.
        """
        end_token_id = self.end_token_id(encoder)
        end = encoder.tokenizer.convert_ids_to_tokens(end_token_id)
        notes = [Note(f"responses end with {end!r} (token {end_token_id})", code="response_end")]
        if self.forms == {"turns"}:
            notes += _template_notes(encoder)
        elif encoder.begin_token_id is None and "empty_prompt" in self.accounting.changes:
            start = encoder.decode([encoder.empty_prompt_id])
            notes.append(Note(f"rows without a prompt start with {start!r}", "empty_prompt"))
        if self.num_turned:
            text = (
                f"{self.num_turned} transcripts became messages, one for each turn, because there is a chat template; "
                "data.transcripts=text keeps them"
            )
            notes.append(Note(text, "transcripts"))
        if num_others := self.num_wrapped - self.num_turned:
            text = (
                f"{num_others} rows of text were wrapped as turns of a user and an assistant, because there is a chat "
                "template; data.as_chat=false keeps text"
            )
            notes.append(Note(text, "as_chat"))
        if sum(self.labels[1]) > 0 and 0 in self.labels[1]:
            label = "false" if self.labels[1][0] else "true"
            notes.append(Note(f"all held-out responses have the label {label}, so they cannot be ranked", "one_label"))
        if unused:
            notes.append(Note(f"columns not used: {', '.join(unused)}", "unused_columns"))
        if self.num_shared_prompts:
            text = (
                f"{self.num_shared_prompts} held-out prompts are training prompts too, so held-out numbers are too good"
            )
            notes.append(Note(text, "shared_prompts"))
        if self.num_opposed:
            text = f"{self.num_opposed} pairs of responses are preferred in opposite order by different rows"
            notes.append(Note(text, "opposed_pairs"))
        return notes


def refuse_one_label(undesirable: int, desirable: int) -> None:
    """Raise if there are labels, but all are equal: nothing says which responses are better than others.

    Args:
        undesirable: Number of training responses with the label false.
        desirable: Number of training responses with the label true.
    """
    if max(undesirable, desirable) > 0 == min(undesirable, desirable):
        label, way_out = ("true", ". To imitate them, use sft: data.ignore=[label]") if desirable else ("false", "")
        raise DataError(
            f"the label of all {undesirable + desirable} training responses is {label}, but both kinds are "
            f"needed{way_out}",
            code="one_label",
            key="data.columns.label",
        )


def refuse_no_effect(name: str, reason: str) -> NoReturn:
    """Raise the error for a setting that has no effect."""
    raise ConfigError(f"data.{name} has no effect, because {reason}; remove it", code="no_effect", key=f"data.{name}")


def _template_notes(encoder: Encoder) -> list[Note]:
    template = encoder.template
    assert template is not None
    notes = [Note(f"chat template {template.digest}", code="chat_template")]
    if encoder.turn_end_token_id != encoder.end_token_id:
        usual = encoder.tokenizer.convert_ids_to_tokens(encoder.end_token_id)
        text = f"the chat template does not end responses with the model's own end token {usual!r}"
        notes.append(Note(text, "other_end_token"))
    if template.writes_date:
        text = (
            "the chat template writes today's date, so tokens and reference log-probabilities change every day; "
            "set a fixed date in data.chat_template_kwargs (often date_string)"
        )
        notes.append(Note(text, "template_writes_date"))
    return notes
