"""What a project will cost, and how precise it will be, before it starts."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from tiltlm.labeling.project import ProjectSettings

SECONDS = 37.0
"""Seconds a label: the mean of AlpacaFarm's annotators (Dubois et al. 2023, arXiv 2305.14387)."""
DISPUTED = 0.3
"""Share of pairs whose first votes disagree that is assumed: two annotators of binary preferences who name the better
response 80 % of the time disagree on 32 % of the pairs."""
ALPHA_SPREAD = 1.8
"""Half-width of the interval of α is about this over √(pairs · (raters − 1)). It fits bootstrap intervals of 2 to 8
raters who are right 75 or 85 % of the time, on 50 to 800 pairs, within 5 %."""
TIES = 0.1
"""Share of ties that the expected width of a win rate assumes."""


@dataclass(frozen=True)
class Plan:
    """The size of a project."""

    num_pairs: int
    num_people: int
    num_votes: int
    """Votes that every pair wants: pairs times overlap."""
    num_extra: int
    """Votes that disagreements will add, if `DISPUTED` of the pairs are disputed."""
    num_gold: int
    num_repeats: int
    num_calibration: int
    """Of all people together."""
    alpha_half_width: float | None
    """Half of the expected width of the 95 % interval of α; None if no pair gets two votes."""
    rate_half_width: float | None
    """The same of a win rate near ½, with one pair a prompt; None without pairs."""

    @property
    def num_labels(self) -> int:
        """Everything that people will be asked."""
        return self.num_votes + self.num_extra + self.num_gold + self.num_repeats + self.num_calibration

    @property
    def hours(self) -> float:
        """Hours of all people together."""
        return self.num_labels * SECONDS / 3600

    @property
    def hours_each(self) -> float | None:
        """Hours of one person; None if nobody is invited yet."""
        return self.hours / self.num_people if self.num_people else None

    def lines(self) -> list[str]:
        """Return sentences for people."""
        parts = [
            f"{self.num_votes:,} votes on {self.num_pairs:,} pairs",
            *(
                f"{num:,} {what}"
                for num, what in (
                    (self.num_extra, "more where votes disagree"),
                    (self.num_gold, "on pairs with a known answer"),
                    (self.num_repeats, "repeats"),
                    (self.num_calibration, "to calibrate"),
                )
                if num
            ),
        ]
        each = f", {self.hours_each:.1f} for each of {self.num_people} people" if self.hours_each is not None else ""
        lines = [
            f"about {self.num_labels:,} labels: {', '.join(parts)}",
            f"about {self.hours:.1f} hours of work{each}, at {SECONDS:.0f} seconds a label",
        ]
        if self.alpha_half_width is not None:
            lines.append(f"expected precision of agreement (α): ±{self.alpha_half_width:.2f}")
        if self.rate_half_width is not None:
            lines.append(f"expected precision of a win rate near 50 %: ±{100 * self.rate_half_width:.1f} points")
        return lines


def plan_project(
    num_pairs: int, settings: ProjectSettings, *, num_people: int = 0, num_gold: int = 0, num_calibration: int = 0
) -> Plan:
    """Return the size of a project.

    Args:
        num_pairs: Pairs to label.
        settings: Settings of the project.
        num_people: Annotators; 0 if nobody is invited yet.
        num_gold: Pairs with a known answer that are asked silently. Nobody sees one twice.
        num_calibration: Pairs that everybody votes on first.
    """
    votes = num_pairs * settings.overlap
    extra = round(DISPUTED * num_pairs * settings.extra) if settings.overlap > 1 else 0
    rest = 1 - settings.gold_share - settings.repeat_share
    people = max(num_people, settings.overlap)
    gold = min(round((votes + extra) * settings.gold_share / rest), num_gold * people)
    repeats = round((votes + extra) * settings.repeat_share / rest)
    return Plan(
        num_pairs=num_pairs,
        num_people=num_people,
        num_votes=votes,
        num_extra=extra,
        num_gold=gold,
        num_repeats=repeats,
        num_calibration=num_calibration * people,
        alpha_half_width=_alpha_half_width(num_pairs, settings.overlap),
        rate_half_width=_rate_half_width(num_pairs),
    )


def _alpha_half_width(num_pairs: int, overlap: int) -> float | None:
    if overlap < 2 or num_pairs < 2:
        return None
    return min(1.0, ALPHA_SPREAD / math.sqrt(num_pairs * (overlap - 1)))


def _rate_half_width(num_pairs: int) -> float | None:
    """Return the half-width with one vote a pair, an upper bound: more votes on each pair make it narrower."""
    if num_pairs < 1:
        return None
    return NormalDist().inv_cdf(0.975) * math.sqrt((0.25 - TIES / 4) / num_pairs)
