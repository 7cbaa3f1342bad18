"""Shaping of scores: what a loop takes from the score of a sample for its length and its end, before anything reads it.

The score of the judge stays on the card of the round; examples are made from the shaped one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tiltlm.core.checks import not_negative, prefix_errors
from tiltlm.core.errors import ConfigError
from tiltlm.core.example import Response
from tiltlm.estimates.intervals import Floats


@dataclass(frozen=True)
class ShapingSettings:
    """What is taken from the scores of samples. At the defaults nothing is."""

    length_penalty: float = 0.0
    """Score that each token costs."""
    cut_penalty: float = 0.0
    """Score that a sample without an end token costs."""
    cut_reward: float | None = None
    """Score of a sample without an end token, whatever the judge says."""
    drop_cut: bool = False
    """Leave samples without an end token out, as if the judge had failed."""
    overlong_tokens: int = 0
    """Last tokens before sampling.max_new_tokens in which the score falls by 1, linearly (DAPO's soft penalty)."""
    highest: float | None = None
    """Scores above are set to this, so that an outlier of the judge is not worth reaching."""

    def __post_init__(self) -> None:
        with prefix_errors("shaping"):
            not_negative(
                length_penalty=self.length_penalty,
                cut_penalty=self.cut_penalty,
                overlong_tokens=float(self.overlong_tokens),
            )
        given = [name for name, on in self._of_cut.items() if on]
        if len(given) > 1:
            raise ConfigError(
                f"shaping has {' and '.join(given)}; each says what a sample without an end token gets: give one",
                code="conflict",
                key=f"shaping.{given[1]}",
            )

    @property
    def _of_cut(self) -> dict[str, bool]:
        return {
            "cut_penalty": self.cut_penalty > 0,
            "cut_reward": self.cut_reward is not None,
            "drop_cut": self.drop_cut,
        }

    @property
    def is_off(self) -> bool:
        """True if scores stay as they are."""
        return self == ShapingSettings()

    def apply(self, scores: Floats, responses: Sequence[Response], max_tokens: int) -> Floats:
        """Return the shaped scores; NaN where the score is missing or the sample is left out.

        Source: Yu et al. 2025, arXiv 2503.14476, eq. 13, for `overlong_tokens`.

        Args:
            scores: [K] of the judge.
            responses: The samples.
            max_tokens: Most tokens of a sample.
        """
        lengths = np.array([len(one.token_ids) for one in responses], dtype=np.float64)
        cut = np.array([not one.ended for one in responses])
        found = scores if self.highest is None else np.minimum(scores, self.highest)
        if self.cut_reward is not None:
            found = np.where(cut & np.isfinite(scores), self.cut_reward, found)
        found = found - self.length_penalty * lengths - self.cut_penalty * cut
        if self.overlong_tokens:
            over = (lengths - (max_tokens - self.overlong_tokens)) / self.overlong_tokens
            found = found - np.clip(over, 0.0, 1.0)
        return np.asarray(np.where(cut & self.drop_cut, np.nan, found))
