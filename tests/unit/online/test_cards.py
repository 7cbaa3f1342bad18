"""Cards: what follows from those of earlier rounds."""

import math
from dataclasses import replace

import pytest

from tiltlm.diagnostics import Interval
from tiltlm.online.cards import Card, steered

PLAIN = Card(0, 8, 16, None, None, None, 10.0, 0.0, 0.5, 1.0, 8, {}, {}, 16, 160, 40, 0, 200, 1e6, 0.0, 1, 0.1)


def of_kl(kl, samples=100):
    return replace(PLAIN, num_samples=samples, kl=None if kl is None else Interval(kl, kl, kl, 0.95, 8))


def test_a_steered_coefficient_by_hand():
    """Target 6, horizon 1,000: KL 12 is clipped to +.2, KL 6.6 is +.1, KL 3 is clipped to −.2; 100 samples a round."""
    cards = [of_kl(12.0), of_kl(6.6), of_kl(3.0)]
    expected = [0.1, 0.1 * 1.02, 0.1 * 1.02 * 1.01, 0.1 * 1.02 * 1.01 * 0.98]
    assert [steered(0.1, cards[:k], 6.0, 1000) for k in range(4)] == pytest.approx(expected)


def test_a_round_without_a_kl_changes_no_coefficient():
    assert steered(0.1, [of_kl(None), of_kl(math.nan)], 6.0, 1000) == 0.1


def test_a_card_survives_its_plain_values():
    card = replace(of_kl(1.5), kl_coef=0.05, effective=0.9)
    assert Card.of(card.as_dict()) == card
