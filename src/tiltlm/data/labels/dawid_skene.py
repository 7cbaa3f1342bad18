r"""Dawid and Skene's model: estimate the true answer of each item and how reliable each annotator is, without a key.

An item has a true class k with probability ρ_k. Annotator j calls it l with probability θ_j[k, l], independently of all
others. The expectation–maximisation algorithm alternates between P(class | votes) of each item and the maximum of

    Σ_items log Σ_k ρ_k Π_votes θ_j[k, vote]  +  prior · (Σ_k log ρ_k + Σ_j Σ_k (log θ_j[k, k] + Σ_l log θ_j[k, l])).

The second part is Laplace's prior, which keeps every probability above 0, with one more vote for the true class: before
the data, an annotator is better than chance. It begins with the share of each class among an item's votes. Without a
prior, the objective has the same value when classes are renamed; that start decides for the names of the majority.

Source: Dawid and Skene 1979, Applied Statistics 28:20.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.errors import ConfigError, NumericsError
from tiltlm.data.labels.votes import Votes
from tiltlm.estimates.intervals import Interval, bias_corrected_interval, percentile_interval

Floats = NDArray[np.float64]

TOLERANCE = 1e-8
"""Largest change of a probability of a class in the last step."""
DRAW_TOLERANCE = 1e-5
"""The same in a draw of the bootstrap."""
PRIOR = 0.5
"""Votes of the prior in each entry. More pull the best annotators too far towards the others."""
MAX_STEPS = 5000
RESAMPLES = 200
"""Draws of the bootstrap; each one is a fit of its own."""
MIN_ANNOTATORS = 3
"""With two, only how often they agree is known, and no data says which of them errs."""


@dataclass(frozen=True, eq=False)
class DawidSkene:
    """A fitted model."""

    posterior: Floats
    """[items, 3] P(a better), P(b better), P(tie) of each item; the shares ρ for an item without votes."""
    shares: Floats
    """[3] ρ, the share of each class. 0 for a class that no vote names."""
    confusion: Floats
    """[annotators, 3, 3] θ_j: row = true class, column = what the annotator says. 0 for a class that no vote names."""
    steps: int

    @property
    def accuracy(self) -> Floats:
        """[annotators] how often each one names the true class, Σ_k ρ_k θ_j[k, k]."""
        return np.asarray(np.einsum("k,jkk->j", self.shares, self.confusion))

    def noise(self, weights: Floats | None = None) -> float:
        """Return the expected share of items whose likeliest class is wrong.

        Args:
            weights: [items] weight of each item. None: 1.
        """
        return float(np.average(1 - self.posterior.max(1), weights=weights))


def fit_dawid_skene(
    votes: Votes,
    *,
    prior: float = PRIOR,
    weights: Floats | None = None,
    start: DawidSkene | None = None,
    tolerance: float = TOLERANCE,
) -> DawidSkene:
    """Fit the model to votes.

    Args:
        votes: Votes on items.
        prior: Votes that each entry of ρ and θ has before the data, above 0.
        weights: [items] how often each item counts. None: once.
        start: A fit to begin with, which saves steps. None: the shares of votes.
        tolerance: Largest change of a probability of a class in the last step.

    Raises:
        ConfigError: The prior is not above 0, or there are too few annotators.
        NumericsError: It did not converge.
    """
    if prior <= 0:
        raise ConfigError(f"--prior is {prior}; it must be above 0", code="not_positive", key="--prior")
    if len(set(votes.annotator.tolist())) < MIN_ANNOTATORS:
        raise ConfigError(
            f"dawid_skene needs votes of at least {MIN_ANNOTATORS} annotators: fewer do not show which of them errs. "
            "Use another rule: --rule soft",
            code="too_few",
            key="--rule",
        )
    used = np.flatnonzero(np.bincount(votes.choice, minlength=3))
    place = np.full(3, -1)
    place[used] = np.arange(len(used))
    choice, k = place[votes.choice], len(used)
    often = np.ones(len(votes.items)) if weights is None else weights
    if start is None:
        counts = votes.counts()[:, used] + 1e-12  # items without votes: all classes alike
        posterior = counts / counts.sum(1, keepdims=True)
    else:
        posterior = start.posterior[:, used]
    for step in range(1, MAX_STEPS + 1):
        shares, confusion = _maximise(votes, choice, posterior * often[:, None], prior)
        found = _posterior(votes, choice, shares, confusion)
        change = float(np.abs(found - posterior).max())
        posterior = found
        if change < tolerance:
            return DawidSkene(*_whole(posterior, shares, confusion, used), step)
    raise NumericsError(
        f"dawid_skene did not converge in {MAX_STEPS} steps (k = {k} classes); the votes hold too little information. "
        "Use another rule: --rule soft",
        code="not_converged",
    )


def _maximise(votes: Votes, choice: NDArray[np.intp], weighted: Floats, prior: float) -> tuple[Floats, Floats]:
    """Return ρ and θ that are best for these weights of items and classes."""
    j, k = len(votes.annotators), weighted.shape[1]
    shares = weighted.sum(0) + prior
    flat = votes.annotator * k + choice
    counts = np.stack([np.bincount(flat, weighted[votes.item, c], minlength=j * k).reshape(j, k) for c in range(k)], 1)
    confusion = counts + prior * (1 + np.eye(k))
    return shares / shares.sum(), confusion / confusion.sum(2, keepdims=True)


def _posterior(votes: Votes, choice: NDArray[np.intp], shares: Floats, confusion: Floats) -> Floats:
    """Return P(class) of each item. Sums of logarithms do not underflow, however many votes an item has."""
    k = len(shares)
    logs = np.log(confusion)[votes.annotator, :, choice]
    likelihood = np.stack([np.bincount(votes.item, logs[:, c], minlength=len(votes.items)) for c in range(k)], 1)
    joint = np.log(shares) + likelihood
    joint -= joint.max(1, keepdims=True)
    weight = np.exp(joint)
    return np.asarray(weight / weight.sum(1, keepdims=True))


def _whole(
    posterior: Floats, shares: Floats, confusion: Floats, used: NDArray[np.intp]
) -> tuple[Floats, Floats, Floats]:
    """Return the parts with all three classes, 0 for those that no vote names."""
    whole_posterior, whole_shares = np.zeros((len(posterior), 3)), np.zeros(3)
    whole_confusion = np.zeros((len(confusion), 3, 3))
    whole_posterior[:, used], whole_shares[used] = posterior, shares
    whole_confusion[:, used[:, None], used] = confusion
    return whole_posterior, whole_shares, whole_confusion


@dataclass(frozen=True)
class Uncertainty:
    """Intervals of a fit, by bootstrap over items with a fit for each draw."""

    accuracy: tuple[Interval, ...]
    """One per annotator."""
    noise: Interval
    """Share of items whose likeliest class is wrong: the expected one, with an interval for the one in these data."""


def uncertainty(
    votes: Votes, fit: DawidSkene, *, prior: float = PRIOR, resamples: int = RESAMPLES, seed: int = 0
) -> Uncertainty:
    """Return intervals of the annotators' accuracies and of the noise of the labels.

    Args:
        votes: The votes of the fit.
        fit: The fit.
        prior: The prior of the fit.
        resamples: Number of draws.
        seed: Seed of the draws.
    """
    n = len(votes.items)
    voted = np.bincount(votes.item, minlength=n) > 0
    rng = np.random.default_rng(seed)
    accuracies, noises = [], []
    for _ in range(resamples if voted.sum() > 1 else 0):
        often = np.zeros(n)
        often[voted] = rng.multinomial(voted.sum(), np.full(voted.sum(), 1 / voted.sum()))
        again = fit_dawid_skene(votes, prior=prior, weights=often, start=fit, tolerance=DRAW_TOLERANCE)
        accuracies.append(again.accuracy)
        is_wrong = rng.random(n) > again.posterior.max(1)  # the labels at hand are one draw of the model
        noises.append(float(np.average(is_wrong, weights=often)))
    of_annotators = np.array(accuracies).reshape(-1, len(votes.annotators))
    items = [int(np.sum(votes.annotator == j)) for j in range(len(votes.annotators))]
    return Uncertainty(
        tuple(bias_corrected_interval(fit.accuracy[j], of_annotators[:, j], items[j]) for j in range(len(items))),
        percentile_interval(fit.noise(voted.astype(np.float64)), noises, int(voted.sum())),
    )
