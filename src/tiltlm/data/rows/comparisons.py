"""Which responses of a scored or ranked list are compared: one rule by name, a pure function of the row's content.

The place of a response in its list decides nothing, so a list in another order gives the same comparisons. Where chance
is wanted, it is a hash of the seed and the texts.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from tiltlm.core.example import Comparison
from tiltlm.data.accounting import Defect
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.rows.records import Record, implied_comparisons

Pair = tuple[int, int]


@dataclass(frozen=True)
class ComparisonRule:
    """One rule."""

    choose: Callable[[Record, DataSettings], list[Comparison]]
    note: str
    """What it does, for the note that announces it."""
    needs_scores: bool = False
    """True if ranks are not enough."""


def choose_comparisons(record: Record, settings: DataSettings) -> Record:
    """Return a list with the comparisons that `settings.comparisons` names.

    Raises:
        Defect: The rule leaves no comparison of different responses.
    """
    chosen = RULES[settings.comparisons].choose(record, settings)
    distinct = tuple(c for c in chosen if record.responses[c.chosen] != record.responses[c.rejected])
    if not distinct:
        cause = "small_gap" if settings.comparisons == "gap" and len(set(record.scores)) > 1 else "no_comparison"
        raise Defect(cause)
    return replace(record, comparisons=distinct)


def best_and_worst(values: Sequence[float], keys: Sequence[str]) -> Pair | None:
    """Return the positions of the highest and of the lowest value; None if all are equal.

    Args:
        values: One per response.
        keys: Text of each response. Among equal values its hash decides, so that the place in the list does not.
    """
    known = sorted(
        (value, hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest(), k)
        for k, (value, key) in enumerate(zip(values, keys, strict=True))
    )
    if len(known) < 2 or known[0][0] == known[-1][0]:
        return None
    return known[-1][2], known[0][2]


def in_random_order(pairs: Sequence[Pair], names: Sequence[str], seed: int) -> list[Pair]:
    """Return pairs in an order that only the names of their members and the seed decide.

    Args:
        pairs: Pairs of positions.
        names: What stands at each position: an id, or a text.
        seed: Another seed gives another order.
    """
    return sorted(pairs, key=lambda pair: _hash(seed, *sorted(names[k] for k in pair)))


def _hash(seed: int, *names: str) -> bytes:
    text = "\x1f".join((str(seed), *names))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _values(record: Record) -> Sequence[float]:
    """Return what responses are ordered by; higher is better."""
    return record.scores or [-float(rank) for rank in record.ranks]


def _names(record: Record) -> list[str]:
    return [json.dumps(response, sort_keys=True, default=vars) for response in record.responses]


def _oriented(record: Record) -> list[Comparison]:
    return list(implied_comparisons(record.ranks, record.scores))


def _all(record: Record, settings: DataSettings) -> list[Comparison]:  # noqa: ARG001
    return _oriented(record)


def _best_worst(record: Record, settings: DataSettings) -> list[Comparison]:  # noqa: ARG001
    found = best_and_worst(_values(record), _names(record))
    return [] if found is None else [Comparison(*found)]


def _random(record: Record, settings: DataSettings) -> list[Comparison]:
    by_pair = {(c.chosen, c.rejected): c for c in _oriented(record)}
    order = in_random_order(list(by_pair), _names(record), settings.comparisons_seed)
    return [by_pair[pair] for pair in order[:1]]


def _gap(record: Record, settings: DataSettings) -> list[Comparison]:
    least = settings.min_gap or 0.0
    return [c for c in _oriented(record) if record.scores[c.chosen] - record.scores[c.rejected] >= least]


def _bradley_terry(record: Record, settings: DataSettings) -> list[Comparison]:
    """Draw the winner of every two responses with P(i wins) = σ(score_i − score_j)."""
    names, drawn = _names(record), []
    for i, j in combinations(range(len(record.scores)), 2):
        first, second = (i, j) if names[i] <= names[j] else (j, i)
        chance = int.from_bytes(_hash(settings.comparisons_seed, "winner", names[first], names[second]), "big") / 2**64
        gap = record.scores[first] - record.scores[second]
        wins = 1 / (1 + math.exp(-gap)) if gap >= 0 else math.exp(gap) / (1 + math.exp(gap))
        drawn.append(Comparison(first, second) if chance < wins else Comparison(second, first))
    return drawn


RULES: dict[str, ComparisonRule] = {
    "all": ComparisonRule(
        _all, "all responses of different rank or score are compared two by two, with equal weight within a row"
    ),
    "best_worst": ComparisonRule(_best_worst, "the best response of each row is compared with its worst one"),
    "random": ComparisonRule(_random, "two responses of different rank or score are compared in each row, by a hash"),
    "gap": ComparisonRule(_gap, "responses are compared whose scores differ by data.min_gap or more", True),
    "bradley_terry": ComparisonRule(
        _bradley_terry,
        "every two responses are compared, and the winner is drawn with the logistic function of the score difference",
        True,
    ),
}
"""Every value of `data.comparisons`."""
