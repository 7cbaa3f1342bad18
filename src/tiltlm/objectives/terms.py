"""What an objective returns, and the one place where it is divided.

Losses are weighted and unreduced until the counts of the whole optimiser step are known, over all packs and ranks: so
packing, accumulation and sharding cannot change a number beyond rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core import Counts, Example, ResponseLogps, View
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.core.views import Slots
from tiltlm.objectives.parts.statistics import Statistic
from tiltlm.rewards import Learned, Reward


@runtime_checkable
class ViewOf(Protocol):
    """Makes the index view that an objective reads."""

    def of(self, examples: Sequence[Example], slots: Slots) -> View:
        """The view of these examples, `slots` being where `grow` put their responses."""
        ...


class Divisor(Enum):
    """What a term is divided by, counted over the whole step; weights do not enter it."""

    EXAMPLES = "examples"
    RESPONSES = "responses"
    TOKENS = "tokens"

    def of(self, counts: Counts) -> int:
        """The count this divisor stands for."""
        return int(getattr(counts, self.value))


@dataclass(frozen=True, eq=False)
class Term:
    """U weighted, unreduced contributions to a loss; gradient flows through `values`."""

    values: Float[Tensor, " U"]
    example: Int[Tensor, " U"]
    """Which example of the batch each value belongs to."""
    divisor: Divisor


@runtime_checkable
class Objective(Protocol):
    """A method: reward, link and data shape put together."""

    @property
    def view(self) -> ViewOf:
        """The index view it reads: `Pairs`, `UnpairedResponses`, `Lists`, `Demonstrations`, or several of them."""
        ...

    @property
    def shape(self) -> Shape:
        """The data it learns from."""
        ...

    @property
    def coupled(self) -> bool:
        """True where one example's loss depends on others of its step, beyond a statistic without gradient."""
        ...

    @property
    def needs_reference(self) -> bool:
        """True where log-probabilities of a reference are read."""
        ...

    @property
    def statistic(self) -> Statistic | None:
        """The statistic of the whole step, without gradient, that is needed before the loss."""
        ...

    @property
    def needs(self) -> frozenset[Need]:
        """What the data must bring beyond its shape."""
        ...

    @property
    def uses(self) -> frozenset[Use]:
        """Optional columns that change its loss: `weight`, `offset`, `preference`. Others are refused."""
        ...

    @property
    def extras(self) -> frozenset[Extra]:
        """Numbers per token that it reads beside log-probabilities."""
        ...

    @property
    def reward(self) -> Reward:
        """The reward whose values are logged."""
        ...

    def __call__(self, responses: ResponseLogps, view: Any, /) -> tuple[Term, ...]:
        """Weighted, unreduced losses of the view's rows; `view` is one of the objective's own kind."""
        ...


def reads_scores(objective: Objective) -> bool:
    """Whether it is about a reward model's scores (`ResponseScores`), not about a policy's log-probabilities."""
    return isinstance(objective.reward, Learned)


def reduce_terms(terms: Sequence[Term], counts: Counts) -> Float[Tensor, ""]:
    """The loss of a step (or this pack's share of it): Σ over terms of Σ values / count of the whole step."""
    return torch.stack([term.values.sum() / term.divisor.of(counts) for term in terms]).sum()


def example_losses(terms: Sequence[Term], counts: Sequence[Counts]) -> Float[Tensor, " E"]:
    """The loss of each example as if it were alone in its step (a baseline stays that of the whole step).

    Args:
        terms: contributions of a batch.
        counts: each example's own counts.
    """
    losses = torch.zeros(len(counts), dtype=torch.float64)
    for term in terms:
        sums = torch.zeros(len(counts), dtype=torch.float64)
        sums.index_add_(0, term.example.cpu(), term.values.detach().double().cpu())
        losses += sums / torch.tensor([term.divisor.of(c) for c in counts], dtype=torch.float64)
    return losses
