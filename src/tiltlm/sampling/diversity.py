"""How different the answers to one prompt are: n-grams, distances, copies, entropy."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tiltlm.sampling.answers import AnswerRow

GRAM = 3
"""Words of an n-gram in the distance of two answers."""


@dataclass(frozen=True)
class Diversity:
    """Diversity of the answers of some rows. Means are over prompts, so more prompts do not change what they estimate.

    NaN stands for a number that these rows do not have: distances of single answers, entropy without log-probabilities.
    """

    num_prompts: int
    num_answers: int
    distinct_1: float
    """Distinct words of the answers to a prompt, divided by all of their words. Words are separated by white space."""
    distinct_2: float
    """The same with pairs of neighbouring words."""
    distance: float
    """Mean distance of two answers to a prompt: 1 − Jaccard similarity of their sets of word 3-grams, in [0, 1]."""
    duplicates: float
    """Share of answers that repeat an earlier answer to the same prompt."""
    entropy: float
    """Mean of −log π at temperature 1 over all tokens, nats per token: the entropy of the next token, if the answers
    were drawn at temperature 1 without truncation."""
    cut: float
    """Share of answers that were cut."""


def diversity_of(rows: Sequence[AnswerRow]) -> Diversity:
    """Measure the diversity of answers.

    Args:
        rows: Rows of one model and one temperature.
    """
    answers = [answer for row in rows for answer in row.answers]
    several = [row.answers for row in rows if len(row.answers) > 1]
    copies = sum(len(row.answers) - len(set(_contents(row))) for row in rows)
    return Diversity(
        num_prompts=len(rows),
        num_answers=len(answers),
        distinct_1=_mean([_distinct(row.answers, 1) for row in rows]),
        distinct_2=_mean([_distinct(row.answers, 2) for row in rows]),
        distance=_mean([_mean([distance_of(a, b) for a, b in combinations(own, 2)]) for own in several]),
        duplicates=copies / len(answers) if answers else math.nan,
        entropy=_entropy(rows),
        cut=_mean([float(not ended) for row in rows for ended in row.ended]),
    )


def _contents(row: AnswerRow) -> Sequence[object]:
    """Return what makes two answers equal: their tokens, or their text if these are not known."""
    return row.answers if row.token_ids is None else [ids.tobytes() for ids in row.token_ids]


def grams_of(text: str, size: int) -> list[tuple[str, ...]]:
    """Return the n-grams of words of a text, in order."""
    words = text.split()
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def _distinct(answers: Sequence[str], size: int) -> float:
    counts = Counter(gram for answer in answers for gram in grams_of(answer, size))
    return len(counts) / counts.total() if counts else math.nan


def distance_of(a: str, b: str) -> float:
    """Return 1 − Jaccard similarity of the sets of word 3-grams; an answer of fewer words is one gram."""
    first, second = ({*(grams_of(text, GRAM) or [tuple(text.split())])} for text in (a, b))
    return 1 - len(first & second) / len(first | second)


def _entropy(rows: Sequence[AnswerRow]) -> float:
    known = [
        (logp, len(ids))
        for row in rows
        if row.logps is not None and row.token_ids is not None
        for logp, ids in zip(row.logps, row.token_ids, strict=True)
    ]
    tokens = sum(length for _, length in known)
    return -math.fsum(logp for logp, _ in known) / tokens if tokens else math.nan


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are known; NaN if none is."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
