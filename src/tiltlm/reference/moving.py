"""The moving reference of trust-region DPO: a reference that follows the policy.

With a fixed reference the optimum is π_ref · exp(r/β). Every update moves the reference toward the policy, and training
continues from the new reference. With a fixed reference the policy would need a smaller β to move as far.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from tiltlm.distributed.wrapping import laid_out_as, local_part, reshard
from tiltlm.logprobs import PolicyModule
from tiltlm.reference.digests import model_digest
from tiltlm.reference.model import ModelReference
from tiltlm.reference.weights import Weights, swapped


class MovingReference(ModelReference):
    """A reference that starts as the policy and moves toward it after every `period` optimiser steps.

        θ_ref ← rate · θ + (1 − rate) · θ_ref

    Only trained weights are copied: all weights, or those of an adapter (its factors A and B are averaged, not their
    product). During a reference forward the copy replaces the policy's own weights. Nothing is stored, because every
    update makes stored log-probabilities wrong.

    Source: Gorbatovski et al. 2024, arXiv 2404.09656 (soft update; rate 1 is the hard update). The paper calls the rate
    α and the period τ.
    """

    moves = True

    def __init__(self, policy: PolicyModule, rate: float, period: int | None, max_tokens: int) -> None:
        """Copy the trained weights.

        Args:
            policy: The policy as loaded, before anything has trained.
            rate: Size of an update, in (0, 1]; 1 replaces the reference.
            period: Optimiser steps between two updates; skipped steps count. None: it moves only when `move` is called.
            max_tokens: As for `ModelReference`.
        """
        self._rate, self._period = rate, period
        self._frozen = {name: tensor.detach().clone() for name, tensor in _trained(policy).items()}
        weights = Weights(
            digest=f"{model_digest(policy)} moving({rate:g}, {period})",
            how=f"the policy before training, moved {rate:g} of the way to the policy "
            + ("at the start of each round" if period is None else f"after every {period} steps"),
            policy=policy,
            in_place=lambda: swapped(policy, _trained(policy), self._frozen),
            starts_as_policy=True,
        )
        super().__init__("moving", weights, None, max_tokens)

    @torch.no_grad()
    def after_step(self, step: int, weights: Iterable[tuple[str, Tensor]]) -> bool:
        """Move the reference toward the policy if `period` divides `step`; return True if it moved."""
        if self._period is None or step % self._period:
            return False
        self.move(weights)
        return True

    @torch.no_grad()
    def move(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Move the reference toward weights of the policy, by name."""
        for name, tensor in weights:
            frozen = self._frozen[name]
            local_part(frozen).lerp_(local_part(laid_out_as(tensor, frozen)), self._rate)

    def tensors(self) -> dict[str, Tensor]:
        """Return the reference's own weights. A checkpoint keeps them, and is read into them."""
        return self._frozen


def _trained(policy: PolicyModule) -> dict[str, Tensor]:
    """Return the trained parameters by name. The names are the same however the module is wrapped for several ranks."""
    reshard(policy)  # gathered weights of a sharded module are copies
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
