"""`Objective`, the terms that it returns, and the only function that divides them.

Terms are weighted and unreduced until the counts of the whole optimiser step are known, over all packs and ranks. So
packing, accumulation and sharding cannot change a number beyond rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core import Counts, Example, Responses, View
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.core.views import Slots
from tiltlm.objectives.parts.statistics import Statistic
from tiltlm.rewards import Learned, Reward


@runtime_checkable
class ViewOf(Protocol):
    """A factory of the index view that an objective reads."""

    def of(self, examples: Sequence[Example], slots: Slots) -> View:
        """Return the view of these examples; `slots` are their response indices from `build_trees`."""
        ...


class Divisor(Enum):
    """The count over the whole step that a term is divided by; weights do not change it."""

    EXAMPLES = "examples"
    RESPONSES = "responses"
    TOKENS = "tokens"

    def of(self, counts: Counts) -> int:
        """Return this divisor's count."""
        return int(getattr(counts, self.value))


@dataclass(frozen=True, eq=False)
class Term:
    """U weighted, unreduced contributions to a loss; gradient flows through `values`."""

    values: Float[Tensor, " U"]
    example: Int[Tensor, " U"]
    """Index of the example in the batch that each value belongs to."""
    divisor: Divisor


@runtime_checkable
class Objective(Protocol):
    """A method: reward, link and data shape together. `ObjectiveBase` has defaults for most of these properties."""

    @property
    def view(self) -> ViewOf:
        """The index view it reads: `Pairs`, `UnpairedResponses`, `Lists`, `Demonstrations`, or several of them."""
        ...

    @property
    def shape(self) -> Shape:
        """The shape of the data it learns from."""
        ...

    @property
    def coupled(self) -> bool:
        """True if an example's loss depends on other examples of its step, beyond a statistic without gradient."""
        ...

    @property
    def needs_reference(self) -> bool:
        """True if it reads log-probabilities of a reference."""
        ...

    @property
    def statistic(self) -> Statistic | None:
        """The statistic of the whole step, without gradient, that is computed before the loss."""
        ...

    @property
    def needs(self) -> frozenset[Need]:
        """Columns that the data must have beyond its shape."""
        ...

    @property
    def uses(self) -> frozenset[Use]:
        """Optional columns that change its loss: `weight`, `offset`, `preference`. Data with other ones is refused."""
        ...

    @property
    def extras(self) -> frozenset[Extra]:
        """Numbers per token that it reads beside log-probabilities."""
        ...

    @property
    def reward(self) -> Reward:
        """The reward whose values are logged."""
        ...

    def __call__(self, responses: Responses, view: Any, /) -> tuple[Term, ...]:
        """Return weighted, unreduced losses of the view's rows; `view` is of the objective's own kind."""
        ...


def reads_scores(objective: Objective) -> bool:
    """Return True if the objective reads a reward model's `ResponseScores`, False if a policy's `ResponseLogps`."""
    return isinstance(objective.reward, Learned)


def reduce_terms(terms: Sequence[Term], counts: Counts) -> Float[Tensor, ""]:
    """Return the loss, Σ over terms of Σ values / count: of a step, or a pack's share of it.

    Args:
        terms: The contributions of the step or the pack.
        counts: The counts of the whole step.
    """
    return torch.stack([term.values.sum() / term.divisor.of(counts) for term in terms]).sum()


def example_losses(terms: Sequence[Term], counts: Sequence[Counts]) -> Float[Tensor, " E"]:
    """Return the loss of each example as if it were the only one of its step; a baseline stays the whole step's.

    Args:
        terms: The contributions of a batch.
        counts: The counts of each example.
    """
    losses = torch.zeros(len(counts), dtype=torch.float64)
    for term in terms:
        sums = torch.zeros(len(counts), dtype=torch.float64)
        sums.index_add_(0, term.example.cpu(), term.values.detach().double().cpu())
        losses += sums / torch.tensor([term.divisor.of(c) for c in counts], dtype=torch.float64)
    return losses
