"""What a reward model returns: one learned number per response, where a policy returns log-probabilities.

The algebra is the same for both. Whatever part reads log-probabilities is told that there are none.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core.errors import ConfigError
from tiltlm.core.logps import ResponseLogps


@dataclass(frozen=True, eq=False)
class ResponseScores(ResponseLogps):
    """N responses with a score each, and no token of which anything is known (R = 0)."""

    scores: Float[Tensor, " N"] = field(kw_only=True)
    """r_θ(x, y), higher is better, in units of the reward; carries gradient."""

    @classmethod
    def of(cls, scores: Float[Tensor, " N"], num_tokens: Int[Tensor, " N"]) -> "ResponseScores":
        """Scores of responses of so many tokens."""
        no_tokens = torch.zeros(0, dtype=torch.long, device=scores.device)
        return cls(scores.detach().new_zeros(0), no_tokens, num_tokens, scores=scores)

    @property
    def seq_logps(self) -> Float[Tensor, " N"]:
        """Not known.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "this objective reads log-probabilities, and a reward model has none, only a score for each response; with "
            "reward `learned` give nothing but a link on the scores",
            code="needs_policy",
            key="objective",
        )
