"""How many labels are needed: a learning curve of a small probe on a pilot, with what the pilot cannot say.

The probe is a linear classifier of surface features: words and lengths of the two responses. Its held-out accuracy is
measured on nested subsets of the prompts, and a power law

    accuracy(n) = a − b · n^(−c)

is fitted to it. The probe is no language model: a model that is trained on the same labels learns other things, at
another pace. What the curve shows is whether more labels of this kind still teach a simple learner something, and how
far the pilot is able to tell. Nothing is said beyond `MAX_FACTOR` times the pilot, and nothing where the measured rise
is not clear of noise.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tiltlm.data.rows.records import Record
from tiltlm.data.stats.distinct import hash_of
from tiltlm.data.stats.statistics import text_of
from tiltlm.estimates.intervals import Interval, percentile_interval

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

MAX_PAIRS = 20_000
"""Comparisons of a pilot that are used; their prompts are chosen by a hash."""
MIN_PROMPTS = 100
"""With fewer prompts, the intervals are so wide that no curve is fitted."""
WORDS = 64
"""Features into which words are hashed."""
STYLE = 6
"""Features of style: lengths, lists, question marks, digits, line breaks."""
RIDGE = 1.0
FOLDS = 5
ORDERS = 8
"""Orders in which the prompts of the pilot are taken, so that a subset's luck is averaged out."""
SIZES = 6
RESAMPLES = 400
WIDER = math.sqrt(1 + FOLDS / (FOLDS - 1))
"""Factor on the spread of the bootstrap. The probes of the folds share most of their training labels, so the bootstrap
over test prompts misses that other training labels would give other probes. Source: Nadeau and Bengio 2003, Machine
Learning 52:239: the variance of a mean over folds is (1/FOLDS + 1/(FOLDS − 1)) times that of a fold, not 1/FOLDS."""
FACTORS = (2, 4)
"""Multiples of the pilot for which the curve is continued."""
MAX_FACTOR = FACTORS[-1]
MAX_HALF_WIDTH = 0.1
"""A continued accuracy whose interval is wider than ± this is not given."""
EXPONENTS = np.linspace(0.1, 1.5, 29)
LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s", re.MULTILINE)


def features_of(text: str) -> Floats:
    """Return the features of one response."""
    found = np.zeros(WORDS + STYLE)
    words = text.lower().split()
    for word in words:
        value = hash_of(word)
        found[value % WORDS] += 1.0 if value >> 32 & 1 else -1.0
    found[:WORDS] /= math.sqrt(len(words) + 1)
    signs = (text.count("?"), sum(map(str.isdigit, text)), text.count("\n"), len(LIST_ITEM.findall(text)))
    found[WORDS:] = np.log1p([len(text), len(words), *signs])
    return found


@dataclass
class Pilot:
    """Labelled comparisons as features."""

    rows: list[tuple[bytes, Floats, float]] = field(default_factory=list)
    """Hash of the prompt, features of the chosen response minus those of the other one, 2p − 1."""

    def add(self, record: Record) -> None:
        """Add the comparisons of a row. A tie teaches the probe nothing."""
        key = hashlib.blake2b(record.prompt_key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        features = [features_of(text_of(response)) for response in record.responses]
        for c in record.comparisons:
            if c.preference != 0.5:
                self.rows.append((key, features[c.chosen] - features[c.rejected], 2 * c.preference - 1))
        if len(self.rows) > 2 * MAX_PAIRS:
            self._thin()

    def _thin(self) -> None:
        """Keep `MAX_PAIRS` comparisons, those of the prompts with the smallest hashes."""
        self.rows = sorted(self.rows, key=lambda row: row[0])[:MAX_PAIRS]

    def arrays(self) -> tuple[Floats, Floats, Ints]:
        """Return features [B, F], labels 2p − 1 [B], and the number of each comparison's prompt [B]."""
        self._thin()
        prompts = np.unique(np.array([key for key, _, _ in self.rows], dtype="S16"), return_inverse=True)[1]
        return np.array([x for _, x, _ in self.rows]), np.array([y for _, _, y in self.rows]), prompts


@dataclass(frozen=True)
class Measured:
    """Accuracy of the probe after so many labels."""

    labels: int
    accuracy: Interval


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy against the number of labels."""

    num_labels: int
    num_prompts: int
    measured: tuple[Measured, ...]
    rise: Interval | None
    """Accuracy with the most labels minus that with the fewest."""
    projected: tuple[Measured, ...] = ()
    """The continued curve."""
    gains: tuple[Interval, ...] = ()
    """Accuracy of each of `projected` minus that with the most labels."""
    reason: str = ""
    """Why nothing is projected."""
    code: str = ""
    """The reason as a stable word."""


def learning_curve(pilot: Pilot, *, seed: int = 0, resamples: int = RESAMPLES) -> LearningCurve:
    """Measure the probe on nested subsets of a pilot, and continue its accuracy as far as the pilot can tell.

    Args:
        pilot: Labelled comparisons.
        seed: Seed of folds, orders and of the bootstrap.
        resamples: Draws of the bootstrap over prompts.
    """
    if not pilot.rows:
        return LearningCurve(0, 0, (), None, reason="no comparison has a preferred response", code="no_labels")
    x, y, prompts = pilot.arrays()
    num = int(prompts.max()) + 1
    if num < MIN_PROMPTS:
        text = f"a curve needs at least {MIN_PROMPTS} prompts, and the data has {num}"
        return LearningCurve(len(y), num, (), None, reason=text, code="few_prompts")
    sizes, right = held_out_hits(x, y, prompts, seed)
    rng = np.random.default_rng(seed)
    per_prompt = np.bincount(prompts, minlength=num).astype(np.float64)
    hits = np.zeros((*right.shape[:2], num))
    for o in range(right.shape[0]):
        for s in range(right.shape[1]):
            hits[o, s] = np.bincount(prompts, right[o, s], minlength=num)
    mean = hits.mean(0)
    estimate = mean.sum(1) / per_prompt.sum()
    draws = np.empty((resamples, len(sizes)))
    for d in range(resamples):  # prompts are drawn for the noise of testing, orders for that of training
        often = np.bincount(rng.integers(num, size=num), minlength=num)
        orders = rng.integers(right.shape[0], size=right.shape[0])
        draws[d] = hits[orders].mean(0) @ often / (per_prompt @ often)
    draws = draws.mean(0) + WIDER * (draws - draws.mean(0))
    measured = tuple(
        Measured(int(n), percentile_interval(float(a), draws[:, s], num))
        for s, (n, a) in enumerate(zip(sizes, estimate, strict=True))
    )
    rise = percentile_interval(float(estimate[-1] - estimate[0]), draws[:, -1] - draws[:, 0], num)
    curve = LearningCurve(len(y), num, measured, rise)
    return _projected(curve, sizes, estimate, draws)


def _projected(curve: LearningCurve, sizes: Floats, estimate: Floats, draws: Floats) -> LearningCurve:
    """Return the curve continued to multiples of the pilot, or with the reason why it is not."""
    assert curve.rise is not None
    if not curve.rise.low > 0:
        text = (
            "accuracy does not rise clearly with the number of labels: either the probe cannot see what people prefer, "
            "or it has learned it already. The pilot does not say which"
        )
        return replace(curve, reason=text, code="no_rise")
    every = np.concatenate([estimate[None], draws])
    at = np.array([sizes[-1] * factor for factor in FACTORS])
    found = fit_power_law(sizes, every, at)
    n = curve.num_prompts
    projected = tuple(
        Measured(int(at[k]), percentile_interval(float(found[0, k]), found[1:, k], n)) for k in range(len(at))
    )
    gains = tuple(
        percentile_interval(float(found[0, k] - estimate[-1]), found[1:, k] - draws[:, -1], n) for k in range(len(at))
    )
    sure = [k for k, m in enumerate(projected) if (m.accuracy.high - m.accuracy.low) / 2 <= MAX_HALF_WIDTH]
    if 0 not in sure:
        text = (
            f"the interval at {projected[0].labels:,} labels is wider than ±{MAX_HALF_WIDTH:.0%}: the pilot is too "
            "small to continue the curve"
        )
        return replace(curve, reason=text, code="not_identified")
    return replace(curve, projected=tuple(projected[k] for k in sure), gains=tuple(gains[k] for k in sure))


def held_out_hits(x: Floats, y: Floats, prompts: Ints, seed: int) -> tuple[Floats, Floats]:
    """Return the sizes of the subsets in labels, and which comparisons are right when they are held out.

    Args:
        x: [B, F] features of the chosen response minus those of the other one.
        y: [B] 2p − 1.
        prompts: [B] the prompt of each comparison.
        seed: Seed of folds and orders.

    Returns:
        [S] mean number of labels in the subsets, ascending, and [orders, S, B] P(the label agrees with the probe).
    """
    num = int(prompts.max()) + 1
    rng = np.random.default_rng(seed)
    fold = rng.permutation(num) % FOLDS
    shares = np.geomspace(max(1 / 16, 20 / num), 1, SIZES)
    right = np.zeros((ORDERS, SIZES, len(y)))
    counts = np.zeros(SIZES)
    for o in range(ORDERS):
        place = rng.permutation(num)
        for f in range(FOLDS):
            train, test = fold[prompts] != f, fold[prompts] == f
            rank = np.argsort(np.argsort(np.where(fold == f, num, place)))  # prompts of the fold come last
            available = int((fold != f).sum())
            for s, share in enumerate(shares):
                used = train & (rank[prompts] < max(2, round(share * available)))
                counts[s] += used.sum()
                score = x[test] @ fit_probe(x[used], y[used])
                agrees = np.heaviside(score, 0.5)
                right[o, s, test] = (1 + y[test] * (2 * agrees - 1)) / 2
    return counts / (ORDERS * FOLDS), right


def fit_probe(x: Floats, y: Floats) -> Floats:
    """Return the weights w that minimise Σ (y − w·x/σ)² + RIDGE·|w|², divided by the features' scale σ."""
    scale = np.sqrt((x * x).mean(0)) + 1e-9
    z = x / scale
    ridge = RIDGE * max(1.0, math.sqrt(len(y)))
    weights = np.linalg.solve(z.T @ z + ridge * np.eye(x.shape[1]), z.T @ y)
    return np.asarray(weights / scale)


def fit_power_law(sizes: Sequence[float] | Floats, accuracies: Floats, at: Sequence[float] | Floats) -> Floats:
    """Return the accuracy of a − b·n^(−c), fitted by least squares, at other sizes.

    For each c of a grid, a and b have a closed form; b ≥ 0, and a ≤ 1.

    Args:
        sizes: [S] numbers of labels.
        accuracies: [D, S] curves to fit.
        at: [T] sizes at which the fitted curves are wanted.

    Returns:
        [D, T] accuracies.
    """
    n, wanted = np.asarray(sizes, dtype=np.float64), np.asarray(at, dtype=np.float64)
    best = np.full(len(accuracies), np.inf)
    found = np.zeros((len(accuracies), len(wanted)))
    mean = accuracies.mean(1)
    for c in EXPONENTS:
        t = (n / n[-1]) ** -c
        b = np.maximum(0.0, -((t - t.mean()) * (accuracies - mean[:, None])).sum(1) / ((t - t.mean()) ** 2).sum())
        a = mean + b * t.mean()
        above = a > 1
        b = np.where(above, ((1 - accuracies) * t).sum(1) / (t * t).sum(), b)
        a = np.where(above, 1.0, a)
        error = ((accuracies - (a[:, None] - b[:, None] * t)) ** 2).sum(1)
        better = error < best
        best = np.where(better, error, best)
        values = a[:, None] - b[:, None] * (wanted / n[-1]) ** -c
        found = np.where(better[:, None], values, found)
    return found
