"""Answers and judges for tests of comparisons: small, exact, without any model."""

from collections.abc import Callable, Iterable, Iterator

from tiltlm.evaluation.answers.systems import System
from tiltlm.judging import Comparer, Item, PairItem, Score, Scorer, Verdict
from tiltlm.sampling.answers import AnswerRow


def row(prompt, *answers: str, temperature: float | None = None, identity: str = "", **columns) -> AnswerRow:
    """Return answers to a prompt."""
    ended = (True,) * len(answers)
    return AnswerRow(identity or str(prompt), prompt, answers, ended, temperature=temperature, row=columns)


def system(name: str, answers: dict[str, str | tuple[str, ...]], **options) -> System:
    """Return a system from prompt → answer or answers."""
    rows = [row(p, *((a,) if isinstance(a, str) else a)) for p, a in answers.items()]
    return System(name, tuple(rows), **options)


class Lengths(Scorer):
    """A scorer by length. Answers with `bad` in them cannot be scored."""

    name, role, digest = "length", "held_out", "length-1"

    def __init__(self) -> None:
        """Count the items that were asked for."""
        self.asked: list[Item] = []

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield the number of characters."""
        for item in items:
            self.asked.append(item)
            yield Score(None, error="bad") if "bad" in item.response else Score(float(len(item.response)))


class Says(Comparer):
    """A comparer that a function of (first shown, second shown) speaks for: an outcome, or P(first shown better)."""

    name, role, digest = "says", "held_out", "says-1"

    def __init__(self, verdict: Callable[[str, str], str | float]) -> None:
        """Keep the function, and count the pairs that were asked for."""
        self.verdict = verdict
        self.asked: list[PairItem] = []

    def compare(self, pairs: Iterable[PairItem]) -> Iterator[Verdict]:
        """Yield the verdicts."""
        for pair in pairs:
            self.asked.append(pair)
            said = self.verdict(pair.a, pair.b)
            if isinstance(said, str):
                yield Verdict("ab", said, error="no answer" if said == "error" else "", rationale=f"{said} of two")
            else:
                yield Verdict("ab", "left" if said > 0.5 else "right" if said < 0.5 else "tie", p_left=said)
