"""The search for a knob that spends a KL, on knobs whose KL is known."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.recipes.studies.knob_search import MAX_RUNS, Target, search_knob


@dataclass
class Run:
    knobs: dict = field(default_factory=dict)


def search(kl_at, values, wanted, noise=0.0):
    """Search from these values; KL at each of 20 prompts is `kl_at(value)` times 1 ± noise."""
    rng = np.random.default_rng(0)

    def kl_of(run):
        return kl_at(run.knobs["beta"]) * (1 + noise * rng.normal(size=20))

    runs = [Run({"beta": value}) for value in values]
    return search_knob(Target("beta", wanted, lambda value: None), runs, kl_of, lambda value, _: Run({"beta": value}))


@pytest.mark.parametrize("kl_at", [lambda b: 0.2 / b**2, lambda b: 1 / b, lambda b: 8 / (1 + b) ** 3, lambda b: b**0.7])
@pytest.mark.parametrize("values", [[0.01, 10.0], [0.3], [2.0, 3.0], [0.1, 0.3, 1.0]])
def test_finds_the_value(kl_at, values):
    found, trained = search(kl_at, values, 1.0)
    if len(values) == 1 and kl_at(2) > kl_at(1):
        return  # one value does not tell in which direction the KL grows
    assert found.is_found
    assert kl_at(found.best.value) == pytest.approx(1.0, rel=0.05)
    assert len(trained) == found.num_trained <= MAX_RUNS
    assert len(found.trials) == len(values) + len(trained)


def test_noise_does_not_lead_astray():
    found, _ = search(lambda b: 0.5 / b, [0.05, 5.0], 1.0, noise=0.1)
    assert found.is_found
    assert found.best.value == pytest.approx(0.5, rel=0.15)


def test_nothing_is_trained_if_a_value_of_the_grid_spends_it():
    found, trained = search(lambda b: 1 / b, [0.5, 1.0, 2.0], 1.0)
    assert (found.best.value, trained) == (1.0, [])


def test_a_knob_that_changes_nothing_ends_unfound():
    found, trained = search(lambda b: 3.0, [0.1, 1.0], 1.0)
    assert not found.is_found
    assert len(trained) <= MAX_RUNS


def test_repetitions_are_averaged():
    runs = [Run({"beta": 1.0}), Run({"beta": 1.0})]
    kls = iter([np.full(20, 0.5), np.full(20, 1.5)])
    found, _ = search_knob(Target("beta", 1.0, lambda value: None), runs, lambda run: next(kls), lambda *_: None)
    assert found.best.kl.estimate == 1.0


def test_refuses_what_is_no_number():
    with raises(ConfigError, "wrong_type", key="name"):
        search_knob(
            Target("name", 1.0, lambda v: None), [Run({"name": "dpo"})], lambda run: np.ones(3), lambda *_: None
        )
    with raises(ConfigError, "not_positive", key="kl"):
        Target("beta", 0.0, lambda value: None)
