"""Rules that make one label from the votes on an item.

A label is p = P(answer a is better). Both of `soft` and `dawid_skene` keep disagreement: a pair on which annotators
split has p near ½, and an objective that reads soft labels pushes less.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.checks import suggestion
from tiltlm.core.errors import ConfigError
from tiltlm.data.labels.dawid_skene import PRIOR, DawidSkene, fit_dawid_skene
from tiltlm.data.labels.votes import NO_CHOICE, TIE, A, B, Votes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LabelSettings:
    """How votes become labels."""

    rule: str = "soft"
    """`soft`: the share of votes for a, a tie counts ½. `majority`: 1 or 0, and ½ where no class has the most votes.
    `dawid_skene`: the probability under Dawid and Skene's model, which learns how reliable each annotator is."""
    ties: str = "keep"
    """What becomes of items with p = ½. `keep`: they are written with preference ½. `drop`: they are left out."""
    min_votes: int = 1
    """Items with fewer votes are left out."""
    prior: float = PRIOR
    """Laplace's prior of `dawid_skene`."""

    def __post_init__(self) -> None:
        if self.rule not in NAMES:
            raise ConfigError(
                f"--rule is {self.rule!r}{suggestion(self.rule, NAMES)} Rules: {', '.join(NAMES)}",
                code="unknown_name",
                key="--rule",
            )
        if self.ties not in ("keep", "drop"):
            raise ConfigError(f"--ties is {self.ties!r}; it must be keep or drop", code="unknown_name", key="--ties")
        if self.min_votes < 1:
            raise ConfigError(
                f"--min-votes is {self.min_votes}; it must be at least 1", code="not_positive", key="--min-votes"
            )
        if self.prior <= 0:
            raise ConfigError(f"--prior is {self.prior}; it must be above 0", code="not_positive", key="--prior")
        if self.rule != DAWID_SKENE and self.prior != PRIOR:
            raise ConfigError(
                f"--prior has no effect with --rule {self.rule}; remove it", code="no_effect", key="--prior"
            )

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings that the rule reads."""
        own = {"prior": self.prior} if self.rule == DAWID_SKENE else {}
        return {"rule": self.rule, "ties": self.ties, "min_votes": self.min_votes, **own}


@dataclass(frozen=True, eq=False)
class Labels:
    """One label per item."""

    settings: LabelSettings
    p: Floats
    """[items] P(a better); NaN for an item that gets no label."""
    causes: dict[str, int] = field(default_factory=dict)
    """Items without a label, by cause."""
    model: DawidSkene | None = None
    """The fitted model of `dawid_skene`."""


def soft(votes: Votes) -> Floats:
    """Return [items] the share of votes for a, a tie counting ½; NaN without votes."""
    counts = votes.counts()
    with np.errstate(invalid="ignore"):
        return np.asarray((counts[:, A] + counts[:, TIE] / 2) / counts.sum(1))


def majority(votes: Votes) -> Floats:
    """Return [items] 1 or 0 where a or b has more votes than any other class, else ½; NaN without votes."""
    counts = votes.counts()
    most = counts.max(1)
    is_first = (counts == most[:, None]) & (most > 0)[:, None]
    alone = is_first.sum(1) == 1
    p = np.where(alone & is_first[:, A], 1.0, np.where(alone & is_first[:, B], 0.0, 0.5))
    return np.where(most > 0, p, np.nan)


def of_model(model: DawidSkene, votes: Votes) -> Floats:
    """Return [items] P(a) + ½ P(tie) under a fitted model; NaN without votes."""
    p = model.posterior[:, A] + model.posterior[:, TIE] / 2
    return np.where(votes.counts().sum(1) > 0, p, np.nan)


RULES: dict[str, Callable[[Votes], Floats]] = {"soft": soft, "majority": majority}
"""Rule → function from votes to labels, for those that fit no model."""
DAWID_SKENE = "dawid_skene"
NAMES = (*RULES, DAWID_SKENE)


def make_labels(votes: Votes, settings: LabelSettings) -> Labels:
    """Return one label per item. The decision of an adjudicator takes the place of the votes.

    Raises:
        ConfigError: The rule needs more annotators.
        NumericsError: A fit did not converge.
    """
    model = fit_dawid_skene(votes, prior=settings.prior) if settings.rule == DAWID_SKENE else None
    p = RULES[settings.rule](votes) if model is None else of_model(model, votes)
    decided = np.array([item.decision for item in votes.items], dtype=np.int64)
    p = np.where(decided == NO_CHOICE, p, np.select([decided == A, decided == B], [1.0, 0.0], 0.5))
    num = np.where(decided == NO_CHOICE, votes.counts().sum(1), np.inf)
    causes: dict[str, int] = {}
    for cause, left_out in (
        ("no_votes", num == 0),
        ("few_votes", (num > 0) & (num < settings.min_votes)),
        ("tie", (p == 0.5) & (num >= settings.min_votes) & (settings.ties == "drop")),
    ):
        if left_out.any():
            causes[cause] = int(left_out.sum())
            p = np.where(left_out, np.nan, p)
    return Labels(settings, p, causes, model)
