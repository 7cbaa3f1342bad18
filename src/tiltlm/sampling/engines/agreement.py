"""How far an engine's log-probabilities are from those of the policy itself, and from when on that is an error.

Small differences are other kernels and 16-bit numbers. Large ones mean that the engine has other weights than the
policy, or draws from another distribution than was asked for.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tiltlm.core.errors import RunError
from tiltlm.sampling.engines.engine import Floats32

log = logging.getLogger(__name__)

MEAN_WARNED = 0.02
"""Mean difference, nats a token, from which on there is a warning."""
MEAN_STOPPED = 0.1
"""Mean difference, nats a token, that is an error."""
FAR = 0.5
"""Difference of a token, in nats, that rounding does not explain."""
FAR_STOPPED = 0.01
"""Share of tokens with such a difference that is an error."""
STALE = 3.0
"""Scores that agree this many times better with older weights are of these."""
SAME = 1e-5
"""Mean difference, nats a token, that rounding of 32-bit numbers explains."""
CAUSES = (
    "The server may have other weights (an older round, the base without its adapter, another model), a quantised copy "
    "or another dtype, or a model file that changes the draw (start vLLM with --generation-config vllm)"
)


@dataclass(frozen=True)
class Agreement:
    """Differences |log-probability of the engine − that of the policy| over tokens."""

    mean: float
    """Nats a token."""
    max: float
    far: float
    """Share of tokens beyond 0.5 nats."""
    num_tokens: int

    @classmethod
    def of(cls, theirs: Sequence[Floats32], ours: Sequence[Floats32]) -> "Agreement":
        """Compare the log-probabilities of the same tokens."""
        differences = np.abs(np.concatenate(theirs).astype(np.float64) - np.concatenate(ours).astype(np.float64))
        return cls(
            float(differences.mean()), float(differences.max()), float((differences > FAR).mean()), len(differences)
        )

    @property
    def is_wrong(self) -> bool:
        """True if no rounding explains it."""
        return not (self.mean <= MEAN_STOPPED and self.far <= FAR_STOPPED)

    def check(self, what: str, name: str, way_out: str) -> None:
        """Refuse a difference that no rounding explains, and warn of a large one.

        Args:
            what: What was compared, for the message.
            name: Name of the engine.
            way_out: What to do, after the causes.

        Raises:
            RunError: The difference is too large.
        """
        said = (
            f"engine {name}: {what}, its log-probabilities differ from those of the policy by {self.mean:.2g} nats a "
            f"token on average (at most {self.max:.2g}; {self.far:.1%} of {self.num_tokens} tokens by more than {FAR})"
        )
        if self.is_wrong:
            raise RunError(
                f"{said}; allowed are {MEAN_STOPPED} and {FAR_STOPPED:.0%}. {CAUSES}. {way_out}",
                code="other_weights",
                key="engine.name",
            )
        if self.mean > MEAN_WARNED:
            extra = {"event": "engine_differs", **asdict(self)}
            log.warning("%s; other kernels and 16-bit numbers may explain that much, not more", said, extra=extra)


def check_not_stale(
    theirs: Sequence[Floats32], now: Agreement, older: Mapping[str, Sequence[Floats32]], name: str, way_out: str
) -> None:
    """Refuse scores that agree better with older weights than with those of now.

    One round often changes log-probabilities by less than rounding does. So scores of older weights are compared too:
    rounding is much the same for both, and the weights that the engine has agree best.

    Args:
        theirs: The engine's scores of the probe.
        now: How they agree with the policy.
        older: Name of older weights → the policy's scores under these.
        name: Name of the engine.
        way_out: What to do.

    Raises:
        RunError: The engine has older weights.
    """
    for weights, scores in older.items():
        before = Agreement.of(theirs, scores)
        if now.mean > max(STALE * before.mean, SAME):
            raise RunError(
                f"engine {name}: it has the weights of {weights}, not those of now: on the probe its log-probabilities "
                f"differ from those by {before.mean:.2g} nats a token, and from the policy's by {now.mean:.2g}. "
                f"{way_out}",
                code="stale_weights",
                key="engine.sync",
            )
