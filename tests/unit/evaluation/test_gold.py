"""Gold reward: win rates by hand, and a policy that is a known tilt of its reference."""

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.diagnostics import AttainmentCurve
from tiltlm.evaluation import Line, compare_gold
from tiltlm.evaluation.gold import win_rates

LEVELS = [0.0, 1.0, 2.0]


def test_win_rate_of_all_pairs_of_samples():
    """2 beats 0 and 1; 1 beats 0 and ties 1: (1 + 1 + 1 + ½) / 4. The second prompt: 0 against 0 and 2 is ½, 0."""
    found = win_rates([[2.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]])
    assert found.tolist() == pytest.approx([3.5 / 4, 1 / 4])


def test_a_line_leaves_unknown_points_out():
    nan = np.nan
    curve = AttainmentCurve(
        *(np.array(c) for c in ([1, 2, 3], [0.0, 0.5, nan], [0.0, 1.0, nan], [0, 0, 0], [1, 1, 1], [9, 9, 1]))
    )
    found = Line.of(curve)
    assert found == Line((1.0, 2.0), (0.0, 1.0), (0.0, 0.5), (0.0, 0.0), (1.0, 1.0))


def tilted_world(beta: float, seed: int = 0):
    """Samples of a reference and of its exact tilt at β, with the exact log-ratios."""
    rng = np.random.default_rng(seed)
    levels = np.array(LEVELS)
    masses = np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.6, 0.2, 0.2], [0.3, 0.4, 0.3]] * 6)
    tilt = masses * np.exp(levels / beta)
    tilt /= tilt.sum(1, keepdims=True)
    reference = np.stack([rng.choice(3, 400, p=m) for m in masses])
    policy = np.stack([rng.choice(3, 200, p=m) for m in tilt])
    ratio = np.log(tilt / masses)
    return levels[policy], np.take_along_axis(ratio, policy, 1), levels[reference], masses, tilt


def test_the_tilt_itself_reaches_what_is_attainable():
    policy, gaps, reference, masses, tilt = tilted_world(beta=0.8)
    found = compare_gold(policy, gaps, reference, LEVELS)
    true_gain = ((tilt - masses) @ np.array(LEVELS)).mean()
    true_kl = (tilt * np.log(tilt / masses)).sum(1).mean()
    assert found.attainment.gain.low < true_gain < found.attainment.gain.high
    assert found.attainment.kl.low < true_kl < found.attainment.kl.high
    assert found.attainment.share.low < 1 < found.attainment.share.high
    assert not found.is_above_frontier
    assert (found.num_prompts, found.policy_samples, found.reference_samples) == (24, 200, 400)
    assert found.win_rate.low > 0.5
    assert found.tilt.kl[0] == pytest.approx(0, abs=1e-12)
    assert found.best_of_n.setting[:2] == (1.0, 2.0)


def test_a_policy_that_claims_more_than_is_possible_is_seen():
    policy, gaps, reference, *_ = tilted_world(beta=0.8)
    assert compare_gold(np.full_like(policy, 2.0), 0.1 * gaps, reference, LEVELS).is_above_frontier


def test_an_unmoved_policy_gains_nothing():
    _, _, reference, *_ = tilted_world(beta=0.8)
    found = compare_gold(reference, np.zeros_like(reference), reference, LEVELS)
    assert found.attainment.gain.estimate == pytest.approx(0)
    assert found.win_rate.estimate == pytest.approx(0.5)
    assert found.attainment.kl.estimate == 0


def test_shapes_and_levels_are_checked():
    with raises(ConfigError, "other_rows", mentions=["(1, 1)", "(2, 1)"]):
        compare_gold([[1.0]], [[0.0]], [[1.0], [2.0]], LEVELS)
    with raises(ConfigError, "unknown_level", key="rewards", mentions=["1.5"]):
        compare_gold([[1.0]], [[0.0]], [[1.5]], LEVELS)
