"""Losses of published formulas at two fixed points, worked out in double precision apart from this package."""

import math

import pytest
import torch

from tiltlm.core import Labelled, Pairs, ResponseLogps
from tiltlm.objectives import build, reduce_terms

T = (6, 8)
REFERENCE = (-12.5, -14.75)
VECTORS = {"moved": (-12.0, -15.5), "displaced": (-13.5, -18.0), "at reference": REFERENCE}


def responses(chosen: float, rejected: float) -> ResponseLogps:
    tokens = [torch.full((n,), s / n, dtype=torch.float64) for n, s in zip(T, (chosen, rejected), strict=True)]
    index = torch.repeat_interleave(torch.arange(2), torch.tensor(T))
    return ResponseLogps(torch.cat(tokens), index, torch.tensor(T), ref_seq_logps=torch.tensor(REFERENCE).double())


PAIR = Pairs(
    torch.tensor([0]), torch.tensor([1]), torch.tensor([0]),
    torch.ones(1).double(), torch.ones(1).double(), torch.zeros(1).double(), 1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "knobs", "vector", "value"),
    [
        ("dpo", {"beta": 0.1}, "moved", 0.632599),
        ("dpo", {"beta": 0.1}, "displaced", 0.586962),
        ("dpo", {"beta": 0.1}, "at reference", math.log(2)),
        ("ipo", {"tau": 0.1}, "moved", 14.0625),
        ("ipo", {"tau": 0.1}, "displaced", 7.5625),
        ("ipo", {"tau": 0.1}, "at reference", 25.0),
        ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5}, "moved", 1.406150),
        ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5}, "displaced", 1.313262),
        ("orpo", {"odds_weight": 0.1}, "moved", 2.073013),
        ("orpo", {"odds_weight": 0.1}, "displaced", 2.319315),
    ],
)
def test_pair_losses(name, knobs, vector, value):
    terms = build(name, **knobs)(responses(*VECTORS[vector]), PAIR)
    assert float(reduce_terms(terms, PAIR.counts())) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("row", "desirable", "vector", "value"),
    [
        (0, True, "moved", 0.492501),
        (1, False, "moved", 0.476268),
        (0, True, "displaced", 0.529964),
        (1, False, "displaced", 0.414595),
    ],
)
def test_kto_losses(row, desirable, vector, value):
    view = Labelled(
        torch.tensor([row]), torch.tensor([desirable]), torch.tensor([0]), torch.ones(1).double(), 1, baseline=0.2
    )
    (term,) = build("kto", beta=0.1)(responses(*VECTORS[vector]), view)
    assert float(term.values) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("weight", [1.0, 1.4])
def test_kto_at_the_reference_is_half_its_weight(weight):
    view = Labelled(torch.tensor([0]), torch.tensor([True]), torch.tensor([0]), torch.ones(1).double(), 1)
    (term,) = build("kto", desirable_weight=weight)(responses(*REFERENCE), view)
    assert float(term.values) == pytest.approx(weight / 2, abs=1e-12)
