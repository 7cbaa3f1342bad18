"""Tiny policies to be references of."""

from collections.abc import Callable

import pytest

from support.tiny_policies import make_policy, some_trees
from tiltlm.core.forest import Tree
from tiltlm.logprobs.policy import PolicyModule


@pytest.fixture
def make() -> Callable[..., PolicyModule]:
    return make_policy


@pytest.fixture
def trees() -> list[Tree]:
    return some_trees(6)
