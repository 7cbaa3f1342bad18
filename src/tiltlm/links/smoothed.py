"""Links for labels that may be flipped: smoothing (conservative) and de-noising (unbiased)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError
from tiltlm.core.checks import below_half
from tiltlm.links.link import Link
from tiltlm.links.logistic import Logistic


@dataclass(frozen=True)
class Smoothed(Link):
    """ℓ_ε(u) = (1 − ε) ℓ(u) + ε ℓ(−u), 0 ≤ ε < ½: the label is taken as right with probability 1 − ε.

    For the logistic link the minimiser is logit(p(1−ε) + (1−p)ε): finite for p = 1, and closer to 0 for every p.
    """

    link: Link
    label_smoothing: float

    def __post_init__(self) -> None:
        _check(self.link, self.label_smoothing)

    @property
    def convex(self) -> bool:
        """True if the inner link is convex."""
        return self.link.convex

    def __call__(self, margin: Float[Tensor, " B"], /) -> Float[Tensor, " B"]:
        """Return ℓ of each margin."""
        return (1 - self.label_smoothing) * self.link(margin) + self.label_smoothing * self.link(-margin)


@dataclass(frozen=True)
class Denoised(Link):
    """ℓ_ε(u) = [(1 − ε) ℓ(u) − ε ℓ(−u)] / (1 − 2ε), 0 ≤ ε < ½: unbiased if labels are flipped at rate ε.

    (1 − ε) ℓ_ε(u) + ε ℓ_ε(−u) = ℓ(u) for every u, so the minimiser on flipped labels is that of ℓ on clean labels. For
    the logistic link it is −log σ(u) − εu/(1 − 2ε): convex, and unbounded below as u grows.
    """

    link: Link
    label_smoothing: float

    def __post_init__(self) -> None:
        _check(self.link, self.label_smoothing)

    @property
    def convex(self) -> bool:
        """True for the logistic link, whose ℓ(u) − ℓ(−u) is linear. With other links it is not convex in general."""
        return isinstance(self.link, Logistic)

    def __call__(self, margin: Float[Tensor, " B"], /) -> Float[Tensor, " B"]:
        """Return ℓ of each margin."""
        loss = (1 - self.label_smoothing) * self.link(margin) - self.label_smoothing * self.link(-margin)
        return loss / (1 - 2 * self.label_smoothing)


def _check(link: Link, label_smoothing: float) -> None:
    """Check the rate, and that the inner link does not already allow for flipped labels."""
    below_half(label_smoothing=label_smoothing)
    if isinstance(link, Smoothed | Denoised):
        raise ConfigError(
            f"link is {type(link).__name__}, which already allows for flipped labels; use only one of the two links",
            code="conflict",
            key="link",
        )
