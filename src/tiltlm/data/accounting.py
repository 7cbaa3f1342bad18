"""What became of every row: kept, changed or lost, by cause, with examples of each.

Nothing is left out in silence. The table is printed, kept in the run directory, and decides whether a run starts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from tiltlm.core.errors import DataError
from tiltlm.core.example import Example
from tiltlm.data.data_settings import OnBad

LOSSES = {
    "malformed_json": "the line is no JSON value, or the compressed file ends early",
    "malformed_csv": "the row has more or fewer fields than the header",
    "invalid_unicode": "the bytes are no UTF-8, or the text holds half a surrogate pair",
    "wrong_type": "a value has another type than its column's role; see the columns in the documentation",
    "missing_value": "a value that this kind of row needs is absent or null",
    "empty_response": "a response is null, empty or blank",
    "identical_responses": "chosen and rejected are the same, so there is nothing to prefer",
    "no_common_prompt": "chosen and rejected do not agree up to their last assistant turn; give a `prompt` column",
    "no_comparison": "fewer than two responses, or all of them tie, so there is nothing to prefer",
    "score_tie": "the chosen response scores no higher than the rejected one, and this objective reads how much "
    "higher; repair the scores, or use an objective without them (dpo)",
    "soft_label": "only a certain preference (1 or 0) or a tie (0.5) is an order of two responses; leave the column "
    "out with data.ignore, or use an objective of pairs (dpo)",
    "no_answer": "the conversation does not end in an assistant's turn",
    "template_rewrites": "the chat template renders the prompt differently once the answer follows; "
    "set data.chat_template or data.chat_template_kwargs",
    "template_error": "the chat template refuses this conversation",
    "boundary": "no tokens for the answer continue the prompt's tokens and spell the same text",
    "unknown_token": "a token id is not in the tokenizer's vocabulary; were the ids made by another tokenizer?",
    "wrong_end": "a response of token ids ends otherwise than its row says; correct the flag or the ids",
    "end_inside": "a response goes on after its end token; give `messages`, or one response a row",
    "answer_too_long": "an answer does not fit data.max_length, even with its prompt cut; raise it, or cut "
    "answers: data.truncation=right_response",
    "prompt_too_long": "the prompt alone fills data.max_length",
    "reference_of_other_tokens": "the row was cut, so its reference column is about other tokens",
    "too_long": "longer than data.max_length, and data.truncation=drop",
}
"""Why a row is left out, and what can be done."""

BY_POLICY = frozenset({"too_long"})
"""Losses that a setting asks for; they are no defects."""

CHANGES = {
    "turns_cut": "the oldest turns of a conversation are left out to fit data.max_length",
    "prompt_cut_left": "the start of the prompt is cut to fit data.max_length",
    "answer_cut_right": "an answer is cut to fit data.max_length and has no end token",
    "boundary_merge": "a token would have spanned prompt and answer; the answer is tokenised on its own",
    "empty_prompt": "the prompt is empty; the beginning token stands for it",
    "identical_comparison": "a comparison between two equal responses is left out",
    "tie": "responses of equal rank or score are not compared",
}
"""What was changed in a row that is kept."""

SHOWN = 5


class Defect(Exception):
    """A single row that cannot be used; `code` is a key of `LOSSES`."""

    def __init__(self, code: str, detail: str = "") -> None:
        assert code in LOSSES, code
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def excerpt(value: object, width: int = 60) -> str:
    """A short, one-line picture of a value."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


@dataclass
class RowCounts:
    """How many rows, and the first few of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, location: str, detail: str) -> None:
        self.count += 1
        if len(self.examples) < SHOWN:
            self.examples.append(f"{location}: {detail}" if detail else location)

    def merge(self, later: "RowCounts") -> None:
        """Take in the count of later rows."""
        self.count += later.count
        self.examples = [*self.examples, *later.examples][:SHOWN]


@dataclass
class Accounting:
    """The books of one data set. `total == kept_train + held_out + dropped` once loading is done."""

    total: int = 0
    """Rows read."""
    kept_train: int = 0
    held_out: int = 0
    losses: dict[str, RowCounts] = field(default_factory=dict)
    changes: dict[str, RowCounts] = field(default_factory=dict)
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    """How many prompts and responses kept have so many tokens, by what they are."""

    @property
    def kept(self) -> int:
        return self.kept_train + self.held_out

    @property
    def dropped(self) -> int:
        return sum(t.count for t in self.losses.values())

    @property
    def defects(self) -> int:
        """Rows dropped for what is wrong with them, not by a policy."""
        return sum(t.count for cause, t in self.losses.items() if cause not in BY_POLICY)

    def drop(self, location: str, defect: Defect) -> None:
        """Book a row as lost."""
        self.losses.setdefault(defect.code, RowCounts()).add(location, defect.detail)

    def change(self, location: str, causes: Iterable[str]) -> None:
        """Book what was changed in a row, each cause once a row."""
        for cause in sorted(set(causes)):
            assert cause in CHANGES, cause
            self.changes.setdefault(cause, RowCounts()).add(location, "")

    def keep(self, example: Example, held_out: bool) -> None:
        """Book a row as kept, with the lengths of its parts."""
        if held_out:
            self.held_out += 1
        else:
            self.kept_train += 1
        self._measure("prompt", len(example.prompt_ids))
        for role, response in zip(example.roles, example.responses, strict=True):
            self._measure(role, len(response.token_ids))

    def _measure(self, what: str, length: int) -> None:
        self.lengths.setdefault(what, Counter())[length] += 1

    def merge(self, later: "Accounting") -> None:
        """Take in the books of later rows: as if all had been booked here, one after another."""
        self.total += later.total
        self.kept_train += later.kept_train
        self.held_out += later.held_out
        for own, others in ((self.losses, later.losses), (self.changes, later.changes)):
            for cause, tally in others.items():
                own.setdefault(cause, RowCounts()).merge(tally)
        for what, lengths in later.lengths.items():
            self.lengths.setdefault(what, Counter()).update(lengths)

    def check_limit(self, max_bad: float, on_bad: OnBad) -> None:
        """Stop where defects are more than the settings allow.

        Raises:
            DataError: any defect under `on_bad="error"`, or a share of defects above `max_bad`; names causes and rows.
        """
        if not self.defects or (on_bad == "drop" and self.defects <= max_bad * self.total):
            return
        rule = "data.on_bad=error allows none"
        if on_bad == "drop":
            rule = f"data.max_bad={max_bad:g} allows {max_bad:.1%}"
        lines = [f"{self.defects} of {self.total} rows ({self.defects / self.total:.1%}) cannot be used; {rule}."]
        for cause, tally in self._by_count(self.losses):
            if cause not in BY_POLICY:
                lines.append(f"  {cause} × {tally.count}: {LOSSES[cause]}")
                lines += [f"    {example}" for example in tally.examples]
        way_out = "Repair the rows, or leave them out: data.on_bad=drop"
        if on_bad == "drop":
            way_out = f"Repair the rows, or raise data.max_bad to {ceil(100 * self.defects / self.total) / 100:.2f}"
        key = "data.max_bad" if on_bad == "drop" else "data.on_bad"
        raise DataError("\n".join([*lines, way_out + "."]), code="too_many_defects", key=key)

    @staticmethod
    def _by_count(tallies: dict[str, RowCounts]) -> list[tuple[str, RowCounts]]:
        return sorted(tallies.items(), key=lambda item: (-item[1].count, item[0]))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

        def plain(tallies: dict[str, RowCounts], meaning: dict[str, str]) -> dict[str, Any]:
            return {
                cause: {"rows": t.count, "meaning": meaning[cause], "examples": list(t.examples)}
                for cause, t in self._by_count(tallies)
            }

        return {
            "total": self.total,
            "kept": self.kept,
            "train": self.kept_train,
            "held_out": self.held_out,
            "dropped": self.dropped,
            "losses": plain(self.losses, LOSSES),
            "changes": plain(self.changes, CHANGES),
            "tokens": {what: summary(lengths) for what, lengths in self.lengths.items()},
        }

    def to_plain(self) -> dict[str, Any]:
        """Everything, as values for JSON that `from_plain` reads."""
        return {
            "total": self.total,
            "kept_train": self.kept_train,
            "held_out": self.held_out,
            "losses": {cause: vars(tally) for cause, tally in self.losses.items()},
            "changes": {cause: vars(tally) for cause, tally in self.changes.items()},
            "lengths": {what: sorted(lengths.items()) for what, lengths in self.lengths.items()},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Accounting":
        """Undo `to_plain`."""
        tallies = {part: {cause: RowCounts(**t) for cause, t in plain[part].items()} for part in ("losses", "changes")}
        lengths = {what: Counter(dict(pairs)) for what, pairs in plain["lengths"].items()}
        return cls(plain["total"], plain["kept_train"], plain["held_out"], **tallies, lengths=lengths)

    def lines(self) -> list[str]:
        """The books as a plain table."""
        share = max(self.total, 1)
        rows = [("rows read", self.total, ""), ("train", self.kept_train, ""), ("held out", self.held_out, "")]
        for title, tallies in (("dropped", self.losses), ("changed", self.changes)):
            for cause, tally in self._by_count(tallies):
                rows.append((f"{title}: {cause}", tally.count, tally.examples[0]))
        lines = [f"{name:<32} {n:>9,} {n / share:>7.1%}  {example}".rstrip() for name, n, example in rows]
        for what, lengths in self.lengths.items():
            s = summary(lengths)
            tokens = f"mean {s['mean']:.0f}, median {s['median']:.0f}, 95 % {s['p95']:.0f}, max {s['max']:.0f}"
            lines.append(f"{'tokens: ' + what:<32} {tokens}")
        return lines


def summary(lengths: Mapping[int, int]) -> dict[str, float]:
    """Mean, median, 95th percentile and maximum of lengths, each with how many there are."""
    values = np.repeat(list(lengths.keys()), list(lengths.values()))
    median, p95 = np.percentile(values, [50, 95])
    return {"mean": float(values.mean()), "median": float(median), "p95": float(p95), "max": float(values.max())}
