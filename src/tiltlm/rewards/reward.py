"""`Reward`, the base of reward parameterisations: one number per response, from the policy's log-probabilities.

DPO's insight is that a policy defines a reward, r = β log π/π_ref up to a constant of the prompt. Other methods define
it differently. Each module in this folder holds one definition.
"""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Responses


class Reward(ABC):
    """r_θ(x, y) of each response. Subclasses are frozen dataclasses and final."""

    @property
    @abstractmethod
    def needs_reference(self) -> bool:
        """True if the reward compares the policy with a reference."""

    @abstractmethod
    def __call__(self, responses: Responses, /) -> Float[Tensor, " N"]:
        """Return the reward of each response, float64, with gradient to the policy's token log-probabilities only."""
