"""Losses of published formulas at fixed points, computed in double precision without this package."""

import math

import pytest
import torch

from tiltlm.core import Comparison, Example, Response, ResponseLogps, UnpairedResponses, token_ids
from tiltlm.objectives import build, reduce_terms

T = (6, 8)
REFERENCE = (-12.5, -14.75)
MOVED, DISPLACED = (-12.0, -15.5), (-13.5, -18.0)
"""Log-probabilities of chosen and rejected response: log-ratios (½, −¾) and (−1, −3¼)."""


def responses(chosen: float, rejected: float) -> ResponseLogps:
    def shared(sums: tuple[float, float]) -> torch.Tensor:
        return torch.cat([torch.full((n,), s / n, dtype=torch.float64) for n, s in zip(T, sums, strict=True)])

    index = torch.repeat_interleave(torch.arange(2), torch.tensor(T))
    return ResponseLogps(shared((chosen, rejected)), index, torch.tensor(T), ref_token_logps=shared(REFERENCE))


ANSWERS = tuple(Response(token_ids([i] * n)) for i, n in enumerate(T))
PAIR = [Example("pair", token_ids([0]), ANSWERS, (Comparison(0, 1),), scores=(3.0, 1.0))]


def loss(name: str, knobs: dict, sums: tuple[float, float], examples=PAIR) -> float:
    objective = build(name, **knobs)
    view = objective.view.of(examples, [[0, 1]] * len(examples))
    return float(reduce_terms(objective(responses(*sums), view), view.counts()))


TABLE = [
    ("dpo", {"beta": 0.1}, 0.632599, 0.586962),
    ("cdpo", {"beta": 0.1, "label_smoothing": 0.1}, 0.645099, 0.609462),
    ("robust_dpo", {"beta": 0.1, "label_smoothing": 0.1}, 0.616974, 0.558837),
    ("ipo", {"tau": 0.1}, 14.062500, 7.562500),
    ("ipo_mean", {"tau": 0.1}, 23.260525, 22.661567),
    ("rso", {"beta": 0.1, "delta": 1.0}, 0.875000, 0.775000),
    ("slic", {"delta": 5.0, "nll_weight": 0.0}, 1.500000, 0.500000),
    ("odpo", {"beta": 0.1, "alpha": 1.0}, 1.017038, 0.954369),
    ("length_dpo", {"beta": 0.1, "alpha": 0.05}, 0.680725, 0.632599),
    ("ln_dpo", {"beta": 5.0}, 0.345391, 0.263765),
    ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5}, 1.406150, 1.313262),
    ("cpo", {"beta": 0.1, "nll_weight": 0.0}, 0.533382, 0.493249),
    ("orpo", {"odds_weight": 0.1}, 2.073013, 2.319315),
    ("alphapo", {"alpha": 0.25, "beta": 2.5, "gamma_beta_ratio": 0.1}, 0.977573, 0.825939),
    ("f_dpo", {"beta": 0.1, "divergence": "jensen_shannon"}, 0.660556, 0.599275),
    ("f_dpo", {"beta": 0.1, "divergence": "forward_kl"}, 0.620473, 0.094891),
    ("f_dpo", {"beta": 0.1, "divergence": "alpha", "alpha": 0.5}, 0.627813, 0.407873),
    ("cal_dpo", {"beta": 0.5, "calibration_weight": 1.0}, 0.564429, 9.162707),
    ("dpop", {"beta": 0.3, "positive_weight": 50.0}, 0.523123, 14.325001),
    ("apo_zero", {"beta": 0.1}, 0.968761, 0.944437),
    ("apo_down", {"beta": 0.1}, 0.981288, 0.919007),
    ("nca", {"beta": 0.1}, 1.355865, 1.338491),
    ("bco_pair", {"beta": 0.1}, 1.324810, 1.288189),
    ("sppo", {"beta": 0.1}, 19.156250, 19.531250),
    ("exo", {"beta": 0.1, "label_smoothing": 0.001}, 2.547625, 2.380645),
    ("discopop", {"beta": 0.05, "tau": 0.05}, 0.877719, 0.869272),
    ("rainbowpo", {"beta": 10.0, "alpha": 0.25, "gamma_beta_ratio": 0.1}, 1.154632, 0.771517),
]

LOG2 = math.log(2)
AT_REFERENCE = [
    ("dpo", {}, LOG2),
    ("f_dpo", {"divergence": "jensen_shannon"}, LOG2),
    ("f_dpo", {"divergence": "forward_kl"}, LOG2),
    ("aot", {}, LOG2),
    ("ln_dpo", {"beta": 5.0}, LOG2),
    ("cdpo", {"label_smoothing": 0.1}, LOG2),
    ("robust_dpo", {"label_smoothing": 0.1}, LOG2),
    ("ld_dpo", {"alpha": 0.3}, LOG2),
    ("odpo", {"alpha": 0.0}, LOG2),
    ("dno", {}, LOG2),
    ("info_nca", {}, LOG2),
    ("dpop", {}, LOG2),
    ("ipo", {"tau": 0.1}, 25.0),
    ("ipo_mean", {"tau": 0.1}, 25.0),
    ("rso", {"delta": 1.0}, 1.0),
    ("nca", {}, 2 * LOG2),
    ("bco_pair", {}, 2 * LOG2),
    ("apo_zero", {}, 1.0),
    ("apo_down", {}, 1.0),
    ("cal_dpo", {"beta": 0.5}, LOG2 + 2.0),
    ("sppo", {"beta": 0.1}, 25.0),
    ("discopop", {}, 0.5 * LOG2 + 0.5),
    ("exo", {"label_smoothing": 0.1}, -LOG2 - 0.5 * math.log(0.1 * 0.9)),
    ("length_dpo", {"alpha": 0.05}, math.log1p(math.exp(0.1))),
    ("rebel", {"eta": 0.3}, 4.0),
]


def ids(table):
    return [" ".join([name, *(f"{k}={v}" for k, v in knobs.items())]) for name, knobs, *_ in table]


@pytest.mark.parametrize(("name", "knobs", "moved", "displaced"), TABLE, ids=ids(TABLE))
def test_losses_of_one_pair(name, knobs, moved, displaced):
    assert loss(name, knobs, MOVED) == pytest.approx(moved, abs=1e-6)
    assert loss(name, knobs, DISPLACED) == pytest.approx(displaced, abs=1e-6)


@pytest.mark.parametrize(("name", "knobs", "value"), AT_REFERENCE, ids=ids(AT_REFERENCE))
def test_losses_where_policy_is_reference(name, knobs, value):
    assert loss(name, knobs, REFERENCE) == pytest.approx(value, abs=1e-12)


def test_orpos_ratio_term_alone():
    """The loss is linear in λ: its slope is −log σ of the log odds ratio."""
    for sums, value in ((MOVED, 0.730130), (DISPLACED, 0.693147)):
        assert loss("orpo", {"odds_weight": 2.0}, sums) - loss("orpo", {"odds_weight": 1.0}, sums) == pytest.approx(
            value, abs=1e-6
        )


def test_nll_terms_are_per_token_but_slics():
    """dpo_nll and cpo add −S_w/T_w per unit of weight, slic −S_w."""
    for name, knobs, per_unit in (("dpo_nll", {}, 2.0), ("cpo", {}, 2.0), ("slic", {"delta": 5.0}, 12.0)):
        one, two = (loss(name, {**knobs, "nll_weight": w}, MOVED) for w in (1.0, 2.0))
        assert two - one == pytest.approx(per_unit, abs=1e-12)


def test_kto_and_bco_of_one_response():
    def single(name: str, row: int, desirable: bool, sums: tuple[float, float], baseline: float, **knobs) -> float:
        one = torch.ones(1, dtype=torch.float64)
        view = UnpairedResponses(
            torch.tensor([row]), torch.tensor([desirable]), torch.tensor([0]), one, 1, baseline=baseline
        )
        return float(reduce_terms(build(name, **knobs)(responses(*sums), view), view.counts()))

    for sums, good, bad in ((MOVED, 0.492501, 0.476268), (DISPLACED, 0.529964, 0.414595)):
        assert single("kto", 0, True, sums, 0.2, beta=0.1) == pytest.approx(good, abs=1e-6)
        assert single("kto", 1, False, sums, 0.2, beta=0.1) == pytest.approx(bad, abs=1e-6)
    for weight in (1.0, 1.4):
        assert single("kto", 0, True, REFERENCE, 0.0, desirable_weight=weight) == pytest.approx(weight / 2, abs=1e-12)
    # softplus(−(0.1·0.5 − 0.03)) and softplus(0.1·(−0.75) − 0.03).
    assert single("bco", 0, True, MOVED, 0.03, beta=0.1) == pytest.approx(math.log1p(math.exp(-0.02)), abs=1e-12)
    assert single("bco", 1, False, MOVED, 0.03, beta=0.1) == pytest.approx(math.log1p(math.exp(-0.105)), abs=1e-12)


def test_a_ranking_of_three():
    """Plackett–Luce with rewards 0.3, 0.1, −0.2, best first."""
    answers = (*ANSWERS, Response(token_ids([2])))
    ranked = Example("list", token_ids([0]), answers, ranks=(1, 2, 3))
    index = torch.arange(3)
    logps = torch.tensor([0.3, 0.1, -0.2], dtype=torch.float64) - 4
    reference = torch.full((3,), -4.0, dtype=torch.float64)
    objective = build("pl_dpo", beta=1.0)
    view = objective.view.of([ranked], [[0, 1, 2]])
    terms = objective(ResponseLogps(logps, index, torch.ones(3, dtype=torch.long), ref_token_logps=reference), view)
    assert float(reduce_terms(terms, view.counts())) == pytest.approx(1.440295, abs=1e-6)
