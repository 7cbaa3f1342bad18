"""Judges of a few lines whose answers a test decides, and which count how often they are asked."""

from collections.abc import Callable, Iterable, Iterator

from tiltlm.judging import Comparer, Item, PairItem, Score, Scorer, Verdict


class FakeScorer(Scorer):
    """A function of the response as a scorer."""

    def __init__(self, function: Callable[[Item], float | Score], digest: str = "fake", role: str = "held_out"):
        self.function, self.digest, self.role, self.name = function, digest, role, digest
        self.asked: list[Item] = []

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        for item in items:
            self.asked.append(item)
            value = self.function(item)
            yield value if isinstance(value, Score) else Score(float(value))


class FakeComparer(Comparer):
    """A function of two responses, as shown, as a comparer."""

    def __init__(self, function: Callable[[PairItem], Verdict], digest: str = "fake", role: str = "held_out"):
        self.function, self.digest, self.role, self.name = function, digest, role, digest
        self.asked: list[PairItem] = []

    def compare(self, pairs: Iterable[PairItem]) -> Iterator[Verdict]:
        for pair in pairs:
            self.asked.append(pair)
            yield self.function(pair)


def soft(p_left: float) -> Verdict:
    """Return a verdict with this probability."""
    return Verdict("ab", "left" if p_left > 0.5 else "right" if p_left < 0.5 else "tie", p_left=p_left)


def hard(outcome: str, error: str = "") -> Verdict:
    """Return a verdict without a probability."""
    return Verdict("ab", outcome, error=error)


def length(item: Item) -> float:
    """Return the number of characters."""
    return len(item.response)
