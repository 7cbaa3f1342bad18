"""Lists as data: several ranked or scored responses to a prompt, for Plackett–Luce and contrastive losses."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import DataError, Lists, Responses
from tiltlm.core.checks import finite, positive
from tiltlm.core.needs import Need, Shape
from tiltlm.objectives.shapes.base import ObjectiveBase
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import Reward

LARGEST_TIE = 10
"""Most responses that may share a rank above others: their orders are summed over subsets, here 2¹⁰."""


class ListLoss(ABC):
    """A loss of the rewards of a list. Subclasses are frozen dataclasses and final."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]:
        """Columns that the data must have: `ranks` or `scores`."""

    @abstractmethod
    def __call__(self, rewards: Float[Tensor, "E K"], lists: Lists, /) -> Float[Tensor, " E"]:
        """Return one loss per list; at padding, rewards are −∞."""


@dataclass(frozen=True)
class Listwise(ObjectiveBase):
    """ℓ = loss(r(y_1), …, r(y_K)), one per list, weighted, divided by the examples of the step."""

    reward: Reward
    loss: ListLoss
    view: ClassVar[type[Lists]] = Lists
    shape: ClassVar[Shape] = "lists"

    @property
    def needs(self) -> frozenset[Need]:
        """Columns that the loss requires."""
        return self.loss.needs

    def __call__(self, responses: Responses, lists: Lists, /) -> tuple[Term, ...]:
        """Return the weighted loss of each list."""
        rewards = self.reward(responses)[lists.response].masked_fill(~lists.present, -torch.inf)
        return (Term(lists.weight * self.loss(rewards, lists), lists.example, Divisor.EXAMPLES),)


@dataclass(frozen=True)
class PlackettLuce(ListLoss):
    """−log P(ranking), the ranking drawn without replacement in proportion to e^r; ties are groups in unknown order.

    Without ties −Σ_k [ r_k − log Σ_{j≥k} e^{r_j} ]. A group of equal ranks contributes the probability that its members
    come, in any order, before all responses of lower rank; so the last group contributes nothing.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"ranks"})

    def __call__(self, rewards: Float[Tensor, "E K"], lists: Lists, /) -> Float[Tensor, " E"]:
        """Return −log P(ranking) of each list."""
        below = torch.logcumsumexp(rewards.flip(1), 1).flip(1)  # log Σ_{j≥k} e^{r_j}
        terms = torch.where(self._is_single(lists), below - rewards, 0.0)
        groups = [torch.zeros_like(terms[:, 0])]
        for row, start, end in lists.ties:
            loss = -log_first(rewards[row, start:end], torch.logsumexp(rewards[row, end:], 0))
            groups.append(F.pad(loss[None], (row, len(rewards) - row - 1)))
        return terms.sum(1) + torch.stack(groups).sum(0)

    @staticmethod
    def _is_single(lists: Lists) -> Tensor:
        """Mark the responses that share their rank with no other and have a response of lower rank."""
        rank = lists.rank
        same = ((rank[:, :, None] == rank[:, None, :]) & lists.present[:, None, :]).sum(2)
        below = ((rank[:, :, None] < rank[:, None, :]) & lists.present[:, None, :]).sum(2)
        return lists.present & (same == 1) & (below > 0)


def log_first(group: Float[Tensor, " m"], rest: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return log P(all of `group` are drawn before the rest), a sum over all m! orders of the group.

    f(S) = Σ_{i∈S} f(S∖i) · e^{u_i} / (e^rest + Σ_{j∉S∖i} e^{u_j}), over subsets S of the group.

    Args:
        group: Rewards u of the group.
        rest: Log of the sum of e^u over the rest.

    Raises:
        DataError: The group has more than 10 members.
    """
    m = len(group)
    if m > LARGEST_TIE:
        raise DataError(
            f"{m} responses of one list share a rank above others; at most {LARGEST_TIE} may. Break some of the ties, "
            "or remove responses",
            code="tie_too_large",
        )
    left = [
        torch.logsumexp(torch.stack([rest, *(group[i] for i in range(m) if not s >> i & 1)]), 0) for s in range(2**m)
    ]
    f = [torch.zeros_like(rest)]
    for s in range(1, 2**m):
        paths = [f[s & ~(1 << i)] + group[i] - left[s & ~(1 << i)] for i in range(m) if s >> i & 1]
        f.append(torch.logsumexp(torch.stack(paths), 0))
    return f[-1]


@dataclass(frozen=True)
class Regression(ListLoss):
    """weight · Σ_k ( r_k − scale·(s_k − baseline) )²: each reward is brought to its own score."""

    scale: float = 1.0
    """In units of the reward per unit of score."""
    baseline: float = 0.0
    """In units of the score."""
    weight: float = 1.0
    needs: ClassVar[frozenset[Need]] = frozenset({"scores"})

    def __post_init__(self) -> None:
        positive(scale=self.scale, weight=self.weight)
        finite(baseline=self.baseline)

    def __call__(self, rewards: Float[Tensor, "E K"], lists: Lists, /) -> Float[Tensor, " E"]:
        """Return the weighted sum of squares of each list."""
        gaps = rewards - self.scale * (lists.score - self.baseline)
        return self.weight * gaps.masked_fill(~lists.present, 0.0).square().sum(1)


@dataclass(frozen=True)
class _OfScores(ListLoss):
    """A loss whose target is softmax(score / temperature) over the list."""

    temperature: float
    """In units of the score."""
    needs: ClassVar[frozenset[Need]] = frozenset({"scores"})

    def __post_init__(self) -> None:
        positive(temperature=self.temperature)

    def target(self, lists: Lists) -> Float[Tensor, "E K"]:
        """Return softmax(score / temperature); 0 at padding."""
        scores = lists.score.masked_fill(~lists.present, -torch.inf)
        return torch.softmax(scores / self.temperature, 1)


@dataclass(frozen=True)
class CrossEntropy(_OfScores):
    """−Σ_k softmax(s/α)_k · log softmax(r)_k: InfoNCA. With K = 2 and certain labels it is DPO."""

    def __call__(self, rewards: Float[Tensor, "E K"], lists: Lists, /) -> Float[Tensor, " E"]:
        """Return the cross-entropy of each list."""
        logs = torch.log_softmax(rewards, 1).masked_fill(~lists.present, 0.0)
        return -(self.target(lists) * logs).sum(1)


@dataclass(frozen=True)
class ReverseCrossEntropy(_OfScores):
    """KL( softmax(r) ‖ softmax(s/α) ): EXO, which is mode-seeking; InfoNCA is mode-covering."""

    def __call__(self, rewards: Float[Tensor, "E K"], lists: Lists, /) -> Float[Tensor, " E"]:
        """Return the divergence of each list."""
        logs = torch.log_softmax(rewards, 1)
        target = torch.log_softmax(lists.score.masked_fill(~lists.present, -torch.inf) / self.temperature, 1)
        gap = (logs - target).masked_fill(~lists.present, 0.0)
        return (logs.exp() * gap).sum(1)


@dataclass(frozen=True)
class NoiseContrast(_OfScores):
    """−Σ_k softmax(s/α)_k · log σ(r_k) − (1/K) Σ_k log σ(−r_k): NCA, which fixes rewards, not only differences."""

    def __call__(self, rewards: Float[Tensor, "E K"], lists: Lists, /) -> Float[Tensor, " E"]:
        """Return the loss of each list."""
        rewards = rewards.masked_fill(~lists.present, 0.0)
        up = (self.target(lists) * F.logsigmoid(rewards)).sum(1)
        down = F.logsigmoid(-rewards).masked_fill(~lists.present, 0.0).sum(1) / lists.present.sum(1)
        return -up - down
