"""`FiniteWorld`: one prompt with K possible responses and a known gold reward, so that theory becomes finite sums.

The partition function Z, the optimum π* ∝ π_ref·exp(r/β), divergences, win rates, best-of-n and the frontier are
exact, without sampling. A policy is a vector of K log-probabilities. `population_loss` is the loss of an objective.

    world = FiniteWorld.of([0.0, 1.0, 2.0])
    world.log_partition(beta=0.5)
    policy = world.optimum(beta=0.5)
    population_loss(dpo(beta=0.5), world, policy)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core import ConfigError, ResponseLogps


def uniform_sampler(num_responses: int) -> Float[Tensor, "K K"]:
    """Return W for responses drawn uniformly and independently: W = 1/K², including pairs of equal responses."""
    return torch.full((num_responses, num_responses), 1 / num_responses**2, dtype=torch.float64)


def product_sampler(logps: Float[Tensor, " K"]) -> Float[Tensor, "K K"]:
    """Return W for responses drawn independently from a policy μ, given as log-probabilities: W = μμᵀ."""
    policy = logps.double().exp()
    return torch.outer(policy, policy)


def bradley_terry(reward: Float[Tensor, " K"]) -> Float[Tensor, "K K"]:
    """Return P(i ≻ j) = σ(r_i − r_j), with ½ on the diagonal."""
    return torch.sigmoid(reward[:, None] - reward[None, :])


def tilt(ref_logps: Float[Tensor, " K"], reward: Float[Tensor, " K"], beta: float) -> Float[Tensor, " K"]:
    """Return log(π_ref·exp(r/β)/Z), the reference tilted by a reward; a negative β tilts away from it."""
    return torch.log_softmax(ref_logps + reward / beta, 0)


def kl(policy: Float[Tensor, " K"], base: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    """Return KL(policy‖base) = Σ π·(log π − log base) in nats, from log-probabilities; where π is 0, it adds 0."""
    mass = policy.exp()
    return torch.where(mass > 0, mass * (policy - base), torch.zeros_like(mass)).sum()


def total_variation(policy: Float[Tensor, " K"], other: Float[Tensor, " K"]) -> float:
    """Return ½ Σ |π − π′| of two policies, from log-probabilities: the largest difference of an event's probability."""
    return float((policy.detach().exp() - other.detach().exp()).abs().sum() / 2)


@dataclass(frozen=True, eq=False)
class FiniteWorld:
    """K responses to one prompt. Tensors are float64, except `lengths`. `FiniteWorld.of` has defaults for most of them.

    One prompt is enough: the losses of several prompts add up.

    Raises:
        ConfigError: A tensor has another size than the reward, or breaks the rule of its field.
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
    """W: probability that responses i and j are compared, in this order; symmetric."""

    @classmethod
    def of(
        cls,
        reward: Float[Tensor, " K"] | Sequence[float],
        lengths: Int[Tensor, " K"] | Sequence[int] | None = None,
        ref_logits: Float[Tensor, " K"] | Sequence[float] | None = None,
        preference: Float[Tensor, "K K"] | None = None,
        sampler: Float[Tensor, "K K"] | None = None,
    ) -> "FiniteWorld":
        """Create a world.

        Args:
            reward: Gold reward of each response.
            lengths: Tokens of each response; one token each by default.
            ref_logits: Logits of the reference; uniform by default.
            preference: P(i ≻ j); Bradley–Terry by the reward by default.
            sampler: W; by default both responses of a comparison are drawn uniformly and independently.
        """
        size, reward = len(reward), torch.as_tensor(reward, dtype=torch.float64)
        ref_logits = torch.zeros(size) if ref_logits is None else ref_logits
        return cls(
            reward,
            torch.ones(size, dtype=torch.long) if lengths is None else torch.as_tensor(lengths),
            torch.log_softmax(torch.as_tensor(ref_logits, dtype=torch.float64), 0),
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
                    f"{name} has shape {list(given)}, but there are {size} rewards; its shape must be {list(wanted)}",
                    code="wrong_shape",
                    key=name,
                )
        if int(self.lengths.min()) < 1:
            k = int(self.lengths.argmin())
            raise ConfigError(
                f"lengths[{k}] is {int(self.lengths[k])}; a response must have at least one token",
                code="not_positive",
                key="lengths",
            )
        if not torch.allclose(self.preference + self.preference.T, one) or not 0 <= self.preference.min() <= 1:
            raise ConfigError(
                "preference must have P(i ≻ j) + P(j ≻ i) = 1 and values between 0 and 1",
                code="not_probabilities",
                key="preference",
            )
        if not torch.allclose(self.sampler, self.sampler.T) or float(self.sampler.min()) < 0:
            raise ConfigError(
                "sampler must be symmetric and not negative; use (W + W.T) / 2", code="not_symmetric", key="sampler"
            )
        if not torch.allclose(self.sampler.sum(), one):
            raise ConfigError(
                f"sampler sums to {float(self.sampler.sum()):.6g}; it must sum to 1: divide it by its sum",
                code="not_probabilities",
                key="sampler",
            )

    @property
    def num_responses(self) -> int:
        """K."""
        return len(self.reward)

    def log_partition(self, beta: float) -> float:
        """Return log Z = log Σ π_ref·exp(r/β)."""
        return float(torch.logsumexp(self.ref_logps + self.reward / beta, 0))

    def optimum(self, beta: float) -> Float[Tensor, " K"]:
        """Return log π*, the policy with the highest E[r] − β·KL(π‖π_ref)."""
        return tilt(self.ref_logps, self.reward, beta)

    def expected_reward(self, logps: Float[Tensor, " K"]) -> float:
        """Return E_π[r]."""
        return float((logps.exp() * self.reward).sum())

    def kl_to_reference(self, logps: Float[Tensor, " K"]) -> float:
        """Return KL(π‖π_ref), nats per response."""
        return float(kl(logps, self.ref_logps))

    def value(self, logps: Float[Tensor, " K"], beta: float) -> float:
        """Return J(π) = E_π[r] − β·KL(π‖π_ref), which equals β log Z − β·KL(π‖π*)."""
        return self.expected_reward(logps) - beta * self.kl_to_reference(logps)

    def frontier(self, betas: Sequence[float]) -> tuple[Float[Tensor, " G"], Float[Tensor, " G"]]:
        """Return reward and KL of the optimum at each β.

        No policy has a higher reward at the same KL. The slope of the frontier at that point is β.
        """
        optima = [self.optimum(beta) for beta in betas]
        rewards = torch.tensor([self.expected_reward(policy) for policy in optima], dtype=torch.float64)
        return rewards, torch.tensor([self.kl_to_reference(policy) for policy in optima], dtype=torch.float64)

    def win_rates(self, opponent: Float[Tensor, " K"] | None = None) -> Float[Tensor, " K"]:
        """Return P̄_μ(y) = E_{y′~μ} P(y ≻ y′); an equal draw counts ½. The default opponent μ is the reference."""
        return self.preference @ (self.ref_logps if opponent is None else opponent).exp()

    def win_rate(self, logps: Float[Tensor, " K"], opponent: Float[Tensor, " K"] | None = None) -> float:
        """Return the probability that a sample of the policy beats one of the opponent (by default the reference)."""
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
        """Return the log-probabilities of the best of n draws from the reference, ties broken at random.

        Reward level ℓ has mass F(ℓ)^n − F(<ℓ)^n, F the reference's mass up to a level. Within a level the mass is in
        proportion to the reference. n = 1 is the reference.

        Raises:
            ConfigError: n is below 1.
        """
        if n < 1:
            raise ConfigError(
                f"n is {n}; it must be at least 1, which is the reference itself", code="out_of_range", key="n"
            )
        mass = self.ref_logps.exp()
        below = (mass * (self.reward[None, :] < self.reward[:, None])).sum(1)
        level = (mass * (self.reward[None, :] == self.reward[:, None])).sum(1)
        # The mass up to the top level is 1; a sum that is off by one rounding error would be off by n in its power.
        up_to = torch.where(self.reward == self.reward.max(), torch.ones_like(level), below + level)
        # A sum of logarithms would lose small levels; the difference of powers is exact enough.
        return torch.log((up_to**n - below**n) / level) + self.ref_logps

    def responses(self, logps: Float[Tensor, " K"]) -> ResponseLogps:
        """Return the K responses as an objective reads them, with the reference; gradient reaches `logps`.

        A response is one decision among K. Its log-probability and the extras of the decision's distribution are
        divided evenly among its T tokens. So sums, means and token counts are right; everything is exact if T is 1.
        """
        index = torch.repeat_interleave(torch.arange(self.num_responses), self.lengths)
        plain, ref_logps = logps.detach(), self.ref_logps

        def shared(per_response: Tensor) -> Tensor:
            return (per_response / self.lengths)[index]

        return ResponseLogps(
            token_logps=shared(logps),
            response_index=index,
            num_tokens=self.lengths,
            ref_token_logps=shared(ref_logps),
            extras={
                "log_collisions": shared(torch.logsumexp(2 * plain, 0)),
                "entropies": shared(-(plain.exp() * plain).sum()),
                "ref_kls": shared(kl(ref_logps, logps)),
                "ref_entropy_shares": shared(-(ref_logps.exp() * ref_logps).sum() / math.log(self.num_responses)),
            },
        )


def log_bound_of_best_of_n(n: int) -> float:
    """Return log n − (n−1)/n, the largest possible KL of best-of-n to the reference, in nats.

    It is the limit for a reference in which every single response has a negligible mass.
    """
    return math.log(n) - (n - 1) / n
