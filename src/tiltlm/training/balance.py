"""The load-balancing loss of mixtures of experts, exact over a whole step.

    L_aux = mean over layers of  E · Σ_i f_i · P_i

Here f_i is the number of experts i that the tokens of the step chose, and P_i the mean router probability of expert i
(Switch Transformer, arXiv:2101.03961, equations 4 to 6, with k choices a token in place of one). L_aux is k if all
experts are used equally, and larger if the experts with high probability are also chosen more often. f has no gradient.
Given the f of the step, the loss is linear in P, so that the losses of the packs add up to it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import Responses


def routed(responses: Responses) -> Float[Tensor, "2 L E"]:
    """Return expert loads and summed router probabilities of a forward, without gradient; they add up over packs.

    They are float64, except on MPS devices, which have none.
    """
    loads, probabilities = responses.router_loads, responses.router_probabilities
    assert loads is not None
    assert probabilities is not None
    both = torch.stack((loads, probabilities)).detach()
    return both if both.device.type == "mps" else both.double()


@dataclass(frozen=True)
class Balance:
    """How the load-balancing loss of a step depends on the router probabilities of its packs."""

    slopes: Float[Tensor, "L E"]
    """∂L_aux / ∂ Σ_tokens p_i: E · f_i / (L · T) of the whole step."""
    loss: Float[Tensor, ""]
    """L_aux of the whole step, without gradient."""

    @classmethod
    def of(cls, step: Float[Tensor, "2 L E"]) -> "Balance":
        """Build it from the sum of `routed` over all packs of all processes."""
        loads, probabilities = step
        num_layers, num_experts = loads.shape
        num_tokens = probabilities.sum(-1, keepdim=True)
        slopes = num_experts * loads / (num_layers * num_tokens**2)
        return cls(slopes, (slopes * probabilities).sum())

    def share(self, responses: Responses) -> Float[Tensor, ""]:
        """Return a pack's part of L_aux, with gradient. The parts of all packs sum to L_aux."""
        assert responses.router_probabilities is not None
        return (self.slopes * responses.router_probabilities).sum()
