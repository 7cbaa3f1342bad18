"""Worlds for tests of theory: unequal lengths, a reference far from uniform, three ways to draw comparisons."""

import pytest
import torch
from torch import Tensor, tensor

from tiltlm.worlds.finite import FiniteWorld, product_sampler

REWARD = tensor([0.0, 0.4, 1.0, -0.7]).double()
LENGTHS = tensor([3, 1, 7, 2])
REFERENCE = tensor([0.3, 0.0, -0.5, 0.2]).double()
GENERAL = tensor([[1.0, 4.0, 2.0, 0.5], [4.0, 0.0, 1.0, 3.0], [2.0, 1.0, 2.0, 5.0], [0.5, 3.0, 5.0, 1.0]]).double()


def world_of(sampler: Tensor | None) -> FiniteWorld:
    return FiniteWorld.of(REWARD, LENGTHS, REFERENCE, sampler=sampler)


@pytest.fixture(scope="session")
def uniform() -> FiniteWorld:
    return world_of(None)


@pytest.fixture(scope="session")
def on_policy() -> FiniteWorld:
    """Return a world whose comparisons are of samples of the reference."""
    return world_of(product_sampler(torch.log_softmax(REFERENCE, 0)))


@pytest.fixture(scope="session")
def general() -> FiniteWorld:
    """Return a world whose comparisons are drawn by a symmetric matrix that is not a product."""
    return world_of(GENERAL / GENERAL.sum())
