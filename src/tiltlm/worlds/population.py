"""A finite world as data without end: each response, label and comparison with the mass it has in the population.

The world is handed to an objective through the package's own examples and views, so the population loss is the
objective's own code, and its minimiser is what infinitely much data would teach. No noise of sampling, no copy of a
formula.
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
"""Comparisons as an annotator draws them, each order with its probability; or each pair once with P as a soft label."""
Population = tuple[list[Example], list[list[int]]]
"""Examples, and which of the K responses each is about: the arguments of `View.of`."""


def comparisons(world: FiniteWorld, labels: Labels = "sampled") -> Population:
    """All comparisons of the world as one example, which is therefore what the loss is divided by."""
    k = world.num_responses
    weight = (2 * world.sampler * world.preference).tolist()
    if labels == "sampled":
        rows = [Comparison(i, j, weight[i][j]) for i in range(k) for j in range(k) if weight[i][j] > 0]
    else:
        both, p = (2 * world.sampler).tolist(), world.preference.tolist()
        rows = [Comparison(i, j, both[i][j], p[i][j]) for i in range(k) for j in range(i) if both[i][j] > 0]
        rows += [Comparison(i, i, both[i][i] / 2, 0.5) for i in range(k) if both[i][i] > 0]
    answers = _answers(world)
    return [Example("world", token_ids([0]), answers, tuple(rows), scores=tuple(world.reward.tolist()))], [
        list(range(k))
    ]


def unpaired(world: FiniteWorld) -> Population:
    """Every response as desirable and as undesirable, by how often a comparison's winner and loser it is."""
    answers, k = _answers(world), world.num_responses
    masses = ((True, world.chosen_mass), (False, world.rejected_mass))
    rows = [
        Example(f"{i} {label}", token_ids([0]), (answers[i],), labels=(label,), weight=k * float(mass[i]))
        for label, mass in masses
        for i in range(k)
    ]
    return rows, [[i] for _ in masses for i in range(k)]


def demonstrations(world: FiniteWorld, logps: Float[Tensor, " K"] | None = None) -> Population:
    """Demonstrations drawn from a policy, given as log-probabilities; unless named, what wins the comparisons.

    Weighted so that the loss, a mean over tokens, is that of endless data.
    """
    mass = world.chosen_mass if logps is None else logps.exp()
    scale = world.lengths.sum() / (mass @ world.lengths.double())
    rows = [
        Example(f"{i}", token_ids([0]), (answer,), weight=float(scale * mass[i]))
        for i, answer in enumerate(_answers(world))
    ]
    return rows, [[i] for i in range(world.num_responses)]


def rankings(world: FiniteWorld) -> Population:
    """All K! orders with their probability under Plackett–Luce by the reward: the best is drawn first, and so on."""
    k, answers, rows = world.num_responses, _answers(world), []
    for order in permutations(range(k)):
        ranked = world.reward[list(order)]
        left = torch.logcumsumexp(ranked.flip(0), 0).flip(0)
        ranks = tuple(int(rank) + 1 for rank in np.argsort(order))
        mass = float((ranked - left).sum().exp())
        rows.append(Example(f"{order}", token_ids([0]), answers, ranks=ranks, weight=math.factorial(k) * mass))
    return rows, [list(range(k))] * len(rows)


def scored(world: FiniteWorld) -> Population:
    """The K responses as one list with their gold rewards as scores."""
    scores = tuple(world.reward.tolist())
    return [Example("world", token_ids([0]), _answers(world), scores=scores)], [list(range(world.num_responses))]


def _answers(world: FiniteWorld) -> tuple[Response, ...]:
    """Stand-ins with the right number of tokens; no token says anything."""
    return tuple(Response(token_ids([i] * int(length))) for i, length in enumerate(world.lengths))


NATURAL: dict[Shape, Callable[[FiniteWorld], Population]] = {
    "pairs": comparisons,
    "unpaired": unpaired,
    "lists": scored,
    "demonstrations": demonstrations,
}
"""What an objective is shown unless told otherwise, by the shape of its data."""


@dataclass(frozen=True, eq=False)
class Fit:
    """The minimiser of a population loss."""

    logps: Float[Tensor, " K"]
    """log π(y) there; where there is no minimiser, a point far along the way to it."""
    minimum: Minimum

    @property
    def finite(self) -> bool:
        """False where the loss falls forever: no policy with full support minimises it."""
        return self.minimum.finite


def view_of(objective: Objective, population: Population, baseline: float = 0.0) -> View:
    """The objective's view of a population, with the statistic of the step (KTO's z0, BCO's δ) held at `baseline`."""
    view = objective.view.of(*population)
    return view.with_baseline(baseline) if isinstance(view, UnpairedResponses) else view


def population_loss(
    objective: Objective, world: FiniteWorld, logps: Float[Tensor, " K"], view: View | None = None
) -> Float[Tensor, ""]:
    """The objective's expected loss over the whole population, gradient to `logps`.

    Args:
        objective: any method of the catalogue, or composed by hand.
        world: whose population it is.
        logps: log π(y); need not be normalised, so that the slope in single responses can be asked for.
        view: another population than the objective's natural one, by `view_of`.
    """
    shown = view_of(objective, NATURAL[objective.shape](world)) if view is None else view
    return reduce_terms(objective(world.responses(logps), shown), shown.counts())


def fit_policy(
    objective: Objective, world: FiniteWorld, view: View | None = None, start: Float[Tensor, " K"] | None = None
) -> Fit:
    """The policy that minimises the population loss, by Newton's method on K tabular logits.

    One whose odds lie e³⁰ and more from those of the start counts as none.

    Args:
        objective: any method whose loss is smooth and whose gradient is that of its value.
        world: whose population it is.
        view: another population than the natural one.
        start: logits to begin with; the reference unless given.

    Raises:
        NumericsError: neither a minimum nor an escape to infinity was found.
    """
    shown = view_of(objective, NATURAL[objective.shape](world)) if view is None else view
    first = torch.zeros(1, dtype=torch.float64)

    def policy(free: Tensor) -> Tensor:
        # The first logit is held at 0: raising all alike changes no policy, and would have no curvature.
        return torch.log_softmax(torch.cat([first, free]), 0)

    def loss(free: Tensor) -> Tensor:
        return population_loss(objective, world, policy(free), shown)

    logits = world.ref_logps if start is None else start
    minimum = minimise(loss, logits[1:] - logits[0])
    return Fit(policy(minimum.point), minimum)
