"""Groups: a prompt, the samples that a round drew for it, and what the judge said about them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tiltlm.core.example import Response, TokenIds
from tiltlm.estimates.intervals import Floats

Who = Literal["policy", "data", "reference", "mixture", "revision"]
"""Where a sample comes from: the policy of the round, the data, the reference of the round, a mixture of both, or the
policy's own revision of its sample."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One response to a prompt."""

    id: str
    """16 hexadecimal digits: see `sample_id`."""
    who: Who
    response: Response
    text: str
    """Its text without special tokens: what a judge reads."""


def sample_id(prompt: str, round_number: int, who: Who, index: int) -> str:
    """Return the name of a sample: a hash of where it stands, so that it is known before the sample is drawn.

    Args:
        prompt: Name of the prompt.
        round_number: Number of the round.
        who: Where the sample comes from.
        index: Its place among the samples of the same origin.
    """
    text = "\x1f".join((prompt, str(round_number), who, str(index)))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(frozen=True, eq=False)
class Group:
    """A prompt with K samples."""

    id: str
    """Name of the prompt."""
    prompt_ids: TokenIds
    samples: tuple[Sample, ...]
    scores: Floats
    """[K] higher is better; NaN where there is none."""
    preference: Floats
    """[K, K] P(i better than j): ½ on the diagonal, p + pᵀ = 1, NaN where it is not known."""

    @property
    def win_rates(self) -> Floats:
        """[K] mean of P(i better than j) over the j that i was compared with, itself included as ½; NaN if it was not.

        Source: Wu et al. 2024, arXiv 2405.00675 (SPPO), the estimator of its published code.
        """
        known = np.isfinite(self.preference)
        rates = np.where(known, self.preference, 0.0).sum(1) / known.sum(1)
        return np.asarray(np.where(known.sum(1) > 1, rates, np.nan))

    @property
    def values(self) -> Floats:
        """[K] what samples are ranked by: scores, or win rates where the judge compares."""
        return self.win_rates if np.all(np.isnan(self.scores)) else self.scores

    def ranked(self, values: Floats | None = None) -> list[int]:
        """Return the samples with a value, the best first; equal ones in the order of their ids, never of places.

        Args:
            values: [K] what they are ranked by; None: `values` of the group.
        """
        values = self.values if values is None else values
        known = [k for k in range(len(self.samples)) if np.isfinite(values[k])]
        return sorted(known, key=lambda k: (-values[k], self.samples[k].id))

    def is_same(self, i: int, j: int) -> bool:
        """Return whether two samples have the same tokens."""
        return self.samples[i].response.key == self.samples[j].response.key


def preference_of_scores(scores: ArrayLike, scale: float) -> Floats:
    """Return [K, K] P(i better than j) = σ((s_i − s_j) / scale); NaN where a score is missing, ½ on the diagonal."""
    values = np.asarray(scores, dtype=np.float64)
    gaps = (values[:, None] - values[None, :]) / scale
    found = 0.5 * (1 + np.tanh(gaps / 2))
    np.fill_diagonal(found, 0.5)
    return np.asarray(found)


def preference_of_pairs(num_samples: int, judged: Sequence[tuple[int, int, float | None]]) -> Floats:
    """Return [K, K] P(i better than j) from compared pairs.

    Args:
        num_samples: K.
        judged: Places i and j, and P(i better than j); None where the judge gave none.
    """
    found = np.full((num_samples, num_samples), np.nan)
    np.fill_diagonal(found, 0.5)
    for i, j, p in judged:
        if p is not None:
            found[i, j], found[j, i] = p, 1 - p
    return found
