"""Newton's method on functions whose minima are known, and on some that have none."""

import pytest
import torch
from torch import Tensor

from support.errors import raises
from tiltlm.core import NumericsError
from tiltlm.worlds.newton import minimise

START = torch.tensor([-1.2, 1.0], dtype=torch.float64)


def test_a_bowl_is_left_at_its_bottom():
    target = torch.tensor([3.0, -2.0], dtype=torch.float64)
    found = minimise(lambda x: ((x - target) ** 2 @ torch.tensor([1.0, 100.0], dtype=torch.float64)) + 5.0, START)
    assert found.finite
    assert found.loss == pytest.approx(5.0)
    torch.testing.assert_close(found.point, target)


def test_a_curved_valley():
    """Rosenbrock's function is not convex on the way."""
    found = minimise(lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2, START)
    assert found.finite
    torch.testing.assert_close(found.point, torch.ones(2, dtype=torch.float64), atol=1e-8, rtol=0)


def test_a_saddle_is_passed():
    """From near the saddle of (x² − 1)² + y² it finds a minimum, not the saddle."""
    found = minimise(lambda x: (x[0] ** 2 - 1) ** 2 + x[1] ** 2, torch.tensor([1e-3, 0.5], dtype=torch.float64))
    assert found.finite
    assert abs(float(found.point[0])) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("tail", [lambda x: torch.nn.functional.softplus(-x).sum(), lambda x: -torch.sigmoid(x).sum()])
def test_an_exponential_tail_has_no_minimum(tail):
    """The gradient vanishes on the way, and the step does not."""
    found = minimise(tail, START)
    assert not found.finite
    assert found.gradient_norm < 1e-9


def test_a_direction_that_nothing_holds_stays_where_it_was():
    found = minimise(lambda x: (x[0] - 1) ** 2, START)
    assert found.finite
    assert found.point.tolist() == pytest.approx([1.0, 1.0])


def test_a_kink_is_not_called_a_minimum():
    def absolute(x: Tensor) -> Tensor:
        return (x - 0.3).abs().sum() + (x**2).sum() * 1e-3

    with raises(NumericsError, "no_minimum", mentions=["50"]):
        minimise(absolute, START, max_steps=50)
