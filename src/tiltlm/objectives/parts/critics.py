"""Critics: a value of each prefix, learned beside the policy, that advantages are measured against (PPO)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Rollouts
from tiltlm.core.checks import between, not_negative, positive


@dataclass(frozen=True)
class Critic:
    """Advantages by generalised advantage estimation, and the loss that trains the values.

    V_t is the value of prompt and tokens before t. V after the last token is 0, also of a sample that was cut: its
    score stands for all that would have followed.

    δ_t = r_t + discount·V_{t+1} − V_t,  A_t = Σ_{l ≥ 0} (discount·trace)^l δ_{t+l},  G_t = A_t + V_t

    With discount = trace = 1: A_t is the return minus V_t, and G_t the return. V in A and G is that of the start of the
    round, without gradient. ℓ = coef·½(V_t − G_t)² per token; with `clip`
    coef·½max((V − G)², (V_old + clip(V − V_old, ±clip) − G)²).

    Source: Schulman et al. 2016, arXiv 1506.02438, eq. 16; the loss: Schulman et al. 2017, arXiv 1707.06347.
    """

    discount: float = 1.0
    """γ: what a reward of the next token is worth."""
    trace: float = 0.95
    """λ: 1 has no bias and the variance of returns, 0 trusts the values."""
    coef: float = 0.1
    """Weight of the loss of the values."""
    clip: float | None = None
    """Most that a value may move in a round, in units of the reward; None: no limit."""

    def __post_init__(self) -> None:
        between(0.0, 1.0, discount=self.discount, trace=self.trace)
        positive(discount=self.discount)
        not_negative(coef=self.coef)
        if self.clip is not None:
            positive(clip=self.clip)

    def advantages(
        self, rewards: Float[Tensor, " M"], values: Float[Tensor, " M"], rollouts: Rollouts
    ) -> Float[Tensor, " M"]:
        """Return A of each token; no gradient is needed.

        Args:
            rewards: r of each token.
            values: V before each token.
            rollouts: Which sample each token belongs to.
        """
        following = torch.cat([values[1:], values.new_zeros(1)])
        deltas = rewards + self.discount * torch.where(rollouts.is_last, 0.0, following) - values
        return discounted_sums(deltas, rollouts, self.discount * self.trace)

    def losses(
        self, values: Float[Tensor, " M"], old_values: Float[Tensor, " M"], returns: Float[Tensor, " M"]
    ) -> Float[Tensor, " M"]:
        """Return the loss of each token's value.

        Args:
            values: V. Carries gradient.
            old_values: V at the start of the round.
            returns: G.
        """
        errors = (values - returns).square()
        if self.clip is not None:
            near = old_values + (values - old_values).clamp(-self.clip, self.clip)
            errors = torch.maximum(errors, (near - returns).square())
        return self.coef * 0.5 * errors


def discounted_sums(values: Float[Tensor, " M"], rollouts: Rollouts, discount: float) -> Float[Tensor, " M"]:
    """Return Σ_{s ≥ t} discount^{s − t} · values_s over the later tokens of the same sample, the token included."""
    if discount == 0:
        return values
    longest = int(rollouts.place.max()) + 1
    table = values.new_zeros(len(rollouts.response), longest)
    table[rollouts.sample, rollouts.place] = values
    if discount == 1:
        sums = table.flip(1).cumsum(1).flip(1)
    else:
        columns = [table[:, -1]]
        for column in table.flip(1).unbind(1)[1:]:
            columns.append(column + discount * columns[-1])
        sums = torch.stack(columns[::-1], 1)
    return sums[rollouts.sample, rollouts.place]
