"""The load-balancing loss of mixtures of experts, exact over a whole step.

    L_aux = mean over layers of  E · Σ_i f_i · P_i

with f_i the number of experts i that the tokens of the step chose, and P_i their mean router probability (Switch
Transformer, arXiv:2101.03961, equations 4 to 6, with k choices a token in place of one): k where all experts are used
alike, and more where those that are preferred are also chosen. f carries no gradient, so that given the f of the step
the loss is linear in P and packs add up to it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ResponseLogps


def routed(responses: ResponseLogps) -> Float[Tensor, "2 L E"]:
    """Loads and probabilities of a forward, without gradient, float64 where there is any: they add up over packs."""
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
        """From the `routed` of all packs of all processes."""
        loads, probabilities = step
        num_layers, num_experts = loads.shape
        num_tokens = probabilities.sum(-1, keepdim=True)
        slopes = num_experts * loads / (num_layers * num_tokens**2)
        return cls(slopes, (slopes * probabilities).sum())

    def share(self, responses: ResponseLogps) -> Float[Tensor, ""]:
        """A pack's part of L_aux, with gradient; the parts of all packs sum to it."""
        assert responses.router_probabilities is not None
        return (self.slopes * responses.router_probabilities).sum()
