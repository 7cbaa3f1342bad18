"""Checks of what responses and labels say as a whole: style, labels, scores and sources."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Self

from tiltlm.data.accounting import excerpt
from tiltlm.data.quality.checked_row import Check, CheckedRow, Mark, Marked
from tiltlm.data.quality.rules import FEW, Finding, Rule
from tiltlm.estimates.intervals import Interval
from tiltlm.estimates.unit_sums import UnitSums

DIFFERENT = 0.1
"""Difference of two rates from which a style is a bias, if its interval excludes 0."""
FEW_OF_A_LABEL = 0.1
"""Share of the rarer label below which the labels are unbalanced."""
ONE_SOURCE = 0.9
"""Share of the largest source above which the sources are unbalanced."""

STYLES: dict[str, tuple[re.Pattern[str], str]] = {
    "lists": (re.compile(r"^[ \t]*(?:[-*•+]|\d{1,3}[.)])[ \t]+\S", re.M), "have a list"),
    "markdown": (re.compile(r"^#{1,6} \S|\*\*\S|^```|^\|.*\|[ \t]*$", re.M), "have Markdown: headings, bold, tables"),
    "refusals": (
        re.compile(
            r"\s*(?:i['’]?m (?:really |very |so )?sorry|sorry|i apologi[sz]e|i (?:can['’]?t|cannot|can not|won['’]?t"
            r"|am (?:unable|not able)|['’]?m (?:unable|not able))|i['’]m (?:unable|not able)|as an ai\b)",
            re.I,
        ),
        "begin with a refusal",
    ),
}
"""Style → where it is found, and what is said of such responses. A refusal stands at the beginning."""
IDENTITY = re.compile(
    r"\bas an? (?:large |AI )?language model\b|\bChatGPT\b|\b(?:trained|created|made|developed) by (?:OpenAI|Anthropic"
    r"|Google|Meta|Mistral|Alibaba|DeepSeek)\b|\bI(?:['’]m| am) (?:Claude|Gemini|Bard|Qwen|Llama|DeepSeek|GPT-?\d)\b",
    re.I,
)


class Style(Check):
    """D11: how often preferred and other responses have a style, and responses that name another model."""

    rules = (
        *(
            Rule(
                f"style_{style}",
                "D11",
                "warning",
                f"preferred responses {found} more often than the others, or less often",
                "see whether this is what is meant; a policy learns the style first",
                unit="comparisons",
            )
            for style, (_, found) in STYLES.items()
        ),
        Rule(
            "model_identity",
            "D11",
            "warning",
            "a response that is learned says that it is a certain model, or by whom it was made",
            "replace the name, or delete the row: a policy learns to say it of itself",
        ),
    )

    def __init__(self) -> None:
        self._sums = UnitSums(3 * len(STYLES))
        self._differ = [0] * len(STYLES)

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Compare the styles of compared responses, and mark those that name a model."""
        has = [
            [bool(pattern.match(t) if style == "refusals" else pattern.search(t)) for t in row.responses]
            for style, (pattern, _) in STYLES.items()
        ]
        for c in row.comparisons:
            values: list[float] = []
            for place, found in enumerate(has):
                better, worse = found[c.chosen], found[c.rejected]
                values += (better, worse, better - worse)
                self._differ[place] += better != worse
            self._sums.add(values, row.record.prompt_key)
        for k in sorted(learned(row)):
            if match := IDENTITY.search(row.responses[k]):
                yield Mark("model_identity", f"{row.name(k)}: {excerpt(match[0])}")
                return

    def merge(self, later: Self, offset: int) -> None:
        """Add the comparisons of later rows."""
        del offset
        self._sums.merge(later._sums)
        self._differ = [own + more for own, more in zip(self._differ, later._differ, strict=True)]

    @cached_property
    def rates(self) -> dict[str, tuple[Interval, Interval]]:
        """The rate of each style in preferred and in other responses, of all rows; nothing without comparisons."""
        if not self._sums.num_rows:
            return {}
        return {s: (self._sums.share(3 * k), self._sums.share(3 * k + 1)) for k, s in enumerate(STYLES)}

    def findings(self, marked: Marked) -> Iterator[Finding]:
        """Say which styles differ."""
        del marked
        if self._sums.num_rows < FEW:
            return
        for k, (style, (better, worse)) in enumerate(self.rates.items()):
            if abs(better.estimate - worse.estimate) < DIFFERENT:
                continue
            gap = self._sums.ratio(3 * k + 2)
            if gap.excludes_zero:
                detail = f"{better.estimate:.1%} of preferred responses, {worse.estimate:.1%} of the others"
                numbers = {"preferred": better, "others": worse, "difference": gap}
                rule, total = self.rule(f"style_{style}"), self._sums.num_rows
                yield Finding(rule, self._differ[k], total, detail=detail, numbers=numbers)


def learned(row: CheckedRow) -> set[int]:
    """Return the responses that training makes more probable."""
    record = row.record
    if row.comparisons:
        return {c.chosen for c in row.comparisons}
    if record.labels:
        return {k for k, label in enumerate(record.labels) if label}
    return {0} if len(row.responses) == 1 else set()


class Labels(Check):
    """D12: labels, ties, scores against labels, and sources."""

    rules = (
        Rule(
            "one_label",
            "D12",
            "error",
            "all labels are equal, so nothing says which responses are better",
            "add rows with the other label, or use sft and ignore the label: data.ignore=[label]",
            unit="labels",
        ),
        Rule(
            "unbalanced_labels",
            "D12",
            "warning",
            "one label is rare",
            "weight the labels: kto has desirable_weight and undesirable_weight",
            unit="labels",
        ),
        Rule("tied_pair", "D12", "note", "the label prefers neither response (preference ½)", "ties need no change"),
        Rule(
            "score_contradicts",
            "D12",
            "warning",
            "the preferred response has the lower score",
            "see which of the two is right: label or scores",
        ),
        Rule(
            "equal_scores",
            "D12",
            "warning",
            "the two responses have the same score, but one is preferred",
            "use `preference` ½ for a tie, or leave the row out; an objective that reads scores does so",
        ),
        Rule(
            "unbalanced_sources",
            "D12",
            "note",
            "almost all rows are from one of the sources",
            "weight or cap the sources, if each of them should count",
        ),
    )

    def __init__(self) -> None:
        self.labels: Counter[bool] = Counter()
        self.sources: Counter[str] = Counter()

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Count labels and sources, and mark ties and scores that do not fit their labels."""
        record = row.record
        if not row.from_eval:
            self.labels.update(record.labels)
        self.sources[record.source] += 1
        if record.comparisons and not row.comparisons:
            yield Mark("tied_pair")
        if record.scores and len(record.comparisons) == 1 and row.comparisons:
            c = row.comparisons[0]
            better, worse = record.scores[c.chosen], record.scores[c.rejected]
            if better <= worse:
                yield Mark("score_contradicts" if better < worse else "equal_scores", f"scores {better:g}, {worse:g}")

    def merge(self, later: Self, offset: int) -> None:
        """Add the counts of later rows."""
        del offset
        self.labels.update(later.labels)
        self.sources.update(later.sources)

    def findings(self, marked: Marked) -> Iterable[Finding]:
        """Say whether labels or sources are unbalanced."""
        del marked
        if total := sum(self.labels.values()):
            rare = min(self.labels[True], self.labels[False])
            which = "desirable" if self.labels[True] < self.labels[False] else "undesirable"
            if rare == 0:
                yield Finding(self.rule("one_label"), total, total, detail=f"no response is {which}")
            elif rare < FEW_OF_A_LABEL * total:
                yield Finding(self.rule("unbalanced_labels"), rare, total, detail=f"the rare label is {which}")
        if len(self.sources) > 1:
            name, most = self.sources.most_common(1)[0]
            total = sum(self.sources.values())
            if most > ONE_SOURCE * total:
                detail = f"the largest of {len(self.sources)} sources is {excerpt(name)}"
                yield Finding(self.rule("unbalanced_sources"), most, total, detail=detail)


CHECKS = (Style, Labels)
