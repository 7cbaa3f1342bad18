"""Corrections: what samples count that another distribution than the policy drew, by their importance weights.

A policy gradient needs samples of the policy. A server computes with other numerics, and samples of earlier rounds are
of earlier policies. The loss of a token is then multiplied by a factor made from c = π_old/μ: μ drew the sample, π_old
is the policy when the round began.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.checks import positive, prefix_errors, suggestion
from tiltlm.core.errors import ConfigError
from tiltlm.core.example import Example
from tiltlm.estimates.intervals import Floats

Kind = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_mask"]
BANDS = ("token_mask", "geometric_mask")
"""Kinds that read `low` too."""
UNBIASED = ("sequence_truncate", "sequence_mask")
"""Kinds that weigh a whole response, which the gradient of the expected reward needs."""


@dataclass(frozen=True)
class CorrectionSettings:
    """How samples count that were not drawn by the policy that the round begins with.

    c_t = π_old/μ of token t. `token_*` weigh each token by itself: little noise, and a bias that grows with the length
    and with the distance of the two distributions. `sequence_*` weigh a response by Π c_t: no bias but that of the
    limit, and long responses reach the limit soon.
    """

    kind: Kind = "none"
    """`none`: 1. `token_truncate`: min(c_t, high). `token_mask`: c_t, and 0 outside [low, high]. `sequence_truncate`:
    min(Π c_t, high). `sequence_mask`: Π c_t; a response above high is left out. `geometric_mask`: 1; a response whose
    geometric mean of c_t is outside [low, high] is left out."""
    high: float = 2.0
    """Largest factor."""
    low: float = 0.5
    """Least factor, of a mask with two ends."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(
                f"correction.kind is {self.kind!r}; it must be one of {', '.join(get_args(Kind))}"
                f"{suggestion(self.kind, get_args(Kind))}",
                code="unknown_name",
                key="correction.kind",
            )
        with prefix_errors("correction"):
            positive(high=self.high, low=self.low)
        read = {"high": self.kind != "none", "low": self.kind in BANDS}
        for name, is_read in read.items():
            if not is_read and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ConfigError(
                    f"correction.{name} has no effect: the kind is {self.kind}; remove it",
                    code="no_effect",
                    key=f"correction.{name}",
                )
        if self.kind in BANDS and not self.low < 1 < self.high:
            raise ConfigError(
                f"correction.low is {self.low:g} and correction.high is {self.high:g}; 1 must lie between them, or "
                "samples of the policy itself would be left out",
                code="out_of_range",
                key="correction.low",
            )

    def factors(self, log_ratios: Floats) -> Floats | None:
        """Return the factor of each token's loss; None if the whole response is left out.

        Args:
            log_ratios: [T] log c_t, nats.
        """
        whole = float(log_ratios.sum())
        limit = float(np.log(self.high))
        match self.kind:
            case "none":
                return np.ones_like(log_ratios)
            case "token_truncate":
                return np.exp(np.minimum(log_ratios, limit))
            case "token_mask":
                inside = (log_ratios >= np.log(self.low)) & (log_ratios <= limit)
                return np.where(inside, np.exp(np.minimum(log_ratios, limit)), 0.0) if inside.any() else None
            case "sequence_truncate":
                return np.full_like(log_ratios, np.exp(min(whole, limit)))
            case "sequence_mask":
                return np.full_like(log_ratios, np.exp(whole)) if whole <= limit else None
            case "geometric_mask":
                mean = whole / len(log_ratios)
                return np.ones_like(log_ratios) if np.log(self.low) <= mean <= limit else None


def corrected(
    examples: Sequence[Example],
    behaviours: Sequence[Sequence[NDArray[np.float32] | None]],
    settings: CorrectionSettings,
) -> list[Example]:
    """Return the examples with the factors of their samples' tokens, without the samples that are left out.

    A sample that is left out is in no divisor of the loss. What it did to the advantages of the others stays.

    Args:
        examples: Samples with advantages and with log-probabilities when the round began.
        behaviours: For each example and sample, log μ of each token; None: the policy that the round begins with drew
            it, so its factor is 1.
        settings: The kind of correction.
    """
    found = []
    for example, own in zip(examples, behaviours, strict=True):
        credits = []
        for credit, behaviour in zip(example.credits, own, strict=True):
            assert credit.old_logps is not None, "they are computed before a correction"
            old = credit.old_logps.astype(np.float64)
            factors = np.ones_like(old) if behaviour is None else settings.factors(old - behaviour)
            credits.append(None if factors is None else replace(credit, correction=factors))
        places = [k for k, credit in enumerate(credits) if credit is not None]
        if places:
            kept = tuple(credit for credit in credits if credit is not None)
            found.append(replace(example.keeping(places), credits=kept))
    return found


def effective_share(examples: Sequence[Example]) -> float | None:
    """Return (Σ w)²/(n Σ w²) over samples, w the mean factor of a sample's tokens; None without corrections.

    It is the effective number of samples as a share of all: 1 if all count alike.
    """
    means = [c.correction.mean() for example in examples for c in example.credits if c.correction is not None]
    if not means:
        return None
    weights = np.array(means)
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))
