"""What a reward parameterisation is: a number per response, read off the policy's log-probabilities.

DPO's insight is that a policy is a reward model in disguise, r = β log π/π_ref up to a constant of the prompt. Other
methods read the reward off differently; each file beside this one holds one way.
"""

from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ResponseLogps


@runtime_checkable
class Reward(Protocol):
    """r_θ(x, y) of each response."""

    needs_reference: ClassVar[bool]
    """True where the reward compares the policy with a reference."""

    def __call__(self, responses: ResponseLogps) -> Float[Tensor, " N"]:
        """The reward of each response, float64, with gradient to the policy's token log-probabilities only."""
        ...
