"""Simulated labelling projects that follow the suggestion to stop.

The numbers of the docstring of `tiltlm.labeling.monitor.forecast` are those of
`PYTHONPATH=tests python -m support.stopping 0.5 0.55 0.7`.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tiltlm.labeling.monitor.contests import Contest, outcomes, pair_values
from tiltlm.labeling.monitor.forecast import forecast
from tiltlm.labeling.project import ProjectSettings

SETTINGS = ProjectSettings(overlap=2, extra=1)
LOOKS = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
ALPHA, TIES = 0.4, 0.1


class Stopped(NamedTuple):
    """What became of a project."""

    early: int | None
    """Verdict at the first look that suggests to stop; None if no look does."""
    end: int
    """Verdict at the planned end."""
    share: float
    """Votes that were given, of those of the planned end."""


def make_contest(votes: Sequence[Sequence[int]], num: int, *, settings=SETTINGS, decided=None) -> Contest:
    """Return a contest with one pair a prompt. `votes` are choices (0, 1, 2) of each pair in the order of time."""
    counts, first = np.zeros((2, num, 3))
    for k, own in enumerate(votes):
        np.add.at(counts[k], list(own), 1)
        np.add.at(first[k], list(own[: settings.overlap]), 1)
    disputed = (counts.sum(1) >= settings.overlap) & (counts.max(1) < counts.sum(1))
    wanted = settings.overlap + settings.extra * disputed
    values = np.full(num, np.nan) if decided is None else decided
    keys = tuple(map(str, range(num)))
    no, yes = np.zeros(num, bool), np.ones(num, bool)
    return Contest(("x", "y"), keys, no, yes, np.arange(num), counts, first, wanted, values)


def simulate(rng, rate: float, num: int, *, settings=SETTINGS, looks=LOOKS, draws: int = 2000) -> Stopped:
    """Return what becomes of a project whose first system has this win rate among the votes that are no tie."""
    mean = np.array([rate * (1 - TIES), (1 - rate) * (1 - TIES), TIES])
    votes = [
        list(rng.choice(3, size=settings.overlap + settings.extra, p=p))
        for p in rng.dirichlet((1 / ALPHA - 1) * mean, num)
    ]
    ends = [row[: settings.overlap + settings.extra * (len(set(row[: settings.overlap])) > 1)] for row in votes]
    counts = np.array([np.bincount(row, minlength=3) for row in ends], dtype=float)
    end = int(outcomes(pair_values(counts, np.full(num, np.nan))[None])[0])
    for share in looks:
        given = int(share * settings.overlap * num)
        now = [row[: given // num + (k < given % num)] for k, row in enumerate(votes)]
        contest = make_contest(now, num, settings=settings)
        found = forecast(contest, settings, seed=int(rng.integers(2**31)), draws=draws)
        if found is not None and found.verdict_is_sure:
            return Stopped(found.outcome, end, given / counts.sum())
    return Stopped(None, end, 1.0)


def main(rates: Sequence[str]) -> None:
    """Print the numbers for these win rates."""
    for rate in map(float, rates):
        rng = np.random.default_rng(1)
        found = [simulate(rng, rate, 100) for _ in range(200)]
        stops = [one for one in found if one.early is not None]
        wrong = sum(one.early != one.end for one in stops)
        decided = np.mean([(one.end if one.early is None else one.early) != 0 for one in found])
        print(
            f"win rate {rate:.0%}: {len(stops)} of {len(found)} stop, {wrong} of them with another verdict than the "
            f"planned end; {1 - np.mean([one.share for one in found]):.0%} of the votes are saved; a difference is "
            f"found in {decided:.1%}, at the planned end in {np.mean([one.end != 0 for one in found]):.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
