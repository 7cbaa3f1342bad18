"""`ResponseScores`: one learned number per response, as a reward model returns it, and the union `Responses`."""

from dataclasses import dataclass, fields
from typing import Any, final

from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core.errors import ConfigError
from tiltlm.core.logps import ResponseLogps


@final
@dataclass(frozen=True, eq=False)
class ResponseScores:
    """N responses with a score each. Their log-probabilities are not known: reading one raises a `ConfigError`."""

    scores: Float[Tensor, " N"]
    """r_θ(x, y), higher is better, in units of the reward; carries gradient."""
    num_tokens: Int[Tensor, " N"]
    """Scored tokens of each response, at least 1."""

    def __getattr__(self, name: str) -> Any:
        """Raise an error that explains why a number of `ResponseLogps` is missing; called for missing names only."""
        if name in _OF_A_POLICY:
            raise ConfigError(
                f"this objective reads log-probabilities ({name}), and a reward model has only a score for each "
                "response; with reward `learned`, use only a link on the scores",
                code="needs_policy",
                key="objective",
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)


_OF_A_POLICY = {f.name for f in fields(ResponseLogps)} | {n for n in vars(ResponseLogps) if not n.startswith("_")}

Responses = ResponseLogps | ResponseScores
"""N responses as objectives, the trainer and the metrics read them: from a policy, or from a reward model.

Both have `num_tokens`. Reading any other number of `ResponseLogps` from `ResponseScores` raises a `ConfigError`.
"""
