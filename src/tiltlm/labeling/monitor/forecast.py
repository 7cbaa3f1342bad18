"""Forecast what the planned votes that are still missing will say, and suggest to stop when they decide nothing.

This is stochastic curtailment (Lan, Simon and Halperin 1982, Commun. Stat. C 1:207), with a predictive probability in
place of a conditional power. The verdict is one thing only: whether, *when all planned votes are in*, the interval of
the win rate lies above ½, below it, or around it. No test is made before. At any time the forecast asks how likely the
planned end has the verdict that stands now. That probability is a martingale under the model: whenever one stops at
`SURE` = 0.99, however often one looked, the verdict at the planned end differs in at most 1 % of the stops. So the
chance of finding a difference where there is none is at most the 5 % of the planned end plus this 1 %. Tests repeated
while data come in have no such bound.

The model: the votes on a prompt are draws from probabilities of its own for first, second and tie, which are
Dirichlet-distributed over prompts. Its mean is uncertain as the Bayesian bootstrap over prompts says (Rubin 1981, Ann.
Stat. 9:130), with one more prompt that prefers neither system. Its spread follows from the agreement of votes on one
pair: the intraclass correlation of a Dirichlet–multinomial is Krippendorff's α. A pair whose votes disagree gets the
extra votes that the project gives it.

Measured by `PYTHONPATH=tests python -m support.stopping 0.5 0.55 0.7`: 200 projects each of 100 pairs with 2 votes and
a third one where they disagree, α 0.4, 10 % ties, six looks; each line is a true win rate among votes that are no tie.

    50 %: 166 stop, 0 with another verdict than the planned end, 31 % of votes saved, difference found in 2.5 % (2.5 %)
    55 %: 116 stop, 3 with another verdict than the planned end, 21 % of votes saved, difference found in 24 % (23.5 %)
    70 %: 195 stop, 0 with another verdict than the planned end, 65 % of votes saved, difference found in 100 % (100 %)

In brackets: at the planned end. `test_stopping_is_safe` repeats this with fewer projects.
"""

from dataclasses import dataclass

import numpy as np

from tiltlm.data.labels.votes import TIE, A, B
from tiltlm.labeling.monitor.contests import FEW, Contest, outcomes, pair_values
from tiltlm.labeling.monitor.facts import Floats
from tiltlm.labeling.project import ProjectSettings

SURE = 0.99
"""Probability that nothing changes from which stopping is suggested."""
DRAWS = 2000
MIN_DRAWS = 200
_SIZE = 1_000_000
"""Draws times pairs, at most, beyond `MIN_DRAWS`."""
PRIOR_PAIRS = 4
"""Pairs with two votes that the prior adds."""
PRIOR_ALPHA = 0.4
"""Their agreement: α of 0.3 to 0.5 is usual for preferences."""
MAX_ALPHA, MIN_ALPHA = 0.9, 0.01


@dataclass(frozen=True)
class Forecast:
    """What the planned end will be like."""

    first_better: float
    """P(the interval of the win rate lies above ½ at the planned end)."""
    second_better: float
    outcome: int
    """Verdict now: 1, −1, or 0."""
    num_missing: int
    """Planned votes that are missing now."""
    same_labels: float
    """Expected share of pairs whose label prefers the same response, or none, now and at the planned end. A pair
    without votes has no label now."""
    num_prompts: int
    """Prompts with votes."""

    @property
    def neither(self) -> float:
        """P(the interval holds ½ at the planned end)."""
        return max(0.0, 1 - self.first_better - self.second_better)

    @property
    def same_verdict(self) -> float:
        """P(the verdict at the planned end is the one that stands now)."""
        return {1: self.first_better, -1: self.second_better, 0: self.neither}[self.outcome]

    @property
    def verdict_is_sure(self) -> bool:
        """True if more of the planned votes would hardly change the verdict."""
        return self.num_prompts >= FEW and self.same_verdict >= SURE

    @property
    def labels_are_sure(self) -> bool:
        """True if more of the planned votes would hardly change a label."""
        return self.num_prompts > 0 and self.same_labels >= SURE


def forecast(contest: Contest, settings: ProjectSettings, *, seed: int = 0, draws: int = DRAWS) -> Forecast | None:
    """Return what the planned end will be like; None without votes.

    Args:
        contest: Pairs and the votes so far.
        settings: Of these, `overlap` and `extra` are used.
        seed: Seed of the draws.
        draws: Most draws; large projects get fewer.
    """
    now = contest.prompt_values()
    if not len(now) or not contest.counts.any():
        return None
    values = contest.values
    missing = np.where(np.isnan(contest.decided), contest.wanted - contest.counts.sum(1).astype(np.int64), 0)
    missing = np.maximum(missing, 0)
    rng = np.random.default_rng(seed)
    num_draws = int(np.clip(_SIZE // len(values), MIN_DRAWS, draws))
    totals, same, left = np.zeros(2), 0.0, num_draws
    starts = np.flatnonzero(np.diff(contest.prompt, prepend=-1))
    per_prompt = np.diff([*starts, len(values)])
    while left:
        size = min(left, max(1, _SIZE // len(values)))
        ends = pair_values(_complete(contest, missing, settings, rng, size), contest.decided)
        found = outcomes(np.add.reduceat(ends, starts, axis=1) / per_prompt)
        totals += [(found > 0).sum(), (found < 0).sum()]
        same += float((np.sign(ends - 0.5) == np.sign(values - 0.5)).mean(1).sum())
        left -= size
    return Forecast(
        first_better=float(totals[0] / num_draws),
        second_better=float(totals[1] / num_draws),
        outcome=int(outcomes(now[None, :])[0]),
        num_missing=int(missing.sum()),
        same_labels=same / num_draws,
        num_prompts=len(now),
    )


def _complete(
    contest: Contest, missing: np.ndarray, settings: ProjectSettings, rng: np.random.Generator, size: int
) -> Floats:
    """Return [size, P, 3] votes at the planned end, drawn from the model."""
    num_prompts = int(contest.prompt[-1]) + 1
    own, first = np.zeros((2, num_prompts, 3))
    np.add.at(own, contest.prompt, contest.counts)
    np.add.at(first, contest.prompt, contest.first)
    mean, strength = _population(contest, first, rng, size)
    shape = mean[:, None, :] * strength[:, None, None] + own
    gamma = rng.standard_gamma(shape)
    chances = gamma / gamma.sum(-1, keepdims=True)
    counts = np.repeat(contest.counts[None], size, axis=0)
    open_pairs = np.flatnonzero(missing)
    counts[:, open_pairs] += rng.multinomial(missing[open_pairs], chances[:, contest.prompt[open_pairs]])
    if settings.extra and settings.overlap > 1:
        later = np.flatnonzero((contest.wanted == settings.overlap) & (missing > 0))
        differ = counts[:, later].max(-1) < counts[:, later].sum(-1)
        extra = rng.multinomial(settings.extra, chances[:, contest.prompt[later]])
        counts[:, later] += extra * differ[..., None]
    return counts


def _population(contest: Contest, own: Floats, rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
    """Return [size, 3] mean chances of first, second and tie over prompts, and [size] their Dirichlet's strength."""
    num = own.sum(1)
    shares = own[num > 0] / num[num > 0][:, None]
    ties = float(shares[:, TIE].mean())
    fair = np.zeros((1, 3))
    fair[0, [A, B, TIE]] = (1 - ties) / 2, (1 - ties) / 2, ties
    weights = rng.standard_exponential((size, len(shares) + 1))
    mean = weights @ np.concatenate([shares, fair]) / weights.sum(1, keepdims=True)
    shared = contest.first[contest.first.sum(1) >= 2]
    pairs = shared.sum(1)
    equal = (shared * (shared - 1)).sum(1) / np.maximum(pairs * (pairs - 1), 1)
    by_chance = (mean**2).sum(1)
    prior = by_chance + PRIOR_ALPHA * (1 - by_chance)
    weights = rng.standard_exponential((size, len(equal)))
    of_prior = rng.standard_gamma(PRIOR_PAIRS, size)
    agreed = (weights @ equal + of_prior * prior) / (weights.sum(1) + of_prior)
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha = np.where(by_chance < 1, (agreed - by_chance) / (1 - by_chance), MAX_ALPHA)
    alpha = np.clip(alpha, MIN_ALPHA, MAX_ALPHA)
    return mean, 1 / alpha - 1
