"""Samples of the policy as data: policy gradients. GRPO, RLOO, PPO and others differ in surrogate, divisor and KL.

Advantages are data (`tiltlm.online.credit` makes them from scores); this module only turns them into a gradient.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, Example, ResponseLogps, Responses, Rollouts, segment_sum
from tiltlm.core.checks import not_negative, positive
from tiltlm.core.needs import Shape
from tiltlm.objectives.parts.surrogates import ReferenceKL, Surrogate
from tiltlm.objectives.shapes.base import ObjectiveBase
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import LogRatio, Reward, SeqLogp

WHITE = 1e-8
"""Added to the standard deviation of whitened advantages."""


class TokenNumbers(NamedTuple):
    """Numbers of the M tokens of all samples, float64."""

    logps: Float[Tensor, " M"]
    """log π. Carries gradient."""
    log_ratios: Float[Tensor, " M"]
    """log ω = log π/π_old: of the token, or the mean over its response. Carries gradient."""
    ref_log_ratios: Float[Tensor, " M"] | None
    """log π/π_ref. Carries gradient; None without a KL."""
    advantages: Float[Tensor, " M"]


@dataclass(frozen=True)
class PolicyGradient(ObjectiveBase):
    """ℓ = Σ over the tokens of a sample of surrogate(ω, A) + KL in the loss, then aggregated.

    A_t = A − KL in the reward − entropy·log π; with `whiten`, minus its mean over all tokens of the step, divided by
    their standard deviation. A sample counts in the divisors also if A = 0.
    """

    surrogate: Surrogate
    aggregate: Literal["token", "response_mean", "response_sum"] = "response_sum"
    """`response_sum`: Σ over tokens, divided by the samples of the step: the gradient of the expected reward.
    `response_mean`: the mean over each sample's tokens, divided by the samples. `token`: Σ over tokens, divided by the
    tokens of the step."""
    horizon: float | None = None
    """Divides `response_sum`: the most tokens of a sample. None: 1."""
    kl: ReferenceKL | None = None
    entropy: float = 0.0
    """Weight of the entropy of each token's distribution, as a reward in nats."""
    whiten: bool = False
    view: ClassVar[type[Rollouts]] = Rollouts
    shape: ClassVar[Shape] = "rollouts"

    def __post_init__(self) -> None:
        not_negative(entropy=self.entropy)
        if self.horizon is not None:
            positive(horizon=self.horizon)
            if self.aggregate != "response_sum":
                raise ConfigError(
                    f"horizon has no effect: aggregate is {self.aggregate}; remove it", code="no_effect", key="horizon"
                )
        if self.surrogate.level == "response" and self.aggregate != "response_mean":
            raise ConfigError(
                f"aggregate is {self.aggregate}; a ratio of the whole response counts once a response: set "
                "aggregate to response_mean",
                code="conflict",
                key="aggregate",
            )
        if self.surrogate.level == "response" and self.kl is not None and self.kl.where == "reward":
            raise ConfigError(
                "kl.where is reward; a ratio of the whole response needs one advantage a response: put the KL into the "
                "loss",
                code="conflict",
                key="kl.where",
            )

    @cached_property
    def reward(self) -> Reward:  # type: ignore[override]  # a field in other objectives
        """The log-ratio to the reference in units of the reward; without a KL the log-probability."""
        return SeqLogp() if self.kl is None else LogRatio(self.kl.coef)

    @property
    def coupled(self) -> bool:
        """True if advantages are whitened over the step."""
        return self.whiten

    def without_idle(self, example: Example) -> Example | None:
        """Return the example without samples that cannot change the gradient; None if none is left.

        They have advantage 0, and neither a KL nor whitening nor an entropy reads their tokens.
        """
        if self.kl is not None or self.whiten or self.entropy:
            return example
        live = [k for k, credit in enumerate(example.credits) if credit.advantage]
        if not live:
            return None
        return Example(
            example.id,
            example.prompt_ids,
            tuple(example.responses[k] for k in live),
            credits=tuple(example.credits[k] for k in live),
            weight=example.weight,
        )

    def __call__(self, responses: Responses, rollouts: Rollouts, /) -> tuple[Term, ...]:
        """Return the loss of each sample, weighted."""
        assert isinstance(responses, ResponseLogps), "the objective is of a policy"
        numbers = self.numbers(responses, rollouts)
        losses = self.surrogate(numbers.logps, numbers.log_ratios, numbers.advantages)
        if self.kl is not None and self.kl.where == "loss":
            assert numbers.ref_log_ratios is not None
            kl = self.kl.losses(numbers.log_ratios, numbers.ref_log_ratios)
            losses = losses + torch.where(rollouts.is_drawn[rollouts.sample], kl, 0.0)
        values = segment_sum(losses, rollouts.sample, len(rollouts.response))
        if self.aggregate == "response_mean":
            values = values / responses.num_tokens[rollouts.response]
        elif self.horizon is not None:
            values = values / self.horizon
        divisor = Divisor.TOKENS if self.aggregate == "token" else Divisor.RESPONSES
        return (Term(rollouts.weight * values, rollouts.example, divisor),)

    def numbers(self, responses: ResponseLogps, rollouts: Rollouts) -> TokenNumbers:
        """Return what the loss reads of each token."""
        ends = torch.cumsum(responses.num_tokens, 0)
        token = (ends - responses.num_tokens)[rollouts.response][rollouts.sample] + rollouts.place
        logps = responses.token_logps.double().index_select(0, token)
        old = logps.detach() if rollouts.old_logps is None else rollouts.old_logps
        log_ratios = logps - old
        if self.surrogate.level == "response":
            lengths = responses.num_tokens[rollouts.response]
            means = segment_sum(log_ratios, rollouts.sample, len(lengths)) / lengths
            log_ratios = means[rollouts.sample]
        of_reference = None
        if self.kl is not None:
            of_reference = responses.token_log_ratios.index_select(0, token)
        advantages = rollouts.advantage[rollouts.sample]
        if self.kl is not None and self.kl.where != "loss":
            assert of_reference is not None
            held = of_reference.detach() - logps.detach() + old  # log π_old/π_ref
            held = torch.where(rollouts.is_drawn[rollouts.sample], held, 0.0)
            advantages = advantages - self.kl.coef * self._penalty(held, rollouts)
        if self.entropy:
            advantages = advantages - self.entropy * old
        if self.whiten:
            advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + WHITE)
        return TokenNumbers(logps, log_ratios, of_reference, advantages)

    def _penalty(self, held: Float[Tensor, " M"], rollouts: Rollouts) -> Float[Tensor, " M"]:
        """Return what the KL in the reward takes from each token's advantage, in nats."""
        assert self.kl is not None
        if self.kl.where == "reward":
            return discounted_sums(held, rollouts, self.kl.discount)
        num_samples = len(rollouts.response)
        whole = segment_sum(held, rollouts.sample, num_samples)
        totals = segment_sum(whole, rollouts.example, rollouts.num_examples)[rollouts.example]
        others = torch.bincount(rollouts.example, minlength=rollouts.num_examples)[rollouts.example] - 1
        baseline = torch.where(others > 0, (totals - whole) / others.clamp(min=1), 0.0)
        return (whole - baseline)[rollouts.sample]


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
