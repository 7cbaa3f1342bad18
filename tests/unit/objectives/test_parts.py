"""Bases of parts and objectives: abstract, with defaults, and cheap to read in every step."""

from dataclasses import dataclass, replace

import pytest

from tiltlm.links import Link, Logistic
from tiltlm.objectives import Adjustment, ChosenNLL, OnPolicy, Pairwise, Regulariser, Statistic, Weighting, dpo, sft
from tiltlm.objectives.plain_parts import ROLES
from tiltlm.objectives.shapes.base import ObjectiveBase
from tiltlm.objectives.shapes.listwise import ListLoss
from tiltlm.objectives.shapes.weighted_sum import WeightedSum
from tiltlm.rewards import LogRatio, Reward

BASES = [Adjustment, Regulariser, Weighting, Statistic, ListLoss, Reward, Link, ObjectiveBase]


@pytest.mark.parametrize("base", BASES)
def test_an_unfinished_part_cannot_be_built(base):
    unfinished = dataclass(frozen=True)(type("Unfinished", (base,), {}))
    with pytest.raises(TypeError, match="abstract"):
        unfinished()


def test_every_role_has_parts_and_no_base():
    for role, parts in ROLES.items():
        assert parts, role
        assert all(issubclass(part, role) and part is not role for part in parts.values())


def test_requirements_of_parts_are_combined_once():
    objective = Pairwise(LogRatio(0.1), Logistic(), weighting=OnPolicy(), regularisers=(ChosenNLL(),))
    assert objective.extras == {"log_collisions"}
    assert objective.extras is objective.extras
    assert objective.parts == (ChosenNLL(), OnPolicy())
    both = WeightedSum((objective, sft()), (1.0, 1.0))
    assert both.extras is both.extras
    assert both.view is both.view


def test_a_changed_copy_combines_its_own_parts():
    objective = Pairwise(LogRatio(0.1), Logistic(), weighting=OnPolicy())
    assert objective.extras == {"log_collisions"}
    assert replace(objective, weighting=None).extras == frozenset()
    assert replace(objective, weighting=None) == dpo(0.1)
