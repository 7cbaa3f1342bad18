"""One line per method: its name, knobs and its loss in numpy, from the paper's formula.

A case's loss uses no code of the package. `Answer` has the numbers of one response that formulas read:
log-probabilities of its T tokens under policy and reference, their sums S and S0, and numbers of whole next-token
distributions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answer:
    tokens: np.ndarray
    ref_tokens: np.ndarray
    kls: np.ndarray
    """KL(reference ‖ policy) at each token."""
    collisions: np.ndarray
    """log Σ π² at each token."""
    entropies: np.ndarray
    """The reference's, as a share of the largest possible."""
    values: np.ndarray | None = None
    """What a critic expects from each token on."""

    @property
    def S(self) -> float:
        return float(self.tokens.sum())

    @property
    def S0(self) -> float:
        return float(self.ref_tokens.sum())

    @property
    def T(self) -> int:
        return len(self.tokens)

    @property
    def rho(self) -> float:
        return self.S - self.S0

    @property
    def A(self) -> float:
        return self.S / self.T

    @property
    def A0(self) -> float:
        return self.S0 / self.T

    @property
    def D(self) -> float:
        return float(self.kls.sum())


@dataclass(frozen=True)
class Drawn:
    """A sample of the policy."""

    y: Answer
    old: np.ndarray
    """Log-probability of each token when the round began."""
    advantage: float
    old_values: np.ndarray
    """What the critic expected when the round began."""

    @property
    def u(self) -> np.ndarray:
        """log π/π_old of each token."""
        return self.y.tokens - self.old

    @property
    def d(self) -> np.ndarray:
        """log π/π_ref of each token."""
        return self.y.tokens - self.y.ref_tokens

    @property
    def d_old(self) -> np.ndarray:
        return self.old - self.y.ref_tokens


@dataclass(frozen=True)
class Duel:
    """A comparison as a formula reads it; the battery handles soft labels."""

    w: Answer
    r: Answer
    m: float
    """Offset, in units of the reward."""
    gap: float
    """Score of w minus score of r."""

    @property
    def h(self) -> float:
        return self.w.rho - self.r.rho


def ls(x: float) -> float:
    """log sigmoid"""
    return float(-np.logaddexp(0, -x))


def sg(x: float) -> float:
    """sigmoid"""
    return float(np.exp(ls(x)))


def log_odds(a: float) -> float:
    p = np.exp(np.longdouble(a))
    return float(np.log(p / (1 - p)))


PairLoss = Callable[[Duel], float]


@dataclass(frozen=True)
class Case:
    name: str
    knobs: dict[str, Any] = field(default_factory=dict)
    pair: PairLoss | None = None
    """Loss of one comparison."""
    single: Callable[[Answer, bool, float], float] | None = None
    """(response, desirable, statistic of the step) → loss of one response."""
    demonstration: Callable[[Answer], float] | None = None
    """(response) → its share of the numerator; the denominator is the step's tokens."""
    ranked: Callable[[Sequence[Answer], Sequence[int], Sequence[float]], float] | None = None
    """(responses, ranks, scores) → loss of one list."""
    duels: Callable[[Sequence[tuple[Duel, float]]], float] | None = None
    """(comparison, mass) of a whole step → numerator of its loss."""
    bags: Callable[[Sequence[tuple[Answer, bool, float]]], float] | None = None
    """(response, desirable, mass) of a whole step → numerator of its loss."""
    rollouts: Callable[[Sequence[tuple[float, Sequence[Drawn]]]], float] | None = None
    """(weight, samples) of every prompt of a step → numerator of its loss."""
    by_tokens: bool = False
    """Rollouts: divided by tokens, not by samples."""
    holds: bool = False
    """True: a part of the policy is held without gradient, so autograd differs from finite differences."""

    @property
    def id(self) -> str:
        """The name, and the difference from other cases of the same method."""
        words = [str(v) for v in self.knobs.values() if isinstance(v, str)]
        return " ".join([self.name, *words, *(["lists"] if self.ranked else [])])


def logistic(margin: Callable[[Duel], float]) -> PairLoss:
    return lambda d: -ls(margin(d) - d.m)


def f_slope(kind: str, a: float, rho: float) -> float:
    """f′(u) written in u = e^ρ."""
    u = np.exp(rho)
    return float(
        {
            "reverse_kl": np.log(u),
            "forward_kl": -1 / u,
            "jensen_shannon": np.log(2 * u / (1 + u)),
            "alpha": (1 - u**-a) / a,
        }[kind]
    )


def f_dpo(kind: str, a: float = 0.5) -> PairLoss:
    return logistic(lambda d: 0.3 * (f_slope(kind, a, d.w.rho) - f_slope(kind, a, d.r.rho)))


def cdpo(d: Duel) -> float:
    u = 0.3 * d.h - d.m
    return -(1 - 0.15) * ls(u) - 0.15 * ls(-u)


def robust(d: Duel) -> float:
    u = 0.3 * d.h - d.m
    return (-(1 - 0.15) * ls(u) + 0.15 * ls(-u)) / (1 - 2 * 0.15)


def discopop(d: Duel) -> float:
    u = 0.3 * d.h - d.m
    mix = sg(u / 0.4)
    return -ls(u) * (1 - mix) + np.exp(-u) * mix


def ld_margin(d: Duel) -> float:
    n = min(d.w.T, d.r.T)

    def score(y: Answer) -> float:
        ratio = y.tokens - y.ref_tokens
        return float(ratio[:n].sum() + 0.4 * ratio[n:].sum())

    return 0.3 * (score(d.w) - score(d.r))


def power(y: Answer) -> float:
    return 1.5 * (1 - np.exp(y.A) ** -0.3) / 0.3


def rainbow(d: Duel, phi: float) -> float:
    inner = 4.0 * ((d.w.A - d.r.A) - 0.3 * (d.w.A0 - d.r.A0)) - d.m - 4.0 * (1 - 0.3) * 0.2
    return -ls(phi * inner)


def rainbow_scale(d: Duel) -> float:
    return -0.29 * float(np.log(np.concatenate([d.w.entropies, d.r.entropies]).mean()))


def dpop(d: Duel) -> float:
    return -ls(0.3 * (d.h - 2.0 * max(0.0, d.w.S0 - d.w.S)) - d.m)


def wpo(d: Duel) -> float:
    weight = np.exp((d.w.tokens - d.w.collisions).mean()) * np.exp((d.r.tokens - d.r.collisions).mean())
    return min(1.0, weight) * -ls(0.3 * d.h - d.m)


def dno(d: Duel) -> float:
    u = 0.3 * d.h
    return -sg(d.gap) * ls(u - d.m) - sg(-d.gap) * ls(-u + d.m)


def exo_pair(d: Duel) -> float:
    q = sg(0.3 * d.h - d.m)
    return q * np.log(q / 0.98) + (1 - q) * np.log((1 - q) / 0.02)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def exo_list(ys: Sequence[Answer], ranks: Sequence[int], scores: Sequence[float]) -> float:
    del ranks
    p, q = softmax(0.3 * np.array([y.rho for y in ys])), softmax(np.array(scores) / 0.7)
    return float((p * np.log(p / q)).sum())


def info_nca_list(ys: Sequence[Answer], ranks: Sequence[int], scores: Sequence[float]) -> float:
    del ranks
    p, q = softmax(0.3 * np.array([y.rho for y in ys])), softmax(np.array(scores) / 0.7)
    return float(-(q * np.log(p)).sum())


def nca_list(ys: Sequence[Answer], ranks: Sequence[int], scores: Sequence[float]) -> float:
    del ranks
    target = softmax(np.array(scores) / 0.7)
    return -sum(t * ls(0.3 * y.rho) + ls(-0.3 * y.rho) / len(ys) for t, y in zip(target, ys, strict=True))


def plackett_luce(ys: Sequence[Answer], ranks: Sequence[int], scores: Sequence[float]) -> float:
    """Return every order that agrees with the ranks."""
    del scores
    u = [0.3 * y.rho for y in ys]
    total = 0.0
    for order in permutations(range(len(ys))):
        if [ranks[i] for i in order] == sorted(ranks):
            logs = [u[i] - np.logaddexp.reduce([u[j] for j in order[k:]]) for k, i in enumerate(order)]
            total += np.exp(sum(logs))
    return float(-np.log(total))


def kto(y: Answer, desirable: bool, z0: float) -> float:
    return 1.3 * (1 - sg(0.2 * (y.rho - z0))) if desirable else 0.7 * (1 - sg(0.2 * (z0 - y.rho)))


def bco(y: Answer, desirable: bool, delta: float) -> float:
    return -ls(0.2 * y.rho - delta) if desirable else -ls(delta - 0.2 * y.rho)


def quantiles(
    a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]], loss: Callable[[float], float]
) -> float:
    """∫ loss(a(q) − b(q)) dq by walking up both staircases; (value, mass) each."""
    a, b = sorted(a), sorted(b)
    i = j = 0
    left_a, left_b, total = a[0][1], b[0][1], 0.0
    while True:
        step = min(left_a, left_b)
        total += step * loss(a[i][0] - b[j][0])
        left_a, left_b = left_a - step, left_b - step
        if left_a <= 1e-12:
            i += 1
            if i == len(a):
                return total
            left_a += a[i][1]
        if left_b <= 1e-12:
            j += 1
            if j == len(b):
                return total
            left_b += b[j][1]


def smoothed(u: float) -> float:
    return -(1 - 0.15) * ls(u) - 0.15 * ls(-u)


def aot(step: Sequence[tuple[Duel, float]]) -> float:
    policy = [(0.3 * (d.w.S - d.r.S) - d.m, mass) for d, mass in step]
    reference = [(0.3 * (d.w.S0 - d.r.S0), mass) for d, mass in step]
    return quantiles(policy, reference, smoothed)


def aot_unpaired(step: Sequence[tuple[Answer, bool, float]]) -> float:
    bags = [[(0.3 * y.rho, mass) for y, good, mass in step if good is side] for side in (True, False)]
    totals = [sum(mass for _, mass in bag) for bag in bags]
    if not all(totals):
        return 0.0
    up, down = ([(value, mass / total) for value, mass in bag] for bag, total in zip(bags, totals, strict=True))
    return sum(totals) * quantiles(up, down, smoothed)


def each(loss: Callable[[Drawn], float]) -> Callable[[Sequence[tuple[float, Sequence[Drawn]]]], float]:
    """Return the numerator of a loss that reads one sample."""
    return lambda groups: sum(weight * loss(one) for weight, group in groups for one in group)


def reward_to_go(values: np.ndarray, discount: float = 1.0) -> np.ndarray:
    return np.array([sum(discount ** (s - t) * values[s] for s in range(t, len(values))) for t in range(len(values))])


def clipped(u: np.ndarray, a: Any, low: float, high: float, dual: float = np.inf) -> np.ndarray:
    """−min(ω A, clip(ω) A) token by token, in cases."""
    losses = []
    for w, advantage in zip(np.exp(u), np.broadcast_to(a, u.shape), strict=True):
        if advantage >= 0:
            losses.append(-min(w, 1 + high) * advantage)
        else:
            losses.append(min(-max(w, 1 - low) * advantage, -dual * advantage))
    return np.array(losses)


def k3(d: np.ndarray) -> np.ndarray:
    return np.exp(-d) - 1 + d


def rloo(groups: Sequence[tuple[float, Sequence[Drawn]]]) -> float:
    total = 0.0
    for weight, group in groups:
        rhos = [float(one.d_old.sum()) for one in group]
        for i, one in enumerate(group):
            others = [rho for j, rho in enumerate(rhos) if j != i]
            advantage = one.advantage - 0.2 * (rhos[i] - np.mean(others))
            total += -weight * advantage * one.y.S
    return total


def reinforce_pp(groups: Sequence[tuple[float, Sequence[Drawn]]]) -> float:
    raw = [(weight, one, one.advantage - 0.2 * reward_to_go(one.d_old)) for weight, group in groups for one in group]
    every = np.concatenate([a for _, _, a in raw])
    return sum(
        weight * clipped(one.u, (a - every.mean()) / (every.std() + 1e-8), 0.3, 0.3).sum() for weight, one, a in raw
    )


def ppo(groups: Sequence[tuple[float, Sequence[Drawn]]]) -> float:
    """β .2, clip .3, discount .6, trace .5, value_coef .3, value_clip .4; returns as sums over later tokens."""
    raw = []
    for weight, group in groups:
        for one in group:
            rewards, v = -0.2 * one.d_old, [*one.old_values, 0.0]
            rewards[-1] += one.advantage
            deltas = [r + 0.6 * v[t + 1] - v[t] for t, r in enumerate(rewards)]
            raw.append((weight, one, reward_to_go(np.array(deltas), 0.3)))
    every = np.concatenate([a for _, _, a in raw])
    total = 0.0
    for weight, one, a in raw:
        total += weight * clipped(one.u, (a - every.mean()) / (every.std() + 1e-8), 0.3, 0.3).sum()
        for value, old, goal in zip(one.y.values, one.old_values, a + one.old_values, strict=True):
            near = min(max(value, old - 0.4), old + 0.4)
            total += weight * 0.3 * max((value - goal) ** 2, (near - goal) ** 2) / 2
    return total


def masked(one: Drawn) -> float:
    moved, a = np.exp(one.y.tokens) - np.exp(one.old), one.advantage
    kept = moved <= 0.1 if a > 0 else moved >= -0.1
    return float((-np.minimum(np.exp(one.u), 2.0) * a * one.y.tokens)[kept].sum())


CASES = [
    Case("dpo", {"beta": 0.3}, logistic(lambda d: 0.3 * d.h)),
    Case("dpo_nll", {"beta": 0.3, "nll_weight": 0.7}, lambda d: -ls(0.3 * d.h - d.m) - 0.7 * d.w.A),
    Case("ipo", {"tau": 0.2}, lambda d: (d.h - d.m - 1 / (2 * 0.2)) ** 2),
    Case("ipo_mean", {"tau": 0.2}, lambda d: (d.w.rho / d.w.T - d.r.rho / d.r.T - d.m - 1 / (2 * 0.2)) ** 2),
    Case("ln_dpo", {"beta": 3.0}, logistic(lambda d: 3.0 * (d.w.rho / d.w.T - d.r.rho / d.r.T))),
    Case("length_dpo", {"beta": 0.3, "alpha": 0.2}, logistic(lambda d: 0.3 * d.h + 0.2 * (d.w.T - d.r.T))),
    Case("ld_dpo", {"beta": 0.3, "alpha": 0.4}, logistic(ld_margin)),
    Case("f_dpo", {"beta": 0.3, "divergence": "reverse_kl"}, f_dpo("reverse_kl")),
    Case("f_dpo", {"beta": 0.3, "divergence": "forward_kl"}, f_dpo("forward_kl")),
    Case("f_dpo", {"beta": 0.3, "divergence": "jensen_shannon"}, f_dpo("jensen_shannon")),
    Case("f_dpo", {"beta": 0.3, "divergence": "alpha", "alpha": 0.4}, f_dpo("alpha", 0.4)),
    Case("cdpo", {"beta": 0.3, "label_smoothing": 0.15}, cdpo),
    Case("robust_dpo", {"beta": 0.3, "label_smoothing": 0.15}, robust),
    Case("discopop", {"beta": 0.3, "tau": 0.4}, discopop),
    Case("simpo", {"beta": 2.5, "gamma_beta_ratio": 0.4}, logistic(lambda d: 2.5 * (d.w.A - d.r.A - 0.4))),
    Case("orpo", {"odds_weight": 0.25}, lambda d: -d.w.A - 0.25 * ls(log_odds(d.w.A) - log_odds(d.r.A) - d.m)),
    Case("cpo", {"beta": 0.3, "nll_weight": 0.7}, lambda d: -ls(0.3 * (d.w.S - d.r.S) - d.m) - 0.7 * d.w.A),
    Case("slic", {"delta": 6.0, "nll_weight": 0.7}, lambda d: max(0.0, 6.0 - d.w.S + d.r.S + d.m) - 0.7 * d.w.S),
    Case(
        "alphapo",
        {"alpha": 0.3, "beta": 1.5, "gamma_beta_ratio": 0.4},
        logistic(lambda d: power(d.w) - power(d.r) - 1.5 * 0.4),
    ),
    Case(
        "rainbowpo",
        {"beta": 4.0, "alpha": 0.3, "gamma_beta_ratio": 0.2, "dispersion": 0.29},
        lambda d: rainbow(d, rainbow_scale(d)),
    ),
    Case("bco_pair", {"beta": 0.3}, lambda d: -ls(0.3 * d.w.rho) - ls(-0.3 * d.r.rho)),
    Case(
        "nca",
        {"beta": 0.3},
        lambda d: -ls(0.3 * d.w.rho) - 0.5 * ls(-0.3 * d.w.rho) - 0.5 * ls(-0.3 * d.r.rho),
    ),
    Case("nca", {"beta": 0.3, "reward_temperature": 0.7}, ranked=nca_list),
    Case(
        "cal_dpo",
        {"beta": 0.3, "calibration_weight": 0.7},
        lambda d: -ls(d.h - d.m) + 0.7 * (d.w.rho - 1 / 0.6) ** 2 + 0.7 * (d.r.rho + 1 / 0.6) ** 2,
    ),
    Case(
        "sppo",
        {"beta": 0.3, "baseline": 0.4},
        ranked=lambda ys, ranks, scores: sum(
            0.5 * (y.rho - (s - 0.4) / 0.3) ** 2 for y, s in zip(ys, scores, strict=True)
        ),
    ),
    Case(
        "a_star_po",
        {"beta": 0.3},
        ranked=lambda ys, ranks, scores: sum((0.3 * y.rho - s) ** 2 for y, s in zip(ys, scores, strict=True)),
    ),
    Case("sppo", {"beta": 0.3}, lambda d: 0.5 * (d.w.rho - 1 / 0.6) ** 2 + 0.5 * (d.r.rho + 1 / 0.6) ** 2),
    Case("apo_zero", {"beta": 0.3}, lambda d: 1 - sg(0.3 * d.w.rho) + sg(0.3 * d.r.rho)),
    Case("apo_down", {"beta": 0.3}, lambda d: sg(0.3 * d.w.rho) + 1 - sg(0.3 * d.h - d.m)),
    Case("dpop", {"beta": 0.3, "positive_weight": 2.0}, dpop),
    Case("tdpo1", {"beta": 0.3}, logistic(lambda d: 0.3 * (d.h - (d.r.D - d.w.D)))),
    Case("tdpo2", {"beta": 0.3, "alpha": 0.4}, logistic(lambda d: 0.3 * (d.h - 0.4 * (d.r.D - d.w.D)))),
    Case("wpo", {"beta": 0.3}, wpo, holds=True),
    Case("aot", {"beta": 0.3, "label_smoothing": 0.15}, duels=aot),
    Case("aot_unpaired", {"beta": 0.3, "label_smoothing": 0.15}, bags=aot_unpaired),
    Case("odpo", {"beta": 0.3, "alpha": 0.6}, lambda d: -ls(0.3 * d.h - d.m - 0.6 * np.log(d.gap))),
    Case("rebel", {"eta": 0.6}, lambda d: (d.h / 0.6 - d.m - d.gap) ** 2),
    Case("dno", {"eta": 0.3}, dno),
    Case("rso", {"beta": 0.3, "delta": 1.5}, lambda d: max(0.0, 1.5 - 0.3 * d.h + d.m)),
    Case("pl_dpo", {"beta": 0.3}, ranked=plackett_luce),
    Case("info_nca", {"beta": 0.3}, logistic(lambda d: 0.3 * d.h)),
    Case("info_nca", {"beta": 0.3, "reward_temperature": 0.7}, ranked=info_nca_list),
    Case("exo", {"beta": 0.3, "label_smoothing": 0.02}, exo_pair),
    Case("exo", {"beta": 0.3, "reward_temperature": 0.7}, ranked=exo_list),
    Case("kto", {"beta": 0.2, "desirable_weight": 1.3, "undesirable_weight": 0.7}, single=kto),
    Case("bco", {"beta": 0.2}, single=bco),
    Case("sft", {}, demonstration=lambda y: -y.S),
    Case(
        "reinforce",
        {"beta": 0.2, "entropy": 0.1},
        rollouts=each(
            lambda s: -((s.advantage - 0.2 * reward_to_go(s.d_old) - 0.1 * s.old) * s.y.tokens).sum(),
        ),
    ),
    Case("rloo", {"beta": 0.2}, rollouts=rloo),
    Case(
        "grpo",
        {"beta": 0.2, "clip": 0.3, "dual": 2.5, "kl": "k2"},
        rollouts=each(lambda s: (clipped(s.u, s.advantage, 0.3, 0.3, 2.5) + 0.2 * s.d**2 / 2).mean()),
    ),
    Case(
        "grpo",
        {"beta": 0.2, "clip": 0.3, "kl": "k3"},
        rollouts=each(lambda s: (clipped(s.u, s.advantage, 0.3, 0.3) + 0.2 * np.exp(s.u) * k3(s.d)).mean()),
    ),
    Case(
        "grpo",
        {"beta": 0.2, "clip": 0.3, "kl": "k3_as_printed"},
        rollouts=each(lambda s: (clipped(s.u, s.advantage, 0.3, 0.3) + 0.2 * k3(s.d)).mean()),
    ),
    Case(
        "dr_grpo",
        {"beta": 0.2, "clip": 0.3, "horizon": 7.0, "kl": "k2"},
        rollouts=each(lambda s: (clipped(s.u, s.advantage, 0.3, 0.3) + 0.2 * s.d**2 / 2).sum() / 7),
    ),
    Case(
        "dapo",
        {"clip_low": 0.2, "clip_high": 0.4},
        rollouts=each(lambda s: clipped(s.u, s.advantage, 0.2, 0.4).sum()),
        by_tokens=True,
    ),
    Case(
        "gspo",
        {"clip_low": 0.1, "clip_high": 0.2, "beta": 0.2, "kl": "k2"},
        rollouts=each(
            lambda s: float(clipped(s.u.mean(keepdims=True), s.advantage, 0.1, 0.2)[0] + 0.1 * (s.d**2).mean())
        ),
    ),
    Case(
        "cispo",
        {"max_ratio": 1.5, "beta": 0.2, "kl": "k2"},
        rollouts=each(lambda s: (-np.minimum(np.exp(s.u), 1.5) * s.advantage * s.y.tokens + 0.1 * s.d**2).sum()),
        by_tokens=True,
        holds=True,
    ),
    Case("dppo", {"delta": 0.1, "max_ratio": 2.0}, rollouts=each(masked), by_tokens=True, holds=True),
    Case("reinforce_pp", {"beta": 0.2, "clip": 0.3}, rollouts=reinforce_pp, by_tokens=True),
    Case(
        "ppo",
        {"beta": 0.2, "clip": 0.3, "discount": 0.6, "trace": 0.5, "value_coef": 0.3, "value_clip": 0.4},
        rollouts=ppo,
        by_tokens=True,
    ),
    Case(
        "opd",
        {"discount": 0.5},
        rollouts=each(lambda s: ((reward_to_go(s.d_old, 0.5) - s.advantage) * s.y.tokens).sum()),
        by_tokens=True,
    ),
    Case("reward_model", {"centering": 0.3}, lambda d: -ls(d.w.S - d.r.S - d.m) + 0.3 * (d.w.S + d.r.S) ** 2),
]
