"""Count what happened to every row: kept, changed or left out, by cause, with the first rows of each cause.

The table is printed, written to the run directory, and decides whether a run starts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from tiltlm.core.errors import DataError
from tiltlm.core.example import Example
from tiltlm.core.notes import Note
from tiltlm.data.data_settings import OnBad

LOSSES = {
    "malformed_json": "the line is not valid JSON; repair or delete it",
    "malformed_csv": "the row has more or fewer fields than the header; check its quotes and commas",
    "row_too_large": "the row is larger than data.max_row_mb; split it, or raise data.max_row_mb",
    "damaged_file": "the compressed file is damaged, and how many rows are lost is unknown; copy or download it again",
    "invalid_unicode": "the bytes are not UTF-8, or the text has half of a surrogate pair; convert the file, for "
    "example iconv -f LATIN1 -t UTF-8 FILE > NEW_FILE",
    "wrong_type": "a value has the wrong type for its column; the documentation of data lists the columns",
    "missing_value": "a required value is missing or null; add it, or delete the row",
    "empty_response": "a response is missing, empty or only white space",
    "identical_responses": "chosen and rejected are equal, so the row has no preference",
    "no_common_prompt": "chosen and rejected differ before their last assistant turn, so the prompt cannot be found; "
    "add a `prompt` column",
    "prompt_mismatch": "the response is a whole conversation, but it does not begin with the row's prompt; if "
    "the conversations have all turns, leave the prompt out: data.ignore=[prompt]",
    "no_comparison": "the row has fewer than two responses, or all of them are tied, so it has no preference",
    "small_gap": "no two scores differ by data.min_gap or more, and data.comparisons=gap compares no others",
    "score_tie": "the score of the chosen response is not above the score of the rejected one, and this objective "
    "needs the difference; correct the scores, or use an objective without scores (dpo)",
    "soft_label": "this objective needs the order of the two responses, so `preference` must be 1, 0 or 0.5 (a tie); "
    "leave the column out with data.ignore, or use an objective of pairs (dpo)",
    "no_response": "the conversation must end with an assistant turn",
    "no_turns": "`system`, `tools` and `chat_template_kwargs` have no effect on plain text; set data.chat_template, or "
    "leave these columns out with data.ignore",
    "template_rewrites": "the chat template changes the text of the prompt when the response is added; "
    "set data.chat_template or data.chat_template_kwargs",
    "template_error": "the chat template raises an error for this conversation; set data.chat_template, or correct "
    "the row",
    "boundary": "the response cannot be tokenised after its prompt without changing the prompt's tokens or the text",
    "unknown_token": "the tokenizer or the model has no such token id; were the ids made by another tokenizer?",
    "wrong_end": "the last token id of a response contradicts the row's `ended` value; correct one of them",
    "end_inside": "the response has text after an end token; give `messages`, or one response per row",
    "response_too_long": "the response does not fit in data.max_length, even with a shortened prompt; raise "
    "data.max_length, or shorten responses: data.truncation=right_response",
    "prompt_too_long": "the prompt leaves no room for a response in data.max_length; raise data.max_length",
    "reference_of_other_tokens": "the row was shortened, so its reference log-probabilities belong to other tokens; "
    "raise data.max_length, or choose another reference than reference=columns",
    "prompt_above_window": "the prompt and the new tokens are more than the model's window; lower "
    "sampling.max_new_tokens, or shorten the prompt",
    "ches_above_limit": "the policy sees the two responses as alike, and data.max_ches leaves the most alike ones out",
    "above_cap": "its source has more rows than its cap in data.train; a hash chose the rows that are used",
    "too_long": "the row is longer than data.max_length, and data.truncation=drop leaves such rows out",
}
"""Causes for leaving a row out, and what the user can do."""

BY_POLICY = frozenset({"too_long", "prompt_above_window", "ches_above_limit", "small_gap", "above_cap"})
"""Causes that a setting asks for; they are not defects."""

CHANGES = {
    "turns_cut": "the oldest turns of the conversation were removed to fit data.max_length",
    "prompt_cut_left": "the first tokens of the prompt were removed to fit data.max_length",
    "response_cut_right": "the last tokens of a response were removed to fit data.max_length; it has no end token",
    "boundary_merge": "a token would have covered the end of the prompt and the start of the response, so the response "
    "was tokenised separately",
    "empty_prompt": "the prompt is empty; the beginning token (or else the end token) takes its place",
    "identical_comparison": "a comparison of two equal responses was left out",
    "minus_one": "the label −1 was read as undesirable",
    "tools_left_out": "the row has tools or tool calls, and the chat template does not write them; data.chat_template "
    "names another template",
    "tie": "responses of equal rank or score are not compared",
}
"""Changes to rows that are kept."""

SHOWN = 5
"""Rows named for each cause."""

ROLES = ("prompt", "chosen", "rejected", "both", "desirable", "undesirable", "response")
"""Roles of texts, in the order in which their lengths are shown."""


class Defect(Exception):
    """A row that cannot be used."""

    def __init__(self, code: str, detail: str = "") -> None:
        """Make a defect.

        Args:
            code: A key of `LOSSES`.
            detail: What was seen in the row, shown after its location.
        """
        assert code in LOSSES, code
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def excerpt(value: object, width: int = 60) -> str:
    """Return a value as one line of at most `width` characters."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


@dataclass
class RowCounts:
    """The number of rows with one cause, and the first `SHOWN` of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, location: str, detail: str) -> None:
        """Count a row."""
        self.count += 1
        if len(self.examples) < SHOWN:
            self.examples.append(f"{location}: {detail}" if detail else location)

    def merge(self, later: "RowCounts") -> None:
        """Add the count of later rows."""
        self.count += later.count
        self.examples = [*self.examples, *later.examples][:SHOWN]


@dataclass
class Accounting:
    """Row counts of one data set. After loading, `total == kept_train + held_out + dropped`."""

    total: int = 0
    """Rows read."""
    kept_train: int = 0
    held_out: int = 0
    losses: dict[str, RowCounts] = field(default_factory=dict)
    changes: dict[str, RowCounts] = field(default_factory=dict)
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    """Histograms of token counts of the kept rows: role (prompt, chosen, …) → number of tokens → how many."""

    @property
    def kept(self) -> int:
        """Rows kept, training and held out."""
        return self.kept_train + self.held_out

    @property
    def dropped(self) -> int:
        """Rows left out, for any cause."""
        return sum(t.count for t in self.losses.values())

    @property
    def defects(self) -> int:
        """Rows left out because they are defective, not because a setting says so."""
        return sum(t.count for cause, t in self.losses.items() if cause not in BY_POLICY)

    def drop(self, location: str, defect: Defect) -> None:
        """Count a row that is left out."""
        self.losses.setdefault(defect.code, RowCounts()).add(location, defect.detail)

    def change(self, location: str, causes: Iterable[str]) -> None:
        """Count the changes to a row, each cause at most once per row."""
        for cause in sorted(set(causes)):
            assert cause in CHANGES, cause
            self.changes.setdefault(cause, RowCounts()).add(location, "")

    def keep(self, example: Example, held_out: bool) -> None:
        """Count a kept row and the lengths of its prompt and responses."""
        if held_out:
            self.held_out += 1
        else:
            self.kept_train += 1
        self._measure("prompt", len(example.prompt_ids))
        for role, response in zip(example.roles, example.responses, strict=True):
            self._measure(role, len(response.token_ids))

    def leave_out(self, example: Example, code: str, detail: str, *, held_out: bool = False) -> None:
        """Count a row as left out that was counted as kept; a training row, or one that is held out."""
        self.kept_train -= not held_out
        self.held_out -= held_out
        self._measure("prompt", len(example.prompt_ids), -1)
        for role, response in zip(example.roles, example.responses, strict=True):
            self._measure(role, len(response.token_ids), -1)
        self.drop(example.id, Defect(code, detail))

    def _measure(self, role: str, length: int, times: int = 1) -> None:
        counts = self.lengths.setdefault(role, Counter())
        counts[length] += times
        if not counts[length]:
            del counts[length]

    def merge(self, later: "Accounting") -> None:
        """Add the counts of later rows. The result is as if all rows had been counted here in order."""
        self.total += later.total
        self.kept_train += later.kept_train
        self.held_out += later.held_out
        for own, others in ((self.losses, later.losses), (self.changes, later.changes)):
            for cause, counts in others.items():
                own.setdefault(cause, RowCounts()).merge(counts)
        for role, lengths in later.lengths.items():
            self.lengths.setdefault(role, Counter()).update(lengths)

    def check_limit(self, max_bad: float, on_bad: OnBad) -> None:
        """Raise if there are more defects than the settings allow.

        Raises:
            DataError: There is a defect under `on_bad="error"`, or the share of defects is above `max_bad`.
        """
        if not self.defects or (on_bad == "drop" and self.defects <= max_bad * self.total):
            return
        rule = "data.on_bad=error allows no defective row"
        if on_bad == "drop":
            rule = f"data.max_bad={max_bad:g} allows at most {max_bad:.1%}"
        rule = "" if self.defects == self.total else f"; {rule}"
        lines = [f"{self.defects} of {self.total} rows ({self.defects / self.total:.1%}) cannot be used{rule}."]
        for cause, counts in self._by_count(self.losses):
            if cause not in BY_POLICY:
                lines.append(f"  {cause} × {counts.count}: {LOSSES[cause]}")
                lines += [f"    {example}" for example in counts.examples]
        key = "data.max_bad" if on_bad == "drop" else "data.on_bad"
        if 2 * self.defects > self.total:  # such rows have another form; a setting that drops them is no way out
            way_out = "Correct the rows, or name their columns: data.columns"
        elif on_bad == "drop":
            way_out = f"Correct the rows, or raise data.max_bad to {ceil(100 * self.defects / self.total) / 100:.2f}"
        else:
            way_out = "Correct the rows, or leave them out: data.on_bad=drop"
        raise DataError("\n".join([*lines, way_out + "."]), code="too_many_defects", key=key)

    @staticmethod
    def _by_count(causes: dict[str, RowCounts]) -> list[tuple[str, RowCounts]]:
        return sorted(causes.items(), key=lambda item: (-item[1].count, item[0]))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the run directory's JSON, with the meaning of each cause."""

        def plain(causes: dict[str, RowCounts], meaning: dict[str, str]) -> dict[str, Any]:
            return {
                cause: {"rows": counts.count, "meaning": meaning[cause], "examples": list(counts.examples)}
                for cause, counts in self._by_count(causes)
            }

        return {
            "total": self.total,
            "kept": self.kept,
            "train": self.kept_train,
            "held_out": self.held_out,
            "dropped": self.dropped,
            "losses": plain(self.losses, LOSSES),
            "changes": plain(self.changes, CHANGES),
            "tokens": {role: summary(self.lengths[role]) for role in ROLES if role in self.lengths},
        }

    def to_plain(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; `from_plain` reads them."""
        return {
            "total": self.total,
            "kept_train": self.kept_train,
            "held_out": self.held_out,
            "losses": {cause: vars(counts) for cause, counts in self.losses.items()},
            "changes": {cause: vars(counts) for cause, counts in self.changes.items()},
            "lengths": {role: sorted(lengths.items()) for role, lengths in self.lengths.items()},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Accounting":
        """Read what `to_plain` returned."""
        causes = {part: {cause: RowCounts(**c) for cause, c in plain[part].items()} for part in ("losses", "changes")}
        lengths = {role: Counter(dict(pairs)) for role, pairs in plain["lengths"].items()}
        return cls(plain["total"], plain["kept_train"], plain["held_out"], **causes, lengths=lengths)

    def lines(self) -> list[str]:
        """Return the counts as a plain-text table."""
        total = max(self.total, 1)
        rows = [("rows read", self.total, ""), ("train", self.kept_train, ""), ("held out", self.held_out, "")]
        for title, causes in (("dropped", self.losses), ("changed", self.changes)):
            for cause, counts in self._by_count(causes):
                rows.append((f"{title}: {cause}", counts.count, counts.examples[0]))
        lines = [f"{name:<32} {n:>9,} {n / total:>7.1%}  {example}".rstrip() for name, n, example in rows]
        for role in filter(self.lengths.__contains__, ROLES):
            s = summary(self.lengths[role])
            tokens = f"mean {s['mean']:.0f}, median {s['median']:.0f}, 95 % {s['p95']:.0f}, max {s['max']:.0f}"
            lines.append(Note(f"{'tokens: ' + role:<32} {tokens}", code="token_lengths"))
        return lines


def summary(lengths: Mapping[int, int]) -> dict[str, float]:
    """Return mean, median, 95th percentile and maximum of a histogram (length → how many)."""
    values = np.repeat(list(lengths.keys()), list(lengths.values()))
    median, p95 = np.percentile(values, [50, 95])
    return {"mean": float(values.mean()), "median": float(median), "p95": float(p95), "max": float(values.max())}
