"""One line a method: its name, knobs and its loss worked out in numpy, straight from the paper's formula.

A case's oracle knows nothing of the package. `Answer` holds what a formula needs of one response: S and S0, the
log-probabilities under policy and reference summed over T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Answer:
    S: float
    S0: float
    T: int

    @property
    def rho(self) -> float:
        return self.S - self.S0

    @property
    def A(self) -> float:
        return self.S / self.T


def log_sigmoid(x: float) -> float:
    return -np.logaddexp(0, -x)


def sigmoid(x: float) -> float:
    return float(np.exp(log_sigmoid(x)))


def log_odds(a: float) -> float:
    p = np.exp(np.longdouble(a))
    return float(np.log(p / (1 - p)))


def both_ways(loss: Callable[[float], float], margin: float, p: float) -> float:
    """A soft label mixes the loss of the margin and of its mirror image."""
    return p * loss(margin) + (1 - p) * loss(-margin)


@dataclass(frozen=True)
class Case:
    name: str
    knobs: dict[str, float]
    pair: Callable[[Answer, Answer, float, float], float] | None = None
    """(chosen, rejected, p, offset) → loss of one comparison."""
    single: Callable[[Answer, bool, float], float] | None = None
    """(response, desirable, z0) → loss of one labelled response."""
    demonstration: Callable[[Answer], float] | None = None
    """(response) → its share of the numerator; the denominator is the step's tokens."""

    @property
    def id(self) -> str:
        return self.name


def dpo(w: Answer, r: Answer, p: float, m: float) -> float:
    return both_ways(lambda u: -log_sigmoid(u), 0.3 * (w.rho - r.rho) - m, p)


def ipo(w: Answer, r: Answer, p: float, m: float) -> float:
    return both_ways(lambda u: (u - 1 / (2 * 0.2)) ** 2, w.rho - r.rho - m, p)


def simpo(w: Answer, r: Answer, p: float, m: float) -> float:
    return both_ways(lambda u: -log_sigmoid(u - 2.5 * 0.4), 2.5 * (w.A - r.A) - m, p)


def orpo(w: Answer, r: Answer, p: float, m: float) -> float:
    return -w.A + 0.25 * both_ways(lambda u: -log_sigmoid(u), log_odds(w.A) - log_odds(r.A) - m, p)


def kto(y: Answer, desirable: bool, z0: float) -> float:
    return 1.3 * (1 - sigmoid(0.2 * (y.rho - z0))) if desirable else 0.7 * (1 - sigmoid(0.2 * (z0 - y.rho)))


CASES = [
    Case("dpo", {"beta": 0.3}, pair=dpo),
    Case("ipo", {"tau": 0.2}, pair=ipo),
    Case("simpo", {"beta": 2.5, "gamma_beta_ratio": 0.4}, pair=simpo),
    Case("orpo", {"odds_weight": 0.25}, pair=orpo),
    Case("kto", {"beta": 0.2, "desirable_weight": 1.3, "undesirable_weight": 0.7}, single=kto),
    Case("sft", {}, demonstration=lambda y: -y.S),
]
