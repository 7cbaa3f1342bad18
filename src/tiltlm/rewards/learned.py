"""The reward of a reward model: a number of its own, learned by a head on the response's last token."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, ResponseLogps, ResponseScores


@dataclass(frozen=True)
class Learned:
    """r(x, y) = w · h(x, y), h the hidden state of the response's last token. In units of the comparison's log-odds.

    With pairs alone it is determined up to a constant of the prompt.
    """

    needs_reference: ClassVar[bool] = False

    def __call__(self, responses: ResponseLogps) -> Float[Tensor, " N"]:
        """The scores, float64.

        Raises:
            ConfigError: the responses come from a policy, which has none.
        """
        if not isinstance(responses, ResponseScores):
            raise ConfigError(
                "reward `learned` is the score of a reward model, and this model is a policy",
                code="needs_reward_model",
                key="objective",
            )
        return responses.scores if responses.scores.device.type == "mps" else responses.scores.double()
