import numpy as np
import pytest

from tiltlm.data.labels.agreement import krippendorff
from tiltlm.labeling.monitor.planning import plan_project
from tiltlm.labeling.project import ProjectSettings


def test_labels_and_hours_by_hand():
    settings = ProjectSettings(overlap=3, extra=0, gold_share=0.1, repeat_share=0.15)
    plan = plan_project(200, settings, num_people=4, num_gold=50, num_calibration=10)
    assert (plan.num_votes, plan.num_extra) == (600, 0)
    assert (plan.num_gold, plan.num_repeats, plan.num_calibration) == (80, 120, 40)  # 600 are three quarters
    assert plan.num_labels == 840
    assert plan.hours == pytest.approx(840 * 37 / 3600)
    assert plan.hours_each == pytest.approx(plan.hours / 4)


def test_a_practice_example():
    """200 pairs times 3 are 600 labels, about 6.1 hours."""
    plan = plan_project(200, ProjectSettings(overlap=3, extra=0, gold_share=0, repeat_share=0))
    assert plan.num_labels == 600
    assert plan.hours == pytest.approx(6.1666, abs=1e-3)
    assert plan.hours_each is None


def test_gold_is_asked_at_most_once_of_everybody():
    plan = plan_project(1000, ProjectSettings(overlap=2, gold_share=0.4), num_people=3, num_gold=5)
    assert plan.num_gold == 15


def test_disputes_add_votes_only_where_two_people_vote():
    assert plan_project(100, ProjectSettings(overlap=1, extra=1)).num_extra == 0
    assert plan_project(100, ProjectSettings(overlap=2, extra=1)).num_extra == 30


def test_the_width_of_a_win_rate_is_that_of_simulated_ones():
    rng = np.random.default_rng(0)
    means = rng.choice([1.0, 0.0, 0.5], p=[0.45, 0.45, 0.1], size=(4000, 150)).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    found = plan_project(150, ProjectSettings(overlap=1)).rate_half_width
    assert found == pytest.approx((high - low) / 2, rel=0.06)


@pytest.mark.parametrize(("raters", "num", "right"), [(2, 100, 0.8), (3, 200, 0.75), (5, 100, 0.85)])
def test_the_width_of_alpha_is_that_of_its_bootstrap(raters, num, right):
    rng = np.random.default_rng(1)
    widths = []
    for _ in range(5):
        truth = rng.integers(0, 2, num)
        votes = np.where(rng.random((num, raters)) < right, truth[:, None], 1 - truth[:, None])
        counts = np.stack([(votes == k).sum(1) for k in range(2)], axis=1).astype(float)
        interval = krippendorff(counts, resamples=300)
        assert interval is not None
        widths.append((interval.high - interval.low) / 2)
    found = plan_project(num, ProjectSettings(overlap=raters)).alpha_half_width
    assert found == pytest.approx(np.mean(widths), rel=0.15)


def test_what_cannot_be_measured_is_not_promised():
    plan = plan_project(100, ProjectSettings(overlap=1))
    assert plan.alpha_half_width is None
    empty = plan_project(0, ProjectSettings())
    assert empty.rate_half_width is None
    assert empty.num_labels == 0
    assert "about 0 labels" in empty.lines()[0]
