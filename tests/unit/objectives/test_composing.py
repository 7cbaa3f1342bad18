"""Objectives from plain values: descriptions build equal objectives; impossible or useless values are errors."""

import pytest
import yaml

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.links import Hinge, Logistic, Sigmoid, Smoothed
from tiltlm.objectives import (
    Anchor,
    ChosenNLL,
    LengthBonus,
    Listwise,
    MismatchedKL,
    Pairwise,
    PlackettLuce,
    Unpaired,
    WeightedSum,
    dpo,
    kto,
    length_dpo,
    pl_dpo,
    sft,
)
from tiltlm.objectives.composing import compose, describe_spec, notes_on, spell_out
from tiltlm.rewards import LogRatio, MeanLogp

RATIO = {"name": "log_ratio", "beta": 0.1}
BUILT = {
    "a name": ({"name": "dpo", "beta": 0.3}, dpo(0.3)),
    "the parts of dpo": ({"data": "pairs", "reward": RATIO, "link": "logistic"}, dpo(0.1)),
    "the parts of length_dpo": (
        {
            "data": "pairs",
            "reward": RATIO,
            "link": {"name": "logistic"},
            "adjustments": [{"name": "length_bonus", "alpha": 0.2}],
        },
        length_dpo(0.1, 0.2),
    ),
    "nobody's method": (
        {
            "data": "pairs",
            "reward": {"name": "mean_logp", "beta": 2.0},
            "link": {"name": "smoothed", "link": {"name": "hinge", "margin": 0.5}, "label_smoothing": 0.1},
            "adjustments": [{"name": "length_bonus", "alpha": 0.05}],
            "regularisers": [
                {"name": "chosen_nll", "weight": 0.1},
                {"name": "anchor", "side": "rejected", "reward": RATIO, "link": "sigmoid", "sign": -1, "weight": 0.2},
            ],
            "strength": 0.7,
        },
        Pairwise(
            MeanLogp(2.0),
            Smoothed(Hinge(0.5), 0.1),
            adjustments=(LengthBonus(0.05),),
            regularisers=(ChosenNLL(0.1), Anchor("rejected", LogRatio(0.1), Sigmoid(), -1, 0.2)),
            strength=0.7,
        ),
    ),
    "unpaired": (
        {"data": "unpaired", "reward": RATIO, "link": "sigmoid", "statistic": "mismatched_kl"},
        Unpaired(LogRatio(0.1), Sigmoid(), MismatchedKL(LogRatio(0.1))),
    ),
    "lists": ({"data": "lists", "reward": RATIO, "loss": "plackett_luce"}, Listwise(LogRatio(0.1), PlackettLuce())),
    "a sum": (
        {"sum": [{"name": "dpo", "weight": 0.8}, {"name": "sft", "weight": 0.2}]},
        WeightedSum((dpo(), sft()), (0.8, 0.2)),
    ),
    "a sum with parts": (
        {"sum": [{"data": "pairs", "reward": RATIO, "link": "logistic", "weight": 2}, {"name": "sft", "weight": 1}]},
        WeightedSum((Pairwise(LogRatio(0.1), Logistic()), sft()), (2.0, 1.0)),
    ),
}


@pytest.mark.parametrize("name", BUILT)
def test_what_is_described_is_built(name):
    spec, expected = BUILT[name]
    assert compose(spec) == expected


@pytest.mark.parametrize("name", BUILT)
def test_spelt_out_and_through_yaml_it_is_the_same(name):
    spec, expected = BUILT[name]
    written = yaml.safe_load(yaml.safe_dump(spell_out(spec)))
    assert compose(written) == expected
    assert spell_out(written) == spell_out(spec)


def test_methods_are_their_parts():
    assert compose({"data": "lists", "reward": RATIO, "loss": "plackett_luce"}) == pl_dpo(0.1)
    assert compose({"data": "unpaired", "reward": RATIO, "link": "sigmoid", "statistic": "mismatched_kl"}) == kto(0.1)


def test_descriptions_are_readable():
    assert describe_spec(spell_out(BUILT["a sum"][0])) == "0.8 dpo + 0.2 sft"
    assert describe_spec(spell_out(BUILT["the parts of dpo"][0])) == "log_ratio × logistic on pairs"


@pytest.mark.parametrize(
    ("spec", "code", "key", "mentions"),
    [
        ({}, "missing_setting", "objective.name", ["tiltlm objectives"]),
        ({"name": "dpo", "sum": []}, "conflict", "objective", ["name", "sum"]),
        ({"data": "pairs", "reward": "log_ratio", "link": "logistic"}, "missing_setting", "objective.reward.beta", []),
        (
            {"data": "pairs", "reward": {"name": "log_ratoi"}, "link": "logistic"},
            "unknown_name",
            "objective.reward",
            ["'log_ratoi'", "'log_ratio'"],
        ),
        (
            {"data": "pairs", "reward": RATIO, "link": {"name": "logistic", "beta": 3}},
            "unknown_setting",
            "objective.link.beta",
            ["logistic"],
        ),
        (
            {"data": "pair", "reward": RATIO, "link": "logistic"},
            "unknown_name",
            "objective.data",
            ["'pair'", "'pairs'"],
        ),
        ({"reward": RATIO, "link": "logistic"}, "missing_setting", "objective.data", ["pairs"]),
        (
            {"data": "unpaired", "reward": RATIO, "link": "sigmoid", "adjustments": []},
            "unknown_setting",
            "objective.adjustments",
            ["unpaired"],
        ),
        (
            {"data": "pairs", "reward": {**RATIO, "beta": -0.1}, "link": "logistic"},
            "not_positive",
            "objective.reward.beta",
            ["-0.1"],
        ),
        (
            {
                "data": "pairs",
                "reward": RATIO,
                "link": "logistic",
                "regularisers": [{"name": "chosen_nll", "weight": 0}],
            },
            "no_effect",
            "objective.regularisers.0.weight",
            ["chosen_nll"],
        ),
        ({"sum": [{"name": "dpo", "weight": 1}]}, "too_few_terms", "objective.sum", []),
        (
            {"sum": [{"name": "dpo", "weight": 0}, {"name": "sft", "weight": 1}]},
            "not_positive",
            "objective.sum.0.weight",
            ["0"],
        ),
        ({"sum": [{"name": "dpo"}, {"name": "sft", "weight": 1}]}, "missing_setting", "objective.sum.0.weight", []),
        (
            {"sum": [{"name": "kto", "weight": 1}, {"name": "dpo", "weight": 1}]},
            "no_common_data",
            "objective.sum",
            ["pairs, unpaired", "bco_pair"],
        ),
        ({"sum": [{"sum": [], "weight": 1}, {"name": "dpo", "weight": 1}]}, "nested_sum", "objective.sum.0", []),
    ],
)
def test_what_cannot_be_or_does_nothing_is_refused(spec, code, key, mentions):
    with raises(ConfigError, code, key=key, mentions=mentions):
        compose(spec)


@pytest.mark.parametrize(
    ("name", "ours", "note"),
    [
        ("trl:sigmoid", "dpo", "dpo"),
        ("trl:ipo", "ipo_mean", "summed"),
        ("trl:hinge", "rso", "SLiC"),
        ("trl:robust", "robust_dpo", "robust_dpo"),
        ("trl:simpo", "simpo", "γ itself"),
        ("rdpo", "robust_dpo", "robust_dpo"),
        ("ipo", "ipo", "TRL's ipo"),
    ],
)
def test_names_of_peers_say_what_they_are_here(name, ours, note):
    objective = compose({"name": name})
    assert describe_spec(spell_out({"name": name})) == ours
    assert note in " ".join(notes_on({"name": name}))
    assert objective == compose(spell_out({"name": name}))


@pytest.mark.parametrize(
    ("spec", "code", "key", "mentions"),
    [
        ({"name": "r_dpo"}, "no_method", "objective.name", ["length_dpo", "robust_dpo"]),
        ({"name": "trl:nonsense"}, "unknown_name", "objective.name", ["'nonsense'", "trl", "sigmoid"]),
        (
            {"name": "trl:simpo", "simpo_gamma": 0.5},
            "renamed_setting",
            "objective.simpo_gamma",
            ["gamma_beta_ratio", "γ/β"],
        ),
    ],
)
def test_names_that_would_mislead_are_refused(spec, code, key, mentions):
    with raises(ConfigError, code, key=key, mentions=mentions):
        compose(spec)
