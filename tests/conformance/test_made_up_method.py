"""A method nobody has published: one constructor and one registration, and the whole battery takes it up."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiltlm.links import Squared
from tiltlm.objectives import CATALOG, LengthBonus, Pairwise, register
from tiltlm.rewards import MeanLogRatio

spec = importlib.util.spec_from_file_location("conformance_battery", Path(__file__).with_name("test_battery.py"))
battery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(battery)
OF_THE_CATALOGUE = {"test_every_method_has_a_case", "test_every_knob_is_exercised"}
globals().update(
    {
        name: thing
        for name, thing in vars(battery).items()
        if name == "objective" or (name.startswith("test_") and name not in OF_THE_CATALOGUE)
    }
)


def made_up(beta: float = 2.0, alpha: float = 0.1) -> Pairwise:
    """Made up: regress the length-normalised margin onto 1, a bonus for length included.

    ℓ = ( β [ ρ_w/T_w − ρ_l/T_l ] + α (T_w − T_l) − 1 )²
    """
    return Pairwise(MeanLogRatio(beta), Squared(target=1.0), adjustments=(LengthBonus(alpha),))


def by_hand(d: battery.cases.Duel) -> float:
    return (3.0 * (d.w.rho / d.w.T - d.r.rho / d.r.T) - d.m + 0.2 * (d.w.T - d.r.T) - 1.0) ** 2


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """In the catalogue while these tests run."""
    register(made_up)
    yield
    del CATALOG["made_up"]


@pytest.fixture
def case() -> battery.cases.Case:
    return battery.cases.Case("made_up", {"beta": 3.0, "alpha": 0.2}, by_hand)
