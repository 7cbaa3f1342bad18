"""Minimise a smooth function of a few numbers to rounding accuracy, or find that it has no finite minimum.

Population minimisers are compared with closed forms to 1e-6 and better, so descent must be exact. Newton's method also
tells a minimum from a loss that decreases without end: at a minimum the step goes to zero; on an exponential tail the
gradient goes to zero and the step does not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import NumericsError

Function = Callable[[Tensor], Tensor]
"""A twice differentiable scalar function of P numbers."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """The point where the descent ended."""

    point: Float[Tensor, " P"]
    loss: float
    """The function's value there."""
    gradient_norm: float
    """Largest absolute entry of the gradient there."""
    finite: bool
    """True at a minimum; False if the point diverged, because the infimum lies at infinity."""


def minimise(function: Function, start: Float[Tensor, " P"], *, reach: float = 30.0, max_steps: int = 500) -> Minimum:
    """Descend from `start` by Newton's method, with absolute values of the curvatures and backtracking.

    Args:
        function: A twice differentiable scalar function, float64.
        start: First point. If there are several minima, the result depends on it.
        reach: Distance from `start` in a coordinate beyond which the function counts as having no finite minimum.
            Beyond some 30 nats the curvature of a logistic tail is lost in rounding.
        max_steps: Limit of steps; a minimum takes a few dozen.

    Raises:
        NumericsError: Neither a minimum nor an escape was found within `max_steps`, for example at a kink.
    """
    point = start.detach().double()
    for _ in range(max_steps):
        loss, gradient, step = _newton_step(function, point)
        if float((point - start).abs().max()) > reach:
            return Minimum(point, loss, float(gradient.abs().max()), finite=False)
        if float(gradient.abs().max()) < 1e-10 and float(step.abs().max()) < 1e-7:
            return Minimum(point, loss, float(gradient.abs().max()), finite=True)
        point = _backtrack(function, point, loss, gradient, step)
    raise NumericsError(
        f"there is no minimum within {max_steps} steps; the gradient is still {gradient.abs().max():.1e}",
        code="no_minimum",
    )


def _newton_step(function: Function, point: Tensor) -> tuple[float, Tensor, Tensor]:
    leaf = point.clone().requires_grad_()
    loss = function(leaf)
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    rows = [torch.autograd.grad(g, leaf, retain_graph=True)[0] for g in gradient]
    curvature, direction = torch.linalg.eigh(torch.stack(rows))
    sizes = curvature.abs()
    along = direction.T @ gradient.detach()
    # A direction without curvature (responses that are never compared) has no gradient either, only rounding errors.
    flat = sizes < 1e-15 * sizes.max()
    step = direction @ torch.where(flat, 0.0, -along / sizes.clamp(min=1e-300))
    return float(loss.detach()), gradient.detach(), step.clamp(-4, 4)


def _backtrack(function: Function, point: Tensor, loss: float, gradient: Tensor, step: Tensor) -> Tensor:
    slope = float(gradient @ step)
    for halvings in range(40):
        size = 0.5**halvings
        predicted = size * slope
        lower = float(function(point + size * step).detach())
        # Differences below rounding carry no information; that close to the minimum the full step is right.
        if lower <= loss + 1e-4 * predicted or -predicted < 1e-13 * max(abs(loss), 1.0):
            return point + size * step
    return point
