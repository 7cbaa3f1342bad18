import numpy as np
import pytest
from scipy.stats import ttest_1samp
from statsmodels.stats.proportion import proportion_confint

from support.label_facts import make_facts
from tiltlm.labeling.monitor.contests import bounds, find_contests, labels_as_contest, outcomes, win_rate, without
from tiltlm.labeling.monitor.forecast import forecast
from tiltlm.labeling.project import ProjectSettings


def test_values_by_hand():
    votes = [
        *[(0, "ann", "a"), (0, "bob", "a")],  # alpha wins
        *[(1, "ann", "a"), (1, "bob", "tie")],  # ¾, but the two are mirrored: ¼
        *[(2, "ann", "both_bad")],  # ½
        *[(3, "ann", "a"), (3, "bob", "b")],  # decided for b
    ]
    models = dict.fromkeys(range(5), ("alpha", "beta")) | {1: ("beta", "alpha")}
    (found,) = find_contests(make_facts(votes, num_pairs=5, models=models, decided={3: "b"}))
    assert found.systems == ("alpha", "beta")
    assert found.values == pytest.approx([1, 0.25, 0.5, 0, np.nan], nan_ok=True)
    assert found.prompt_values() == pytest.approx([1, 0.25, 0.5, 0])
    assert not found.is_slice
    rest = without(found, make_facts(votes, num_pairs=5, models=models, decided={3: "b"}), "ann")
    assert rest.values == pytest.approx([1, 0.5, np.nan, 0, np.nan], nan_ok=True)


def test_a_decision_about_mirrored_responses_is_mirrored():
    models = {0: ("beta", "alpha"), 1: ("beta", "alpha")}
    votes = [(0, "ann", "a"), (0, "bob", "b"), (1, "ann", "a")]
    (found,) = find_contests(make_facts(votes, num_pairs=2, models=models, decided={0: "a", 1: "tie"}))
    assert found.values.tolist() == [0, 0.5]


def test_a_prompt_is_one_unit():
    votes = [(0, "ann", "a"), (1, "ann", "a"), (2, "ann", "b")]
    (found,) = find_contests(make_facts(votes, num_pairs=3, prompts={0: 7, 1: 7, 2: 3}, overlap=1))
    assert found.num_prompts == 2
    assert sorted(found.prompt_values()) == [0, 1]


def test_each_two_systems_have_a_contest():
    models = {0: ("alpha", "beta"), 1: ("gamma", "alpha"), 2: ("beta", "alpha"), 3: ("alpha", "alpha"), 4: ("", "beta")}
    found = find_contests(make_facts([], num_pairs=5, models=models))
    assert [(one.systems, len(one.counts)) for one in found] == [(("alpha", "beta"), 2), (("alpha", "gamma"), 1)]
    assert len(labels_as_contest(make_facts([], num_pairs=5, models=models)).counts) == 5


def test_chosen_pairs_are_no_sample_until_all_are_seen():
    votes = [(k, "ann", "a") for k in (1, 2, 5, 6, 7)] + [(3, "ann", "skip")]
    options = {"num_pairs": 8, "in_slice": (1, 3, 4, 5), "overlap": 1}
    (found,) = find_contests(make_facts(votes, select="uncertain", **options))
    assert found.is_slice
    assert found.keys == ("pair 00001", "pair 00003", "pair 00004", "pair 00005")
    # pair 4 is the first one that nobody saw; the vote on 5 came by choice, and counts when 4 has been seen
    assert found.values == pytest.approx([1, np.nan, np.nan, np.nan], nan_ok=True)
    assert forecast(found, ProjectSettings(overlap=1)).num_missing == 3
    (found,) = find_contests(make_facts(votes, select="random", **options))
    assert len(found.keys) == 8
    complete = [*votes, (0, "ann", "a"), (4, "ann", "a")]
    (found,) = find_contests(make_facts(complete, select="uncertain", **options))
    assert not found.is_slice
    assert len(found.keys) == 8


def test_the_random_slice_has_no_selection_bias():
    """Pairs that system alpha wins come first. The slice, voted up to any point, stays fair."""
    rng = np.random.default_rng(0)
    naive, fair = [], []
    for _ in range(60):
        wins = rng.random(200) < 0.5
        order = [k for k in np.argsort(~wins, kind="stable") if k >= 60][:70]
        reached = rng.integers(20, 50)
        seen = sorted({*order, *range(reached)})
        facts = make_facts(
            [(int(k), "ann", "a" if wins[k] else "b") for k in seen],
            num_pairs=200,
            in_slice=range(60),
            overlap=1,
            select="uncertain",
        )
        (found,) = find_contests(facts)
        fair.append(found.prompt_values().mean())
        naive.append(labels_as_contest(facts).prompt_values().mean())
    assert np.mean(naive) > 0.7
    assert np.mean(fair) == pytest.approx(0.5, abs=4 * np.std(fair) / np.sqrt(60))


def test_the_interval_is_students_with_many_prompts():
    values = np.random.default_rng(0).choice([0, 0.5, 1], 80)
    found = win_rate(values)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.n == 80


@pytest.mark.parametrize("values", [[1.0] * 6 + [0.0], [1.0] * 40, [0.0] * 25])
def test_the_interval_is_wilsons_with_few_prompts_or_without_spread(values):
    found = win_rate(np.array(values))
    low, high = proportion_confint(sum(values), len(values), method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(2)
    for n in (12, 25, 200):
        for chances in ([0.5, 0.5, 0], [0.7, 0.2, 0.1], [0.9, 0.1, 0], [0.2, 0.2, 0.6]):
            low, high = bounds(rng.choice([1, 0, 0.5], p=chances, size=(2000, n)))
            truth = chances[0] + chances[2] / 2
            assert np.mean((low <= truth) & (truth <= high)) > 0.925, (n, chances)


def test_outcomes():
    values = np.stack([np.ones(30), np.zeros(30), np.tile([0.0, 1.0], 15), np.full(30, 0.5)])
    assert outcomes(values).tolist() == [1, -1, 0, 0]
    assert win_rate(np.zeros(0)) is None
