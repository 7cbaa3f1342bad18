"""Surrogates: losses of a sampled token, whose gradient at the policy that drew it is −A ∇log π. All are minimised.

ω = π/π_old is the token's ratio to the policy at the start of the round; A its advantage, which carries no gradient.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tiltlm.core import ConfigError
from tiltlm.core.checks import between, positive


class Surrogate(ABC):
    """A loss of each token. Subclasses are frozen dataclasses."""

    level: ClassVar[Literal["token", "response"]] = "token"
    """`response`: the ratio of a token is that of its whole response, the geometric mean over its tokens."""

    @abstractmethod
    def __call__(
        self, logps: Float[Tensor, " M"], log_ratios: Float[Tensor, " M"], advantages: Float[Tensor, " M"], /
    ) -> Float[Tensor, " M"]:
        """Return the loss of each token.

        Args:
            logps: log π of each token. Carries gradient.
            log_ratios: log ω. Carries gradient.
            advantages: A.
        """

    @abstractmethod
    def is_clipped(
        self, logps: Float[Tensor, " M"], log_ratios: Float[Tensor, " M"], advantages: Float[Tensor, " M"], /
    ) -> Bool[Tensor, " M"]:
        """Mark the tokens whose ratio is beyond its limit."""


@dataclass(frozen=True)
class Reinforce(Surrogate):
    """−A log π: the policy gradient itself. No ratio is read, so a round may have one step only.

    Source: Williams 1992.
    """

    def __call__(
        self, logps: Float[Tensor, " M"], log_ratios: Float[Tensor, " M"], advantages: Float[Tensor, " M"], /
    ) -> Float[Tensor, " M"]:
        """Return −A log π."""
        del log_ratios
        return -advantages * logps

    def is_clipped(
        self, logps: Float[Tensor, " M"], log_ratios: Float[Tensor, " M"], advantages: Float[Tensor, " M"], /
    ) -> Bool[Tensor, " M"]:
        """Return False everywhere."""
        del logps, advantages
        return torch.zeros_like(log_ratios, dtype=torch.bool)


@dataclass(frozen=True)
class Clipped(Surrogate):
    """−min(ω A, clip(ω, 1 − low, 1 + high) A); with `dual`, for A < 0 at most −dual·A.

    Source: Schulman et al. 2017, arXiv 1707.06347, eq. 7; `dual`: Ye et al. 2020, arXiv 1912.09729; a `high`
    above `low`: Yu et al. 2025, arXiv 2503.14476.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None
    """At least 1 + high; None: no such limit."""

    def __post_init__(self) -> None:
        positive(low=self.low, high=self.high)
        if self.low > 1:
            raise ConfigError(f"low is {self.low}; it must be at most 1", code="out_of_range", key="low")
        if self.dual is not None and self.dual <= 1 + self.high:
            raise ConfigError(
                f"dual is {self.dual}; it must be above 1 + high = {1 + self.high:g}, or it would undo the clipping",
                code="out_of_range",
                key="dual",
            )

    def __call__(
        self, logps: Float[Tensor, " M"], log_ratios: Float[Tensor, " M"], advantages: Float[Tensor, " M"], /
    ) -> Float[Tensor, " M"]:
        """Return the clipped loss."""
        del logps
        ratios = log_ratios.exp()
        losses = -torch.minimum(ratios * advantages, ratios.clamp(1 - self.low, 1 + self.high) * advantages)
        if self.dual is None:
            return losses
        return torch.where(advantages < 0, torch.minimum(losses, -self.dual * advantages), losses)

    def is_clipped(
        self, logps: Float[Tensor, " M"], log_ratios: Float[Tensor, " M"], advantages: Float[Tensor, " M"], /
    ) -> Bool[Tensor, " M"]:
        """Mark the tokens without gradient."""
        del logps
        ratios = log_ratios.exp()
        found = ((advantages > 0) & (ratios > 1 + self.high)) | ((advantages < 0) & (ratios < 1 - self.low))
        return found if self.dual is None else found | ((advantages < 0) & (ratios > self.dual))


@dataclass(frozen=True)
class SequenceClipped(Clipped):
    """The same with one ratio for the whole response: exp of the mean of log ω over its tokens.

    Source: Zheng et al. 2025, arXiv 2507.18071 (GSPO).
    """

    low: float = 3e-4
    high: float = 4e-4
    level: ClassVar[Literal["token", "response"]] = "response"


@dataclass(frozen=True)
class TruncatedWeight(Surrogate):
    """−min(ω, max_ratio) A log π, the factor without gradient: no token loses its gradient.

    Source: MiniMax 2025, arXiv 2506.13585 (CISPO).
    """

    max_ratio: float = 5.0

    def __post_init__(self) -> None:
        positive(max_ratio=self.max_ratio)

    def __call__(
        self, logps: Float[Tensor, " M"], log_ratios: Float[Tensor, " M"], advantages: Float[Tensor, " M"], /
    ) -> Float[Tensor, " M"]:
        """Return −min(ω, max_ratio) A log π."""
        return -log_ratios.detach().exp().clamp(max=self.max_ratio) * advantages * logps

    def is_clipped(
        self, logps: Float[Tensor, " M"], log_ratios: Float[Tensor, " M"], advantages: Float[Tensor, " M"], /
    ) -> Bool[Tensor, " M"]:
        """Mark the tokens whose factor is cut."""
        del logps, advantages
        return log_ratios > math.log(self.max_ratio)


@dataclass(frozen=True)
class ProbabilityMask(Surrogate):
    """−min(ω, max_ratio) A log π for tokens whose probability moved by at most `delta` in the direction of A, else 0.

    A token is left out if A > 0 and π − π_old > delta, or A < 0 and π_old − π > delta. A rare token may then move by a
    large factor, which clipping of ratios forbids.

    Source: Qi et al. 2026, arXiv 2602.04879 (DPPO), in the form of its public code.
    """

    delta: float = 0.2
    max_ratio: float = 20.0

    def __post_init__(self) -> None:
        positive(delta=self.delta, max_ratio=self.max_ratio)

    def __call__(
        self, logps: Float[Tensor, " M"], log_ratios: Float[Tensor, " M"], advantages: Float[Tensor, " M"], /
    ) -> Float[Tensor, " M"]:
        """Return the masked loss."""
        losses = TruncatedWeight(self.max_ratio)(logps, log_ratios, advantages)
        return torch.where(self.is_clipped(logps, log_ratios, advantages), 0.0, losses)

    def is_clipped(
        self, logps: Float[Tensor, " M"], log_ratios: Float[Tensor, " M"], advantages: Float[Tensor, " M"], /
    ) -> Bool[Tensor, " M"]:
        """Mark the tokens that are left out."""
        moved = (logps.exp() - (logps - log_ratios).exp()).detach()
        return ((advantages > 0) & (moved > self.delta)) | ((advantages < 0) & (moved < -self.delta))


@dataclass(frozen=True)
class ReferenceKL:
    """coef · KL(π ‖ π_ref), estimated from the sampled tokens: a reward before the surrogate, or a loss beside it.

    d = log π/π_ref of a token, T = 1. In the reward d is that of the policy at the start of the round.

    | where, estimator | what it is | its expected gradient |
    |---|---|---|
    | reward, k1, discount 1 | A_t −= coef·Σ_{s ≥ t} d_s | that of KL(π‖π_ref) of whole responses |
    | reward, k1, discount 0 | A_t −= coef·d_t | that of each token's KL, with the tokens before it held |
    | response, k1 | A −= coef·(ρ − mean ρ of the other samples) | as reward, discount 1, with more variance |
    | loss, k2 | coef·½d² | as reward, discount 0 |
    | loss, k3 | coef·ω(e^{−d} + d − 1) | as k2 where ω = 1, corrected elsewhere |
    | loss, k3_as_printed | coef·(e^{−d} + d − 1) | that of the other direction, KL(π_ref‖π) |

    Source: Schulman, "Approximating KL divergence" (2020), for k1, k2, k3; the gradients are checked by enumeration.
    """

    coef: float
    """In units of the reward per nat of the whole response."""
    where: Literal["reward", "response", "loss"] = "reward"
    estimator: Literal["k1", "k2", "k3", "k3_as_printed"] = "k1"
    discount: float = 1.0
    """Factor of each later token's d in the advantage of a token. Read in the reward only."""

    def __post_init__(self) -> None:
        positive(coef=self.coef)
        between(0.0, 1.0, discount=self.discount)
        if self.where == "loss" and self.estimator == "k1":
            raise ConfigError(
                "estimator is k1 in the loss; its expected gradient is 0, so it would only add noise. Use k2, or put "
                "k1 into the reward",
                code="no_gradient",
                key="estimator",
            )
        if self.where != "loss" and self.estimator != "k1":
            raise ConfigError(
                f"estimator is {self.estimator} in the reward; only k1 gives the gradient of the KL there. Use k1, or "
                "put it into the loss",
                code="wrong_gradient",
                key="estimator",
            )
        if self.where != "reward" and self.discount != 1.0:
            raise ConfigError(
                f"discount has no effect: the KL is in the {self.where}; remove it", code="no_effect", key="discount"
            )

    def losses(self, log_ratios: Float[Tensor, " M"], ref_log_ratios: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        """Return the loss of each token, for a KL in the loss.

        Args:
            log_ratios: log ω. Carries gradient.
            ref_log_ratios: d. Carries gradient.
        """
        if self.estimator == "k2":
            return self.coef * 0.5 * ref_log_ratios.square()
        k3 = torch.expm1(-ref_log_ratios) + ref_log_ratios
        return self.coef * (k3 if self.estimator == "k3_as_printed" else log_ratios.exp() * k3)
