"""Dawid and Skene's model against an EM written out by loops, against known truth, and its own promises."""

import math

import numpy as np
import pytest

from support.errors import raises
from support.voting import simulated, symmetric
from tiltlm.core.errors import ConfigError
from tiltlm.data.labels import LabelSettings, as_votes, fit_dawid_skene, make_labels
from tiltlm.data.labels.dawid_skene import uncertainty
from tiltlm.data.labels.rules import majority


def em_by_loops(table, classes, prior, steps):
    """The algorithm as the paper has it, item by item, in plain probabilities."""
    items, people = sorted({i for i, _, _ in table}), sorted({j for _, j, _ in table})
    posterior = {}
    for i in items:
        votes = [c for item, _, c in table if item == i]
        posterior[i] = [votes.count(k) / len(votes) for k in classes]
    for _ in range(steps):
        shares = [sum(posterior[i][k] for i in items) + prior for k in range(len(classes))]
        shares = [s / sum(shares) for s in shares]
        theta = {}
        for j in people:
            for k in range(len(classes)):
                counts = [
                    sum(posterior[i][k] for i, who, c in table if who == j and c == said)
                    + prior * (2 if said == classes[k] else 1)
                    for said in classes
                ]
                theta[j, k] = [count / sum(counts) for count in counts]
        for i in items:
            joint = []
            for k in range(len(classes)):
                p = shares[k]
                for item, who, c in table:
                    if item == i:
                        p *= theta[who, k][classes.index(c)]
                joint.append(p)
            posterior[i] = [p / sum(joint) for p in joint]
    return posterior, shares, theta


def objective(table, classes, posterior_shares, theta, prior):
    """The logarithm that EM increases: likelihood and prior."""
    total = prior * sum(map(math.log, posterior_shares))
    total += prior * sum(math.log(x) for row in theta.values() for x in row)
    total += prior * sum(math.log(row[k]) for (_, k), row in theta.items())
    for i in sorted({i for i, _, _ in table}):
        p = [
            posterior_shares[k] * math.prod(theta[who, k][classes.index(c)] for item, who, c in table if item == i)
            for k in range(len(classes))
        ]
        total += math.log(sum(p))
    return total


def table_of(votes):
    names = ("a", "b", "tie")
    return [
        (votes.items[i].id, votes.annotators[j], names[c])
        for i, j, c in zip(votes.item, votes.annotator, votes.choice, strict=True)
    ]


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "tie"]])
def test_it_is_the_em_of_the_paper(classes):
    rng = np.random.default_rng(3)
    k = len(classes)
    confusion = np.array([symmetric(p, k) for p in (0.9, 0.8, 0.6, 0.5)])
    _, votes = simulated(rng, confusion, 25, 3, np.full(k, 1 / k))
    fit = fit_dawid_skene(votes, prior=0.7)
    posterior, shares, theta = em_by_loops(table_of(votes), classes, 0.7, fit.steps + 5)
    np.testing.assert_allclose(fit.posterior[:, :k], list(posterior.values()), atol=1e-7)
    np.testing.assert_allclose(fit.shares[:k], shares, atol=1e-7)
    for j, name in enumerate(votes.annotators):
        np.testing.assert_allclose(fit.confusion[j, :k, :k], [theta[name, c] for c in range(k)], atol=1e-6)
    if k == 2:
        assert fit.shares[2] == 0
        assert np.all(fit.posterior[:, 2] == 0)


def test_the_result_is_a_maximum():
    """No small change of a parameter is better."""
    rng = np.random.default_rng(4)
    _, votes = simulated(rng, np.array([symmetric(p) for p in (0.9, 0.8, 0.7)]), 20, 3)
    table, classes = table_of(votes), ["a", "b"]
    fit = fit_dawid_skene(votes)
    theta = {(who, k): list(fit.confusion[j, k, :2]) for j, who in enumerate(votes.annotators) for k in range(2)}
    best = objective(table, classes, list(fit.shares[:2]), theta, 0.5)
    for key, row in theta.items():
        for change in (1e-3, -1e-3):
            other = {**theta, key: [row[0] + change, row[1] - change]}
            assert objective(table, classes, list(fit.shares[:2]), other, 0.5) < best


def test_an_item_counted_twice_is_two_items():
    rng = np.random.default_rng(5)
    _, votes = simulated(rng, np.array([symmetric(p) for p in (0.9, 0.8, 0.7)]), 15, 3)
    weights = rng.integers(0, 3, 15).astype(float)
    copies = [
        (f"{item} copy {n}", who, choice)
        for item, who, choice in table_of(votes)
        for n in range(int(weights[int(item.split()[1])]))
    ]
    weighted, copied = fit_dawid_skene(votes, weights=weights), fit_dawid_skene(as_votes(copies))
    np.testing.assert_allclose(weighted.confusion, copied.confusion, atol=1e-6)
    np.testing.assert_allclose(weighted.shares, copied.shares, atol=1e-7)


def test_the_order_of_votes_does_not_matter():
    rng = np.random.default_rng(6)
    _, votes = simulated(rng, np.array([symmetric(0.8)] * 4), 30, 3)
    table = table_of(votes)
    first, second = fit_dawid_skene(as_votes(table)), fit_dawid_skene(as_votes(table[::-1]))
    np.testing.assert_array_equal(first.posterior, second.posterior)


def test_thousands_of_votes_on_an_item_do_not_underflow():
    table = [("x", f"w{j}", "a" if j % 3 else "b") for j in range(4000)] + [("y", f"w{j}", "b") for j in range(4000)]
    fit = fit_dawid_skene(as_votes(table))
    assert np.isfinite(fit.posterior).all()
    np.testing.assert_allclose(fit.posterior.sum(1), 1)


def test_the_majority_names_the_classes():
    """With good annotators, the likeliest class is the majority's and not its mirror image."""
    rng = np.random.default_rng(7)
    truth, votes = simulated(rng, np.array([symmetric(0.75)] * 5), 200, 5)
    fit = fit_dawid_skene(votes)
    assert np.mean(fit.posterior[:, :2].argmax(1) == truth) > 0.85
    assert np.all(fit.accuracy > 0.5)


def test_it_beats_the_majority_where_annotators_spam():
    """Four of seven answer at random. Mean over twenty data sets, so that the result is no luck."""
    rng = np.random.default_rng(8)
    confusion = np.array([symmetric(p) for p in (0.9, 0.9, 0.85, 0.5, 0.5, 0.5, 0.5)])
    gains = []
    for _ in range(20):
        truth, votes = simulated(rng, confusion, 200, 5)
        by_model = fit_dawid_skene(votes).posterior[:, :2].argmax(1) == truth
        by_majority = (majority(votes) < 0.5) == truth
        gains.append(by_model.mean() - by_majority.mean())
    assert np.mean(gains) > 0.03
    assert np.mean(np.array(gains) > 0) > 0.9


@pytest.mark.slow
def test_intervals_cover_the_true_accuracies_and_the_true_noise():
    """Where annotators err independently, as the model says."""
    rng = np.random.default_rng(9)
    accuracies = (0.95, 0.85, 0.8, 0.7, 0.6)
    confusion = np.array([symmetric(p) for p in accuracies])
    hits, noise_hits = [], []
    for seed in range(25):
        truth, votes = simulated(rng, confusion, 300, 4)
        fit = fit_dawid_skene(votes)
        spread = uncertainty(votes, fit, resamples=80, seed=seed)
        hits += [i.low <= p <= i.high for i, p in zip(spread.accuracy, accuracies, strict=True)]
        wrong = np.mean(fit.posterior[:, :2].argmax(1) != truth)
        noise_hits.append(spread.noise.low <= wrong <= spread.noise.high)
        assert spread.noise.low <= spread.noise.estimate
    assert np.mean(hits) > 0.87  # 0.92 in long simulations
    assert np.mean(noise_hits) > 0.9


def test_two_annotators_do_not_show_who_errs():
    votes = as_votes([("x", "ann", "a"), ("x", "bob", "b"), ("y", "ann", "a"), ("y", "bob", "a")])
    with raises(ConfigError, "too_few", key="--rule"):
        make_labels(votes, LabelSettings("dawid_skene"))
    with raises(ConfigError, "not_positive", key="--prior"):
        fit_dawid_skene(votes, prior=0)
