"""Corrections: factors of tokens by hand, and what is left out of a step."""

from dataclasses import replace

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core import ConfigError, Credit, Example, Response, Rollouts, token_ids
from tiltlm.online.examples.corrections import CorrectionSettings, corrected, effective_share

RATIOS = np.log([0.25, 1.0, 3.0])
"""Their product is .75, their geometric mean .909."""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (CorrectionSettings(), [1, 1, 1]),
        (CorrectionSettings("token_truncate", high=2.0), [0.25, 1, 2]),
        (CorrectionSettings("token_mask", low=0.5, high=5.0), [0, 1, 3]),
        (CorrectionSettings("token_mask", low=0.2, high=2.0), [0.25, 1, 0]),
        (CorrectionSettings("sequence_truncate", high=0.5), [0.5, 0.5, 0.5]),
        (CorrectionSettings("sequence_truncate", high=2.0), [0.75, 0.75, 0.75]),
        (CorrectionSettings("sequence_mask", high=3.0), [0.75, 0.75, 0.75]),
        (CorrectionSettings("sequence_mask", high=0.7), None),
        (CorrectionSettings("geometric_mask", low=0.9, high=1.1), [1, 1, 1]),
        (CorrectionSettings("geometric_mask", low=0.95, high=1.1), None),
    ],
)
def test_factors_by_hand(settings, expected):
    found = settings.factors(RATIOS)
    if expected is None:
        assert found is None
    else:
        assert found.tolist() == pytest.approx(expected)


def test_a_ratio_that_overflows_is_cut_and_one_of_zero_is_left_out():
    huge = np.array([800.0, -900.0])
    assert CorrectionSettings("token_truncate").factors(huge).tolist() == [2.0, 0.0]
    assert CorrectionSettings("sequence_truncate").factors(huge[:1]).tolist() == [2.0]
    assert CorrectionSettings("sequence_mask").factors(huge[:1]) is None


def test_a_response_whose_tokens_are_all_outside_is_left_out():
    assert CorrectionSettings("token_mask").factors(np.log([9.0, 0.01])) is None


@pytest.mark.parametrize(
    ("settings", "code", "key"),
    [
        ({"kind": "token_trunc"}, "unknown_name", "correction.kind"),
        ({"high": 3.0}, "no_effect", "correction.high"),
        ({"kind": "token_truncate", "low": 0.3}, "no_effect", "correction.low"),
        ({"kind": "token_truncate", "high": 0.0}, "not_positive", "correction.high"),
        ({"kind": "geometric_mask", "low": 1.0}, "out_of_range", "correction.low"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, code, key):
    with raises(ConfigError, code, key=key):
        CorrectionSettings(**settings)


def example(*olds):
    answers = tuple(Response(token_ids(range(k + 1, k + 1 + len(old)))) for k, old in enumerate(olds))
    credits = tuple(Credit(float(k), np.array(old, dtype=np.float32)) for k, old in enumerate(olds))
    return Example("e", token_ids([1]), answers, credits=credits, weight=2.0)


def test_samples_that_are_left_out_are_in_no_divisor_and_keep_the_others_advantages():
    given = example([-1.0, -1.0], [-1.0, -2.0, -1.0], [-3.0])
    behaviours = [np.array([-1.0, -1.5], np.float32), np.array([-9.0, -2.0, -1.0], np.float32), None]
    (found,) = corrected([given], [behaviours], CorrectionSettings("sequence_mask", high=3.0))
    assert [credit.advantage for credit in found.credits] == [0.0, 2.0]
    assert found.weight == 2.0
    factors = [credit.correction.tolist() for credit in found.credits]
    assert factors == [pytest.approx([np.exp(0.5)] * 2), [1.0]]
    assert Rollouts.of([found], [[0, 1]]).counts().responses == 2


def test_masked_tokens_are_in_no_divisor():
    given = example([-1.0, -1.0, -1.0])
    behaviour = np.array([-1.0, -4.0, -1.2], np.float32)
    (found,) = corrected([given], [[behaviour]], CorrectionSettings("token_mask", high=5.0))
    view = Rollouts.of([found], [[0]])
    assert view.counts().tokens == 2
    assert view.num_credited.tolist() == [2]
    assert view.is_credited.tolist() == [True, False, True]


def test_an_example_without_any_sample_left_is_left_out():
    given = example([-1.0], [-1.0])
    far = np.array([-9.0], np.float32)
    assert corrected([given], [[far, far]], CorrectionSettings("sequence_mask")) == []


def test_the_effective_share():
    """Weights 1, 1, 4: 36/(3·18) = 2/3."""
    given = example([-1.0], [-1.0], [-1.0])
    weights = (1.0, 1.0, 4.0)
    credits = tuple(replace(c, correction=np.array([w])) for c, w in zip(given.credits, weights, strict=True))
    assert effective_share([replace(given, credits=credits)]) == pytest.approx(2 / 3)
    assert effective_share([given]) is None
