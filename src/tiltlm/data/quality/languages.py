"""The check of languages, which needs the package lingua: `pip install 'tiltlm[languages]'`. It is not in `CHECKS`."""

from collections import Counter
from collections.abc import Iterator
from typing import Self

from tiltlm.data.quality.checked_row import Check, CheckedRow, Mark, Marked
from tiltlm.data.quality.rules import Finding, Rule
from tiltlm.data.stats.languages import language_of

LISTED = 5
"""Languages that are named."""


class Languages(Check):
    """D14: which languages there are, and whether compared responses differ in theirs."""

    rules = (
        Rule(
            "language_mix",
            "D14",
            "note",
            "the prompt or response is not in the most frequent language",
            "see if it is meant",
        ),
        Rule(
            "language_mismatch",
            "D14",
            "note",
            "the compared responses are in different languages",
            "see if the language is what was judged",
        ),
    )

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Count the row's language, and mark compared responses of different languages."""
        languages = [language_of(text) for text in row.responses]
        known = [language for language in languages if language]
        if first := (language_of(row.prompt) or next(iter(known), None)):
            self.found[first] += 1
        for c in row.comparisons:
            a, b = languages[c.chosen], languages[c.rejected]
            if a and b and a != b:
                yield Mark("language_mismatch", f"{row.name(c.chosen)} is {a}, {row.name(c.rejected)} is {b}")
                return

    def merge(self, later: Self, offset: int) -> None:
        """Add the languages of later rows."""
        del offset
        self.found.update(later.found)

    def findings(self, marked: Marked) -> Iterator[Finding]:
        """Say which languages there are, if there are several."""
        del marked
        if len(self.found) > 1:
            total = sum(self.found.values())
            most = self.found.most_common(LISTED)
            detail = ", ".join(f"{language} {count / total:.1%}" for language, count in most)
            yield Finding(self.rule("language_mix"), total - most[0][1], total, detail=detail)


CHECKS = (Languages,)
