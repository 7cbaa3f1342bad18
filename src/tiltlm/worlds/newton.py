"""The minimum of a smooth function of a few numbers, to rounding; or the statement that there is none.

Population minimisers are compared with closed forms to 1e-6 and better, so descent must end exactly. Newton's method
also tells a minimum from a loss that falls forever: at a minimum the step goes to zero, on an exponential tail the
gradient does and the step does not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import NumericsError

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where the descent ended."""

    point: Float[Tensor, " P"]
    loss: float
    gradient_norm: float
    """Largest absolute entry of the gradient there."""
    finite: bool
    """True at a minimum; False where the point ran away: the infimum lies at infinity."""


def minimise(function: Function, start: Float[Tensor, " P"], *, reach: float = 30.0, max_steps: int = 500) -> Minimum:
    """Descend from `start` by Newton's method with the absolute values of the curvatures and backtracking.

    Args:
        function: a twice differentiable scalar function, float64.
        start: where to begin; of several minima, the one below it is found.
        reach: how far from `start` a coordinate may go before the function is said to have no finite minimum. Beyond
            some 30 nats the curvature of a logistic tail is lost in rounding.
        max_steps: an end for functions that are neither; a minimum takes a few dozen.

    Raises:
        NumericsError: neither a minimum nor an escape within `max_steps`, as at a kink.
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
        f"no minimum within {max_steps} steps; the gradient is still {gradient.abs().max():.1e}", code="no_minimum"
    )


def _newton_step(function: Function, point: Tensor) -> tuple[float, Tensor, Tensor]:
    leaf = point.clone().requires_grad_()
    loss = function(leaf)
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    rows = [torch.autograd.grad(g, leaf, retain_graph=True)[0] for g in gradient]
    curvature, direction = torch.linalg.eigh(torch.stack(rows))
    sizes = curvature.abs()
    along = direction.T @ gradient.detach()
    # Along a direction without curvature (parts that nothing compares) there is no gradient either, only rounding.
    flat = sizes < 1e-15 * sizes.max()
    step = direction @ torch.where(flat, 0.0, -along / sizes.clamp(min=1e-300))
    return float(loss.detach()), gradient.detach(), step.clamp(-4, 4)


def _backtrack(function: Function, point: Tensor, loss: float, gradient: Tensor, step: Tensor) -> Tensor:
    slope = float(gradient @ step)
    for halvings in range(40):
        size = 0.5**halvings
        promised = size * slope
        lower = float(function(point + size * step).detach())
        # Below rounding the comparison says nothing; so close to the minimum the full step is right.
        if lower <= loss + 1e-4 * promised or -promised < 1e-13 * max(abs(loss), 1.0):
            return point + size * step
    return point
