"""The reward of a reward model: the output of a head on the response's last token."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, Responses, ResponseScores
from tiltlm.rewards.reward import Reward


@dataclass(frozen=True)
class Learned(Reward):
    """r(x, y) = w · h(x, y), h the hidden state of the response's last token. In units of the comparison's log-odds.

    Pairs determine it only up to a constant of the prompt.
    """

    needs_reference: ClassVar[bool] = False

    def __call__(self, responses: Responses, /) -> Float[Tensor, " N"]:
        """Return the scores, float64.

        Raises:
            ConfigError: The responses come from a policy, which has no scores.
        """
        if not isinstance(responses, ResponseScores):
            raise ConfigError(
                "reward `learned` reads the scores of a reward model, but this model is a policy; use a reward "
                "model, or another reward",
                code="needs_reward_model",
                key="objective",
            )
        return responses.scores if responses.scores.device.type == "mps" else responses.scores.double()
