"""One prompt with K possible responses whose gold reward is known: all that theory speaks of is a finite sum here.

The optimum π* ∝ π_ref·exp(r/β), divergences, win rates, best-of-n and the frontier come out exact, without a sample
drawn. A policy is a vector of K log-probabilities; `population` shows these worlds to the objectives.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core import ConfigError, ResponseLogps


def uniform_sampler(num_responses: int) -> Float[Tensor, "K K"]:
    """Both sides of a comparison drawn evenly and apart from each other: W = 1/K², equal draws included."""
    return torch.full((num_responses, num_responses), 1 / num_responses**2, dtype=torch.float64)


def product_sampler(logps: Float[Tensor, " K"]) -> Float[Tensor, "K K"]:
    """Both sides drawn apart from each other from one policy μ, given as log-probabilities: W = μμᵀ."""
    policy = logps.double().exp()
    return torch.outer(policy, policy)


def bradley_terry(reward: Float[Tensor, " K"]) -> Float[Tensor, "K K"]:
    """P(i ≻ j) = σ(r_i − r_j), with ½ on the diagonal."""
    return torch.sigmoid(reward[:, None] - reward[None, :])


def tilt(ref_logps: Float[Tensor, " K"], reward: Float[Tensor, " K"], beta: float) -> Float[Tensor, " K"]:
    """log of π_ref·exp(r/β)/Z: the reference tilted by a reward; β below zero tilts away from it."""
    return torch.log_softmax(ref_logps + reward / beta, 0)


def kl(policy: Float[Tensor, " K"], base: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    """KL(policy‖base) = Σ π·(log π − log base) in nats, of log-probabilities; a response without mass adds 0."""
    mass = policy.exp()
    return torch.where(mass > 0, mass * (policy - base), torch.zeros_like(mass)).sum()


def total_variation(policy: Float[Tensor, " K"], other: Float[Tensor, " K"]) -> float:
    """½ Σ |π − π′| of two policies given as log-probabilities: the most an event differs."""
    return float((policy.detach().exp() - other.detach().exp()).abs().sum() / 2)


@dataclass(frozen=True, eq=False)
class FiniteWorld:
    """K responses to one prompt. Every tensor is float64 but `lengths`.

    One prompt says all: the losses and policies of several prompts are sums of theirs.

    Raises:
        ConfigError: a part is of another size than the reward, or breaks the rule under its field.
    """

    reward: Float[Tensor, " K"]
    """Gold reward r(y)."""
    lengths: Int[Tensor, " K"]
    """T(y): tokens of each response."""
    ref_logps: Float[Tensor, " K"]
    """log π_ref(y), normalised, nats per response."""
    preference: Float[Tensor, "K K"]
    """P(i ≻ j), with P(j ≻ i) = 1 − P(i ≻ j) and so ½ on the diagonal."""
    sampler: Float[Tensor, "K K"]
    """W: probability that i and j are what is compared, in this order; symmetric."""

    @classmethod
    def of(
        cls,
        reward: Float[Tensor, " K"],
        lengths: Int[Tensor, " K"],
        ref_logits: Float[Tensor, " K"],
        preference: Float[Tensor, "K K"] | None = None,
        sampler: Float[Tensor, "K K"] | None = None,
    ) -> "FiniteWorld":
        """A world with Bradley–Terry preferences by its reward and a uniform sampler, unless others are given."""
        size, reward = len(reward), reward.double()
        return cls(
            reward,
            lengths,
            torch.log_softmax(ref_logits.double(), 0),
            bradley_terry(reward) if preference is None else preference.double(),
            uniform_sampler(size) if sampler is None else sampler.double(),
        )

    def __post_init__(self) -> None:
        size, one = len(self.reward), torch.ones((), dtype=torch.float64)
        for name, given, wanted in (
            ("lengths", self.lengths.shape, (size,)),
            ("ref_logps", self.ref_logps.shape, (size,)),
            ("preference", self.preference.shape, (size, size)),
            ("sampler", self.sampler.shape, (size, size)),
        ):
            if tuple(given) != wanted:
                raise ConfigError(
                    f"{name} is {list(given)}, but {size} rewards were given; make it {list(wanted)}",
                    code="wrong_shape",
                    key=name,
                )
        if int(self.lengths.min()) < 1:
            k = int(self.lengths.argmin())
            raise ConfigError(
                f"lengths[{k}] is {int(self.lengths[k])}; a response has at least one token",
                code="not_positive",
                key="lengths",
            )
        if not torch.allclose(self.preference + self.preference.T, one) or not 0 <= self.preference.min() <= 1:
            raise ConfigError(
                "preference: P(i ≻ j) + P(j ≻ i) must be 1, each between 0 and 1",
                code="not_probabilities",
                key="preference",
            )
        if not torch.allclose(self.sampler, self.sampler.T) or float(self.sampler.min()) < 0:
            raise ConfigError(
                "sampler: must be symmetric and not negative; use (W + W.T) / 2", code="not_symmetric", key="sampler"
            )
        if not torch.allclose(self.sampler.sum(), one):
            raise ConfigError(
                f"sampler: sums to {float(self.sampler.sum()):.6g}, not to 1; divide it by its sum",
                code="not_probabilities",
                key="sampler",
            )

    @property
    def num_responses(self) -> int:
        return len(self.reward)

    def log_partition(self, beta: float) -> float:
        """log Z = log Σ π_ref·exp(r/β)."""
        return float(torch.logsumexp(self.ref_logps + self.reward / beta, 0))

    def optimum(self, beta: float) -> Float[Tensor, " K"]:
        """log π*, the policy with the highest E[r] − β·KL(π‖π_ref)."""
        return tilt(self.ref_logps, self.reward, beta)

    def expected_reward(self, logps: Float[Tensor, " K"]) -> float:
        """E_π[r]."""
        return float((logps.exp() * self.reward).sum())

    def kl_to_reference(self, logps: Float[Tensor, " K"]) -> float:
        """KL(π‖π_ref), nats per response."""
        return float(kl(logps, self.ref_logps))

    def value(self, logps: Float[Tensor, " K"], beta: float) -> float:
        """J(π) = E_π[r] − β·KL(π‖π_ref), which is β log Z − β·KL(π‖π*): the gap to the optimum is exact."""
        return self.expected_reward(logps) - beta * self.kl_to_reference(logps)

    def frontier(self, betas: Sequence[float]) -> tuple[Float[Tensor, " G"], Float[Tensor, " G"]]:
        """Reward and KL of the optimum at each β: no policy has more reward at that KL, and the slope there is β."""
        optima = [self.optimum(beta) for beta in betas]
        rewards = torch.tensor([self.expected_reward(policy) for policy in optima], dtype=torch.float64)
        return rewards, torch.tensor([self.kl_to_reference(policy) for policy in optima], dtype=torch.float64)

    def win_rates(self, opponent: Float[Tensor, " K"] | None = None) -> Float[Tensor, " K"]:
        """P̄_μ(y) = E_{y′~μ} P(y ≻ y′), an equal draw counting ½; μ is the reference unless named."""
        return self.preference @ (self.ref_logps if opponent is None else opponent).exp()

    def win_rate(self, logps: Float[Tensor, " K"], opponent: Float[Tensor, " K"] | None = None) -> float:
        """Probability that a sample of the policy is preferred to one of the opponent (the reference unless named)."""
        return float(logps.exp() @ self.win_rates(opponent))

    @property
    def chosen_mass(self) -> Float[Tensor, " K"]:
        """Probability that a comparison's chosen response is y: 2 Σ_j W_ij·P_ij, which is 2μP̄_μ for W = μμᵀ."""
        return 2 * (self.sampler * self.preference).sum(1)

    @property
    def rejected_mass(self) -> Float[Tensor, " K"]:
        """Probability that a comparison's rejected response is y."""
        return 2 * (self.sampler * self.preference.T).sum(1)

    def best_of_n(self, n: int) -> Float[Tensor, " K"]:
        """log-probabilities of the best of n draws from the reference, ties broken at random.

        Reward level ℓ has F(ℓ)^n − F(<ℓ)^n, F the reference's mass up to a level; within a level the mass is split
        as the reference splits it. n = 1 is the reference.

        Raises:
            ConfigError: n below 1.
        """
        if n < 1:
            raise ConfigError(
                f"best of {n}: n is at least 1, where it is the reference itself", code="out_of_range", key="n"
            )
        mass = self.ref_logps.exp()
        below = (mass * (self.reward[None, :] < self.reward[:, None])).sum(1)
        level = (mass * (self.reward[None, :] == self.reward[:, None])).sum(1)
        # (F^n − F⁻^n) / level as n·log terms would lose the small levels; the difference of powers is exact enough.
        return torch.log(((below + level) ** n - below**n) / level) + self.ref_logps

    def responses(self, logps: Float[Tensor, " K"]) -> ResponseLogps:
        """The K responses as an objective reads them, gradient to `logps`, the reference beside them.

        A response is one decision among K, shared evenly by its T tokens: its log-probability, and what the decision's
        distribution has of collision, entropy and divergence. Sums, means and token counts are right, and all is exact
        where T is 1.
        """
        index = torch.repeat_interleave(torch.arange(self.num_responses), self.lengths)
        plain = logps.detach()

        def shared(per_response: Tensor) -> Tensor:
            return (per_response / self.lengths)[index]

        return ResponseLogps(
            token_logps=shared(logps),
            response_index=index,
            num_tokens=self.lengths,
            ref_token_logps=shared(self.ref_logps),
            log_collisions=shared(torch.logsumexp(2 * plain, 0)),
            entropies=shared(-(plain.exp() * plain).sum()),
            ref_kls=shared(kl(self.ref_logps, logps)),
            ref_entropy_shares=shared(-(self.ref_logps.exp() * self.ref_logps).sum() / math.log(self.num_responses)),
        )


def log_bound_of_best_of_n(n: int) -> float:
    """log n − (n−1)/n: the most that best-of-n can move in nats; reached where no response has mass of its own."""
    return math.log(n) - (n - 1) / n
