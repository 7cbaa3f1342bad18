"""Which pairs of a round the judge labels for a learned judge, and whether that predicted a label.

A label of the judge costs much, and one of the learned judge only a forward, so few pairs are bought. The choice is a
pure function of samples and scores. Two pairs that are equally close are ordered by a hash, never by place.

Source: Singhal et al. 2024, arXiv 2405.01511 (D2PO), Algorithm 1.
"""

import hashlib
from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from tiltlm.online.groups import Group


class Pair(NamedTuple):
    """Two samples of a prompt."""

    group: int
    """Place of its group in the round."""
    i: int
    j: int
    gap: float
    """|Δr|: how far apart the learned judge scores them."""


def candidates(groups: Sequence[Group]) -> list[Pair]:
    """Return all pairs of samples of one prompt that differ in text and have a score, in the order of the groups."""
    return [
        Pair(place, i, j, abs(float(group.scores[i] - group.scores[j])))
        for place, group in enumerate(groups)
        for i, j in combinations(range(len(group.samples)), 2)
        if group.samples[i].text != group.samples[j].text and np.isfinite(group.scores[[i, j]]).all()
    ]


def choose_pairs(groups: Sequence[Group], number: int, choose: Literal["closest", "random"], seed: int) -> list[Pair]:
    """Return the pairs that the judge labels, in the order of the groups.

    Args:
        groups: The samples of each prompt, with the scores of the learned judge.
        number: Most pairs.
        choose: `closest`: those with the smallest |Δr|. `random`: by a hash.
        seed: Seed of the hash, which also orders pairs that are equally close.
    """

    def place(pair: Pair) -> tuple[float, bytes]:
        names = sorted(groups[pair.group].samples[k].id for k in (pair.i, pair.j))
        digest = hashlib.blake2b("\x1f".join((str(seed), *names)).encode(), digest_size=8).digest()
        return (pair.gap if choose == "closest" else 0.0), digest

    return sorted(sorted(candidates(groups), key=place)[:number])


def agreement(gap: float, preference: float) -> bool | None:
    """Return whether a difference of scores has the sign of the judge's label; None if either is a tie or missing.

    Args:
        gap: Score of the first response less that of the second.
        preference: P(first better) by the judge.
    """
    sides = np.sign(gap), np.sign(preference - 0.5)
    return None if not all(abs(side) == 1 for side in sides) else bool(sides[0] == sides[1])
