"""The value head of a critic: a linear layer on the states that predict the tokens."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ValueHead(nn.Module):
    """One number per state: the return that a critic expects from the next token on. It begins at 0."""

    def __init__(self, width: int, shares_body: bool, device: torch.device) -> None:
        """Make the layer.

        Args:
            width: Numbers of a state.
            shares_body: Let the gradient of the values reach the policy's own layers.
            device: Where it lies.
        """
        super().__init__()
        self.shares_body = shares_body
        self.linear = nn.Linear(width, 1, device=device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Float[Tensor, "R D"]) -> Float[Tensor, " R"]:
        """Return the value of each state, float32."""
        own = states if self.shares_body else states.detach()
        with torch.autocast(states.device.type, enabled=False):
            values = cast(Tensor, self.linear(own.to(self.linear.weight.dtype)))
        return values[:, 0].clone()  # FSDP hooks the output, and warns of a view
