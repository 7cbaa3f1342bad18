"""Shifts of both sides of pairs, which show displacement."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from support.errors import raises
from tiltlm.core import Comparison, Example, Pairs, Response, ResponseLogps
from tiltlm.core.errors import ConfigError
from tiltlm.core.example import token_ids
from tiltlm.diagnostics import PairLogps, measure_displacement


def before(num: int = 50) -> PairLogps:
    rng = np.random.default_rng(0)
    return PairLogps(
        chosen=rng.normal(-40, 5, num),
        rejected=rng.normal(-45, 5, num),
        unit=np.arange(num),
    )


def shifted(chosen: float, rejected: float, noise: float = 0.1) -> PairLogps:
    start, rng = before(), np.random.default_rng(1)
    return replace(
        start,
        chosen=start.chosen + chosen + noise * rng.normal(size=50),
        rejected=start.rejected + rejected + noise * rng.normal(size=50),
    )


def test_shifts_are_per_response():
    result = measure_displacement(before(), shifted(-2.0, -9.0, noise=0.0))
    assert result.chosen.estimate == pytest.approx(-2.0)
    assert result.rejected.estimate == pytest.approx(-9.0)
    assert result.share_chosen_fell.estimate == 1.0


def test_an_example_falls_by_the_mean_of_its_comparisons():
    start = replace(before(4), unit=np.array([0, 0, 0, 1]))
    late = replace(start, chosen=start.chosen + np.array([3.0, -1.0, -1.0, -5.0]))
    result = measure_displacement(start, late)
    assert result.share_chosen_fell.estimate == 0.5
    assert result.chosen.estimate == pytest.approx((1 / 3 - 5) / 2)
    assert result.chosen.n == 2


def test_other_comparisons_are_refused():
    with raises(ConfigError, "other_rows", mentions=["50", "49"]):
        measure_displacement(before(50), before(49))
    with raises(ConfigError, "other_rows"):
        measure_displacement(before(), replace(before(), unit=np.arange(50)[::-1].copy()))


def test_pair_logps_are_read_off_responses_and_joined():
    responses = ResponseLogps(
        torch.tensor([-1.0, -2.0, -4.0], requires_grad=True), torch.tensor([0, 0, 1]), torch.tensor([2, 1])
    )
    rows = (Response(token_ids([1, 2])), Response(token_ids([3])))
    view = Pairs.of([Example("row", token_ids([1]), rows, (Comparison(1, 0), Comparison(0, 1)))], [[0, 1]])
    pack = PairLogps.of(responses, view)
    assert pack.chosen.tolist() == [-4.0, -3.0]
    assert pack.rejected.tolist() == [-3.0, -4.0]
    joined = PairLogps.join([pack, pack])
    assert joined.unit.tolist() == [0, 0, 1, 1]
    assert joined.rejected.tolist() == [-3.0, -4.0, -3.0, -4.0]
