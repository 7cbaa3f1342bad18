"""The plane of KL and reward: wins by hand, best-of-n in closed form, repetitions, and where more KL did harm."""

import numpy as np
import pytest
from scipy import stats

from tiltlm.evaluation.answers.plane import (
    PolicySamples,
    Track,
    find_drop,
    measure_plane,
    win_shares,
)

NUM_PROMPTS, N, POOL = 40, 8, 96


def policy(name, shift, *, seed=0, knobs=None, step=None, scored=True, spent=None):
    """Return samples whose score is N(shift, 1) and whose log-ratio is N(spent, 0.1), by default of the tilt."""
    rng = np.random.default_rng([seed, int(1000 * shift)])
    gaps = (shift**2 / 2 if spent is None else spent) + 0.1 * rng.normal(size=(NUM_PROMPTS, N))
    scores = shift + rng.normal(size=(NUM_PROMPTS, N))
    return PolicySamples(
        name=name,
        knobs=knobs or {"objective.beta": 1 / shift if shift else 0},
        step=step,
        logps=gaps - 5,
        ref_logps=np.full((NUM_PROMPTS, N), -5.0),
        ended=np.ones((NUM_PROMPTS, N), dtype=bool),
        num_tokens=np.full((NUM_PROMPTS, N), 7.0),
        scores=scores if scored else None,
        wins=win_shares(scores, pool()).mean(1),
    )


def pool():
    return np.random.default_rng(99).normal(size=(NUM_PROMPTS, POOL))


def plane(policies, checkpoints=(), scores=True):
    found = pool() if scores else None
    return measure_plane("judge", "start", policies, checkpoints, found, pool_size=POOL, sizes=[1, 2, 4])


def test_wins_by_hand():
    assert win_shares(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0, 3.0, 0.0]])).tolist() == [[0.5, 0.75]]


def test_best_of_n_wins_as_often_as_in_theory():
    """The best of n of continuous scores beats another draw with probability n/(n+1)."""
    found = plane([policy("a", 0.5)])
    rates = [rate.estimate for rate in found.best_of_n_win_rates]
    assert rates == pytest.approx([1 / 2, 2 / 3, 4 / 5])


def test_a_policy_of_known_gain_and_kl():
    found = plane([policy("a", 0.6)])
    (point,) = found.points
    for interval, truth in ((point.kl, 0.18), (point.gain, 0.6), (point.win_rate, stats.norm.cdf(0.6 / 2**0.5))):
        assert interval.low < truth < interval.high
    assert point.share.low < 1 < point.share.high
    assert point.attainable == pytest.approx(found.base.estimate + 0.6, abs=0.1)


def test_repetitions_are_one_point_with_students_interval():
    runs = [policy(f"seed={s}", 0.5, seed=s, knobs={"objective.beta": 2}) for s in range(3)]
    found = plane([*runs, policy("other", 0.9)])
    assert [point.num_seeds for point in found.points] == [3, 1]
    means = [(run.logps - run.ref_logps).mean() for run in runs]
    expected = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    assert (found.points[0].kl.low, found.points[0].kl.high) == pytest.approx(expected)
    assert found.points[0].name == "beta=2"


def test_more_kl_that_did_harm_is_found_and_noise_is_not():
    nearer, further = policy("nearer", 0.9), policy("further", 0.2, spent=3.0)
    (drop,) = plane([nearer, further]).drops
    assert (drop.nearer, drop.further) == ("nearer", "further")
    expected = (further.scores.mean(1) - nearer.scores.mean(1)).mean()
    assert drop.difference.estimate == pytest.approx(expected)
    assert drop.difference.high < 0
    assert plane([policy("a", 0.5), policy("b", 0.5, seed=3, spent=0.6)]).drops == ()
    other = policy("sft", 0.2, spent=3.0, knobs={"objective.name": "sft"})
    assert plane([nearer, other]).drops == (), "another method, not a longer way"
    growing = [Track(str(k), np.full(30, float(k)), np.full(30, float(k))) for k in range(4)]
    assert find_drop(growing) is None


def test_alarms_of_noise_are_rare():
    """Two policies of equal reward: the further one is said to be worse in about 2.5 % of 500 repeats."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(500):
        near, far = (Track(name, np.full(40, kl), rng.normal(size=40)) for name, kl in (("near", 1.0), ("far", 2.0)))
        alarms += find_drop([near, far]) is not None
    assert alarms / 500 < 0.05


def test_checkpoints_are_in_order_and_looked_through_for_harm():
    steps = [
        policy("run", shift, step=step, spent=kl) for step, shift, kl in ((30, 0.2, 2), (10, 0.4, 0.1), (20, 0.9, 1))
    ]
    found = plane([policy("run", 0.2, spent=2.0)], steps)
    assert [point.step for point in found.checkpoints["run"]] == [10, 20, 30]
    assert [(drop.nearer, drop.further) for drop in found.drops] == [("run at step 20", "run at step 30")]


def test_without_scores_there_are_win_rates_alone():
    found = plane([policy("a", 0.6, scored=False)], scores=False)
    (point,) = found.points
    assert (point.reward, point.gain, point.share, found.tilt, found.best_of_n, found.base) == (None,) * 6
    assert point.win_rate.estimate > 0.5


def test_equal_scores_have_no_frontier():
    flat = policy("a", 0.0)
    scores = np.zeros((NUM_PROMPTS, POOL))
    found = measure_plane("judge", "start", [flat], (), scores, pool_size=POOL, sizes=[1, 2])
    assert found.tilt is None
    assert found.points[0].share is None
