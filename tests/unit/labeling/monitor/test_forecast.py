import numpy as np
import pytest
from scipy.stats import betabinom

from support.stopping import SETTINGS, make_contest, simulate
from tiltlm.labeling.monitor.contests import outcomes
from tiltlm.labeling.monitor.forecast import SURE, forecast
from tiltlm.labeling.project import ProjectSettings


def test_nothing_is_missing_at_the_end():
    found = forecast(make_contest([[0, 0]] * 18 + [[1, 1]] * 12, 30), SETTINGS)
    assert (found.outcome, found.same_verdict, found.num_missing, found.same_labels) == (0, 1, 0, 1)
    found = forecast(make_contest([[0, 0]] * 28 + [[1, 1]] * 2, 30), SETTINGS)
    assert (found.outcome, found.first_better, found.verdict_is_sure) == (1, 1, True)


def test_decided_pairs_want_no_votes():
    decided = np.array([1.0] * 25 + [np.nan] * 25)
    found = forecast(make_contest([[0]] * 25 + [[0, 0]] * 25, 50, decided=decided), SETTINGS)
    assert found.num_missing == 0


def test_without_votes_nothing_is_said():
    assert forecast(make_contest([], 10), SETTINGS) is None


def test_far_ahead_is_sure_and_a_close_race_is_not():
    far = forecast(make_contest([[0, 0]] * 45 + [[1, 1]] * 5, 100), SETTINGS)
    assert far.first_better > SURE
    assert far.verdict_is_sure
    assert not far.labels_are_sure  # half of the pairs have no label yet
    close = forecast(make_contest([[0, 0]] * 28 + [[1, 1]] * 22, 100), SETTINGS)
    assert close.outcome == 0
    assert not close.verdict_is_sure
    few = forecast(make_contest([[0, 0]] * 15, 300), SETTINGS)
    assert not few.verdict_is_sure  # fewer than 20 prompts


def test_exchanging_the_systems_exchanges_the_chances():
    votes = [[0, 0]] * 30 + [[1, 1]] * 15 + [[0, 1, 2]] * 5
    mirrored = [[{0: 1, 1: 0, 2: 2}[choice] for choice in own] for own in votes]
    one, other = (forecast(make_contest(own, 90), SETTINGS) for own in (votes, mirrored))
    assert one.first_better == pytest.approx(other.second_better, abs=0.02)
    assert one.outcome == -other.outcome or one.outcome == other.outcome == 0


@pytest.mark.parametrize(("wins", "seen", "planned"), [(40, 60, 100), (33, 60, 100), (30, 40, 160), (58, 100, 150)])
def test_single_votes_follow_the_beta_binomial(wins, seen, planned):
    """One vote a pair and no ties: the wins still to come are beta-binomial."""
    settings = ProjectSettings(overlap=1)
    found = forecast(
        make_contest([[0]] * wins + [[1]] * (seen - wins), planned, settings=settings), settings, draws=4000
    )
    totals = wins + np.arange(planned - seen + 1)
    ends = np.array([outcomes(np.repeat([1.0, 0.0], [k, planned - k])[None])[0] for k in totals])
    chances = betabinom.pmf(np.arange(planned - seen + 1), planned - seen, wins + 0.5, seen - wins + 0.5)
    assert found.first_better == pytest.approx(chances[ends > 0].sum(), abs=0.03)
    assert found.second_better == pytest.approx(chances[ends < 0].sum(), abs=0.03)


def test_a_second_vote_agrees_as_often_as_seen():
    """With high agreement a pair with one vote keeps its side; with none, the second vote says nothing about it."""
    alike = [[0, 0], [1, 1]] * 20
    unlike = [[0, 0], [1, 1], [0, 1], [1, 0]] * 10
    settings = ProjectSettings(overlap=2, extra=0)
    high, low = (
        forecast(make_contest([*own, *[[k % 2] for k in range(40)]], 80, settings=settings), settings)
        for own in (alike, unlike)
    )
    assert high.same_labels > 0.93
    assert low.same_labels == pytest.approx(0.5 + 0.5 * 0.5, abs=0.08)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "num_projects", "least_saved"), [(0.5, 25, 0.15), (0.58, 25, 0.1), (0.7, 12, 0.4)])
def test_stopping_is_safe(rate, num_projects, least_saved):
    """If 1 % of stops were wrong, more than 2 of 25 would have a probability of 0.2 %."""
    rng = np.random.default_rng(5)
    found = [simulate(rng, rate, 80, looks=(0.25, 0.5, 0.75, 0.95), draws=500) for _ in range(num_projects)]
    stops = [one for one in found if one.early is not None]
    assert len(stops) > num_projects / 3
    assert sum(one.early != one.end for one in stops) <= 2
    assert 1 - np.mean([one.share for one in found]) > least_saved
