"""A new method passes the battery with one constructor, one registration and one case."""

from collections.abc import Iterator

import pytest

from support.battery import Battery
from support.objective_cases import Case, Duel
from tiltlm.links import Squared
from tiltlm.objectives import CATALOG, LengthBonus, Pairwise, register
from tiltlm.rewards import MeanLogRatio


def made_up(beta: float = 2.0, alpha: float = 0.1) -> Pairwise:
    """Made up: regress the length-normalised margin onto 1, with a bonus for length.

    ℓ = ( β [ ρ_w/T_w − ρ_l/T_l ] + α (T_w − T_l) − 1 )²
    """
    return Pairwise(MeanLogRatio(beta), Squared(target=1.0), adjustments=(LengthBonus(alpha),))


def by_hand(d: Duel) -> float:
    return (3.0 * (d.w.rho / d.w.T - d.r.rho / d.r.T) - d.m + 0.2 * (d.w.T - d.r.T) - 1.0) ** 2


class TestMadeUp(Battery):
    @pytest.fixture(autouse=True)
    def registered(self) -> Iterator[None]:
        """Keep the method in the catalogue while these tests run."""
        register(made_up)
        yield
        del CATALOG["made_up"]

    @pytest.fixture
    def case(self) -> Case:
        return Case("made_up", {"beta": 3.0, "alpha": 0.2}, by_hand)
