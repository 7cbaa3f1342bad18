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

from tiltlm.core import Counts, ResponseLogps, View
from tiltlm.rewards import Reward


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
    def view(self) -> type[View]:
        """The index view it reads: `Pairs`, `Labelled` or `Demonstrations`."""
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
    def needs_partners(self) -> bool:
        """True where a statistic of mismatched pairs is needed before the loss."""
        ...

    @property
    def reward(self) -> Reward:
        """The reward whose values are logged."""
        ...

    def __call__(self, responses: ResponseLogps, view: Any, /) -> tuple[Term, ...]:
        """Weighted, unreduced losses of the view's rows; `view` is one of the objective's own kind."""
        ...


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
