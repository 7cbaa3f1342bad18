"""A finite world as infinite data: each response, label and comparison with its mass in the population.

An objective reads the world through the package's own examples and views. So the population loss is computed by the
objective's own code, without sampling noise, and its minimiser is the policy that infinite data leads to.

    fit = fit_policy(dpo(beta=0.5), world)
    fit.logps, fit.finite
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Comparison, Example, Response, UnpairedResponses, View, token_ids
from tiltlm.core.needs import Shape
from tiltlm.objectives import Objective, reduce_terms
from tiltlm.worlds.finite import FiniteWorld
from tiltlm.worlds.newton import Minimum, minimise

Labels = Literal["sampled", "soft"]
"""`sampled`: both orders of each pair with their probability. `soft`: each pair once, with P as its soft label."""
Population = tuple[list[Example], list[list[int]]]
"""Examples, and the indices among the K responses of each example's responses: the arguments of `View.of`."""


def comparisons(world: FiniteWorld, labels: Labels = "sampled") -> Population:
    """Return all comparisons of the world as one example, so that the loss is divided by 1."""
    k = world.num_responses
    weight = (2 * world.sampler * world.preference).tolist()
    if labels == "sampled":
        rows = [Comparison(i, j, weight[i][j]) for i in range(k) for j in range(k) if weight[i][j] > 0]
    else:
        both, p = (2 * world.sampler).tolist(), world.preference.tolist()
        rows = [Comparison(i, j, both[i][j], p[i][j]) for i in range(k) for j in range(i) if both[i][j] > 0]
        rows += [Comparison(i, i, both[i][i] / 2, 0.5) for i in range(k) if both[i][i] > 0]
    responses = _responses(world)
    return [Example("world", token_ids([0]), responses, tuple(rows), scores=tuple(world.reward.tolist()))], [
        list(range(k))
    ]


def unpaired(world: FiniteWorld) -> Population:
    """Return every response as desirable and as undesirable, weighted by how often it wins and loses a comparison."""
    responses, k = _responses(world), world.num_responses
    masses = ((True, world.chosen_mass), (False, world.rejected_mass))
    rows = [
        Example(f"{i} {label}", token_ids([0]), (responses[i],), labels=(label,), weight=k * float(mass[i]))
        for label, mass in masses
        for i in range(k)
    ]
    return rows, [[i] for _ in masses for i in range(k)]


def demonstrations(world: FiniteWorld, logps: Float[Tensor, " K"] | None = None) -> Population:
    """Return demonstrations from a policy, given as log-probabilities; by default the winners of the comparisons.

    Weights make the loss, a mean over tokens, equal to that of infinite data.
    """
    mass = world.chosen_mass if logps is None else logps.exp()
    scale = world.lengths.sum() / (mass @ world.lengths.double())
    rows = [
        Example(f"{i}", token_ids([0]), (response,), weight=float(scale * mass[i]))
        for i, response in enumerate(_responses(world))
    ]
    return rows, [[i] for i in range(world.num_responses)]


def rankings(world: FiniteWorld) -> Population:
    """Return all K! orders, best first, with their probability under Plackett–Luce by the reward."""
    k, responses, rows = world.num_responses, _responses(world), []
    for order in permutations(range(k)):
        ranked = world.reward[list(order)]
        left = torch.logcumsumexp(ranked.flip(0), 0).flip(0)
        ranks = tuple(int(rank) + 1 for rank in np.argsort(order))
        mass = float((ranked - left).sum().exp())
        rows.append(Example(f"{order}", token_ids([0]), responses, ranks=ranks, weight=math.factorial(k) * mass))
    return rows, [list(range(k))] * len(rows)


def scored(world: FiniteWorld) -> Population:
    """Return the K responses as one list with their gold rewards as scores."""
    scores = tuple(world.reward.tolist())
    return [Example("world", token_ids([0]), _responses(world), scores=scores)], [list(range(world.num_responses))]


def _responses(world: FiniteWorld) -> tuple[Response, ...]:
    """Return responses with the right number of tokens; the token ids have no meaning."""
    return tuple(Response(token_ids([i] * int(length))) for i, length in enumerate(world.lengths))


NATURAL: dict[Shape, Callable[[FiniteWorld], Population]] = {
    "pairs": comparisons,
    "unpaired": unpaired,
    "lists": scored,
    "demonstrations": demonstrations,
}
"""The default population, by the shape of an objective's data."""


@dataclass(frozen=True, eq=False)
class Fit:
    """The minimiser of a population loss."""

    logps: Float[Tensor, " K"]
    """Log π(y) at the minimum; if there is no finite minimum, at a distant point of the descent."""
    minimum: Minimum
    """Loss and gradient there."""

    @property
    def finite(self) -> bool:
        """False if the loss decreases without end: no policy with full support minimises it."""
        return self.minimum.finite


def view_of(objective: Objective, population: Population, baseline: float = 0.0) -> View:
    """Return the objective's view of a population, with the statistic of the step (KTO's z0, BCO's δ) at `baseline`."""
    view = objective.view.of(*population)
    return view.with_baseline(baseline) if isinstance(view, UnpairedResponses) else view


def population_loss(
    objective: Objective, world: FiniteWorld, logps: Float[Tensor, " K"], view: View | None = None
) -> Float[Tensor, ""]:
    """Return the objective's expected loss over the whole population; gradient reaches `logps`.

    Args:
        objective: A method of the catalogue, or any other objective.
        world: The world.
        logps: log π(y). It need not be normalised, so that the gradient with respect to one response can be computed.
        view: A view made by `view_of`, to use another population than the default one.
    """
    view = view_of(objective, NATURAL[objective.shape](world)) if view is None else view
    return reduce_terms(objective(world.responses(logps), view), view.counts())


def fit_policy(
    objective: Objective, world: FiniteWorld, view: View | None = None, start: Float[Tensor, " K"] | None = None
) -> Fit:
    """Find the policy that minimises the population loss, by Newton's method on K logits.

    A minimum whose odds differ by a factor of e³⁰ or more from those of the start counts as infinite.

    Args:
        objective: A method with a smooth loss whose gradient is complete: no factor is treated as a constant.
        world: The world.
        view: A view made by `view_of`, to use another population than the default one.
        start: Logits to begin with; the reference by default.

    Raises:
        NumericsError: Neither a minimum nor an escape to infinity was found.
    """
    view = view_of(objective, NATURAL[objective.shape](world)) if view is None else view
    first = torch.zeros(1, dtype=torch.float64)

    def policy(free: Tensor) -> Tensor:
        # The first logit is fixed at 0: adding a constant to all logits changes no policy and has no curvature.
        return torch.log_softmax(torch.cat([first, free]), 0)

    def loss(free: Tensor) -> Tensor:
        return population_loss(objective, world, policy(free), view)

    logits = world.ref_logps if start is None else start
    minimum = minimise(loss, logits[1:] - logits[0])
    return Fit(policy(minimum.point), minimum)
