"""Samples of the policy as data: policy gradients. GRPO, RLOO, PPO and others differ in surrogate, divisor and KL.

Advantages are data (`online/examples/credit.py` makes them from scores); this module only turns them into a gradient.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, Example, ResponseLogps, Responses, Rollouts, segment_sum
from tiltlm.core.checks import not_negative, positive
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Shape
from tiltlm.objectives.parts.critics import Critic, discounted_sums
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
    values: Float[Tensor, " M"] | None
    """V of the critic. Carries gradient; None without a critic, likewise the next two."""
    old_values: Float[Tensor, " M"] | None
    """V at the start of the round."""
    returns: Float[Tensor, " M"] | None
    """What V is trained toward."""


@dataclass(frozen=True)
class PolicyGradient(ObjectiveBase):
    """ℓ = Σ over the tokens of a sample of c·surrogate(ω, A) + KL in the loss, then aggregated.

    A_t = A − KL in the reward − entropy·log π; with `whiten`, minus its mean over all tokens of the step, divided by
    their standard deviation. A sample counts in the divisors also if A = 0. c is the correction of a sample that
    another distribution drew, else 1; a token with c = 0 is in no divisor.

    With a critic, A of a sample is its reward: it comes with the last token, the KL in the reward with each token, and
    the critic makes the advantages. Its own loss is divided by the tokens of the step.
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
    critic: Critic | None = None
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
        if self.critic is not None:
            self._check_critic()

    def _check_critic(self) -> None:
        if self.surrogate.level == "response":
            raise ConfigError(
                "surrogate has one ratio for the whole response, and a critic gives each token its own advantage; "
                "remove one of the two",
                code="conflict",
                key="critic",
            )
        if self.kl is not None and self.kl.where == "response":
            raise ConfigError(
                "kl.where is response; a critic needs the reward of each token: set it to reward",
                code="conflict",
                key="kl.where",
            )
        if self.kl is not None and self.kl.discount != 1.0:
            raise ConfigError(
                "kl.discount has no effect beside a critic, whose own discount is that of all rewards; remove it",
                code="no_effect",
                key="kl.discount",
            )

    @cached_property
    def reward(self) -> Reward:  # type: ignore[override]  # a field in other objectives
        """The log-ratio to the reference in units of the reward; without a KL the log-probability."""
        return SeqLogp() if self.kl is None else LogRatio(self.kl.coef)

    @property
    def coupled(self) -> bool:
        """True if advantages are whitened over the step."""
        return self.whiten

    @property
    def extras(self) -> frozenset[Extra]:
        """The values, if there is a critic."""
        return frozenset({"values"}) if self.critic is not None else frozenset()

    def without_idle(self, example: Example) -> Example | None:
        """Return the example without samples that cannot change the gradient; None if none is left.

        They have advantage 0, and neither a KL nor whitening, an entropy or a critic reads their tokens.
        """
        if self.kl is not None or self.whiten or self.entropy or self.critic is not None:
            return example
        live = [k for k, credit in enumerate(example.credits) if credit.advantage]
        return example.keeping(live) if live else None

    def __call__(self, responses: Responses, rollouts: Rollouts, /) -> tuple[Term, ...]:
        """Return the loss of each sample, weighted."""
        assert isinstance(responses, ResponseLogps), "the objective is of a policy"
        numbers = self.numbers(responses, rollouts)
        losses = self.surrogate(numbers.logps, numbers.log_ratios, numbers.advantages)
        if rollouts.correction is not None:
            losses = losses * rollouts.correction
        if self.kl is not None and self.kl.where == "loss":
            assert numbers.ref_log_ratios is not None
            kl = self.kl.losses(numbers.log_ratios, numbers.ref_log_ratios)
            losses = losses + torch.where(rollouts.is_drawn[rollouts.sample], kl, 0.0)
        values = segment_sum(losses, rollouts.sample, len(rollouts.response))
        if self.aggregate == "response_mean":
            values = values / rollouts.num_credited.clamp(min=1)
        elif self.horizon is not None:
            values = values / self.horizon
        divisor = Divisor.TOKENS if self.aggregate == "token" else Divisor.RESPONSES
        terms = (Term(rollouts.weight * values, rollouts.example, divisor),)
        if self.critic is None:
            return terms
        assert numbers.values is not None
        assert numbers.old_values is not None
        assert numbers.returns is not None
        errors = self.critic.losses(numbers.values, numbers.old_values, numbers.returns)
        errors = torch.where(rollouts.is_credited, errors, 0.0)
        of_values = segment_sum(errors, rollouts.sample, len(rollouts.response))
        return (*terms, Term(rollouts.weight * of_values, rollouts.example, Divisor.TOKENS))

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
        held = None
        if self.kl is not None and self.kl.where != "loss":
            assert of_reference is not None
            held = of_reference.detach() - logps.detach() + old  # log π_old/π_ref
            held = torch.where(rollouts.is_drawn[rollouts.sample], held, 0.0)
        values = old_values = returns = None
        if self.critic is not None:
            values = responses.extra("values").double().index_select(0, token)
            old_values = values.detach() if rollouts.old_values is None else rollouts.old_values
            advantages = self.critic.advantages(self._token_rewards(held, rollouts), old_values, rollouts)
            returns = advantages + old_values
        else:
            advantages = rollouts.advantage[rollouts.sample]
            if held is not None:
                assert self.kl is not None
                advantages = advantages - self.kl.coef * self._penalty(held, rollouts)
        if self.entropy:
            advantages = advantages - self.entropy * old
        if self.whiten:
            advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + WHITE)
        return TokenNumbers(logps, log_ratios, of_reference, advantages, values, old_values, returns)

    def _token_rewards(self, held: Float[Tensor, " M"] | None, rollouts: Rollouts) -> Float[Tensor, " M"]:
        """Return the reward of each token: that of the sample with its last one, minus the KL of each."""
        rewards = torch.where(rollouts.is_last, rollouts.advantage[rollouts.sample], 0.0)
        if held is None:
            return rewards
        assert self.kl is not None
        return rewards - self.kl.coef * held

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
